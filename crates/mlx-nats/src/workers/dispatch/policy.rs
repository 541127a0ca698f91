//! What an error says: of the request, whether another worker may answer it, and of the worker, whether it fails.

use mlx_errors::{Error, ErrorCode, ErrorKind};

use super::breaker::Outcome;

/// What a TypeScript worker says when it has no room, and of anything else.
const WORKER_ERROR: &str = "WORKER_ERROR";

/// What a TypeScript worker says when it has no room.
const WORKER_OVERLOADED: &str = "WORKER_OVERLOADED";

/// The code by which a worker says that its engine broke while it had the request, before the first token. Another worker may be
/// asked; of a request for which two have said so, none is.
pub const ENGINE_BROKEN: &str = "ENGINE_BROKEN";

/// Whether the worker, or its engine, broke while it had the request.
pub(super) fn broke(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::WorkerLost { .. } => true,
        ErrorKind::Remote(remote) => remote.code() == ENGINE_BROKEN,
        _ => false,
    }
}

/// Whether the worker refused for want of room: the request was not begun, and the worker is well.
pub(super) fn is_full(error: &Error) -> bool {
    let own = match error.kind() {
        ErrorKind::Remote(remote) => remote.code() == WORKER_OVERLOADED,
        _ => false,
    };
    own || error.code() == ErrorCode::Overloaded
}

/// Whether a request that has had no token may be asked of another worker. `also` are codes for which the configuration says so.
pub(super) fn may_go_elsewhere(error: &Error, also: &[String]) -> bool {
    // Our own connection: no other worker is nearer.
    if matches!(error.kind(), ErrorKind::Disconnected { .. } | ErrorKind::Closed { .. }) {
        return false;
    }
    let code = match error.kind() {
        ErrorKind::Remote(remote) => remote.code(),
        _ => error.code().as_str(),
    };
    error.is_retryable() || code == WORKER_ERROR || also.iter().any(|also| also == code)
}

/// What the end of a request says of its worker.
pub(super) fn outcome(error: Option<&Error>) -> Outcome {
    let Some(error) = error else { return Outcome::Succeeded };
    match error.code() {
        // A refusal, a mistake of the client's, or its wish.
        ErrorCode::Overloaded
        | ErrorCode::StreamCancelled
        | ErrorCode::RequestDuplicate
        | ErrorCode::WorkerDuplicate
        | ErrorCode::DeadlineExceeded
        | ErrorCode::SlowConsumer
        | ErrorCode::NatsDisconnected
        | ErrorCode::NatsClosed => Outcome::Neutral,
        // Of codes that are not ours only those count that say that asking elsewhere may help: others are the answer.
        ErrorCode::Remote if !error.is_retryable() => Outcome::Neutral,
        code if code.http_status() < 500 => Outcome::Neutral,
        _ => Outcome::Failed,
    }
}
