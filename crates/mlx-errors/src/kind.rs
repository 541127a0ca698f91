//! What can go wrong, with the fields that a program or a person needs to act on it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::words::{and_hint, indented, listed, no_worker, places, retry_advice, timed_out};
use crate::{ApplicationError, ErrorCode, RemoteError, Violations, redact};

/// What went wrong. The cause, where there is one, is on the [`Error`](crate::Error) around it.
///
/// Serialises to its fields alone; the JSON form of a whole error is that of [`Error`](crate::Error).
///
/// ```
/// use mlx_errors::{Error, ErrorKind};
///
/// fn advice(error: &Error) -> String {
///     match error.kind() {
///         ErrorKind::NoResponders { subject } => format!("start a worker that serves {subject}"),
///         ErrorKind::Overloaded { limit } => format!("all {limit} places are taken: try again"),
///         _ if error.is_retryable() => "try again".to_owned(),
///         _ => error.code().remedy().to_owned(), // what a person can do, for every code
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error, serde::Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum ErrorKind {
    /// No connection could be made.
    #[error("cannot connect to {server}: {step} failed{}", and_hint(.hint))]
    Connection {
        /// The server tried, without credentials.
        server: String,
        /// How far the attempt got.
        step: ConnectStep,
        /// What to try, where something is known; empty otherwise.
        hint: String,
    },
    /// The server refused the credentials.
    #[error("{server} refused the credentials{}", and_hint(.hint))]
    Authentication {
        /// The server, without credentials.
        server: String,
        /// What to check; empty where nothing is known.
        hint: String,
    },
    /// No reply arrived in time.
    #[error("{}", timed_out(.subject, *.timeout))]
    Timeout {
        /// The subject asked, or what was waited for.
        subject: String,
        /// How long was waited.
        #[serde(rename = "timeoutMs", serialize_with = "as_millis")]
        timeout: Duration,
    },
    /// A message could not be published.
    #[error("cannot publish on `{subject}`: {reason}")]
    Publish {
        /// The subject published to.
        subject: String,
        /// Why not.
        reason: String,
    },
    /// A subscription could not be made, or ended with an error.
    #[error("cannot subscribe to `{subject}`: {reason}")]
    Subscription {
        /// The subject subscribed to.
        subject: String,
        /// Why not.
        reason: String,
    },
    /// Nobody listens on the subject.
    #[error("nobody listens on `{subject}`")]
    NoResponders {
        /// The subject asked.
        subject: String,
    },
    /// A payload is over the server's limit; nothing was sent.
    #[error("a payload of {size} bytes for `{subject}` is over the server's limit of {limit} bytes")]
    PayloadTooLarge {
        /// The subject it was meant for.
        subject: String,
        /// Bytes of the payload, headers included.
        size: usize,
        /// Bytes that the server accepts.
        limit: usize,
    },
    /// The connection is down, or dropped during the call.
    #[error("not connected to NATS: {during}")]
    Disconnected {
        /// What was being done, for example ``publish on `worker.heartbeat` ``.
        during: String,
    },
    /// The client is closed for good.
    #[error("the NATS client is closed: {reason}")]
    Closed {
        /// Why it closed.
        reason: String,
    },
    /// A subject is not valid.
    #[error("`{subject}` is not a valid subject: {reason}")]
    InvalidSubject {
        /// The text offered, control characters escaped.
        subject: String,
        /// The rule it breaks.
        reason: String,
    },
    /// A header is not valid.
    #[error("`{name}` is not a valid header: {reason}")]
    InvalidHeader {
        /// Its name, control characters escaped.
        name: String,
        /// The rule that it, or its value, breaks.
        reason: String,
    },
    /// A request with this id is being answered already.
    #[error("request {request} is being answered already")]
    DuplicateRequest {
        /// The request's id.
        request: String,
    },
    /// Another worker has the same id, and began later.
    #[error("another worker with the id {worker} has begun since; this one takes no more requests")]
    DuplicateWorker {
        /// The id.
        worker: String,
    },
    /// A peer answered with an error.
    #[error("{0}")]
    Remote(RemoteError),
    /// A handler failed with an error of the application's own.
    #[error("{0}")]
    Application(ApplicationError),
    /// No worker has the model.
    #[error("{}", no_worker(.model, .known))]
    NoWorker {
        /// The model asked for.
        model: String,
        /// The models that there are.
        known: Vec<String>,
    },
    /// Nobody with the model accepts all that the request has.
    #[error("no worker of the model `{model}` accepts {}, which the request has", listed(.lacking))]
    Unsupported {
        /// The model asked for.
        model: String,
        /// What the request has, in the words of the workers' capabilities.
        lacking: Vec<String>,
    },
    /// The request breaks whom it is asked of.
    #[error("the request broke {workers} workers, or their engines, before its first token: it is not asked again")]
    Poisonous {
        /// How many it broke.
        workers: u32,
    },
    /// No room for another request.
    #[error("overloaded: {limit} requests are already under way")]
    Overloaded {
        /// How many run at once at the most.
        limit: usize,
    },
    /// The deadline had passed.
    #[error("the deadline of the request on `{subject}` has passed")]
    DeadlineExceeded {
        /// The subject of the request.
        subject: String,
    },
    /// A message is not the JSON that its subject carries.
    #[error("cannot decode a message on `{subject}`: {violations}")]
    Decode {
        /// The subject it came on.
        subject: String,
        /// Where and why.
        violations: Violations,
    },
    /// A message decodes, but breaks a rule.
    #[error("an invalid message for `{subject}`: {violations}")]
    Validation {
        /// The subject it came on, or was meant for.
        subject: String,
        /// The rules broken.
        violations: Violations,
    },
    /// A frame of a token stream is missing.
    #[error("the token stream has a gap: expected index {expected}, got {got}")]
    StreamGap {
        /// The index that should have come.
        expected: u64,
        /// The index that came.
        got: u64,
    },
    /// The first token did not come in time.
    #[error("no first token within {} ms", .timeout.as_millis())]
    FirstTokenTimeout {
        /// How long was waited.
        #[serde(rename = "timeoutMs", serialize_with = "as_millis")]
        timeout: Duration,
    },
    /// The stream fell silent.
    #[error("no further token within {} ms, after {tokens} tokens", .timeout.as_millis())]
    InterTokenTimeout {
        /// How long was waited.
        #[serde(rename = "timeoutMs", serialize_with = "as_millis")]
        timeout: Duration,
        /// Tokens received before the silence.
        tokens: u64,
    },
    /// The connection dropped during a token stream, and frames may have been missed.
    #[error("the connection dropped after {tokens} tokens of the stream{}", retry_advice(*.tokens))]
    StreamDisconnected {
        /// Tokens received before.
        tokens: u64,
    },
    /// The requester cancelled the stream.
    #[error("the token stream was cancelled after {tokens} tokens")]
    Cancelled {
        /// Tokens received before.
        tokens: u64,
    },
    /// The worker serving the request is gone.
    #[error("worker {worker} was lost after {tokens} tokens{}", retry_advice(*.tokens))]
    WorkerLost {
        /// The worker's id.
        worker: String,
        /// Tokens received before.
        tokens: u64,
    },
    /// JetStream is not there, or refused what was asked of it.
    #[error("JetStream cannot {action}: {reason}{}", and_hint(.hint))]
    JetStream {
        /// What was asked of it, for example ``keep a request on `inference.queue.m` ``.
        action: String,
        /// Why not.
        reason: String,
        /// What to try, where something is known; empty otherwise.
        hint: String,
    },
    /// A durable request with this id was asked before, and waits no longer.
    #[error(
        "request {request} was asked before: it was taken by a worker, cancelled or given up, and is not run again under this id"
    )]
    RequestTaken {
        /// The request's id.
        request: String,
    },
    /// A durable request was given up.
    #[error("the request is given up after {deliveries} deliveries: {reason}; it is kept on `{subject}`")]
    RequestDead {
        /// Where the dead letter is.
        subject: String,
        /// How often it was handed to a worker.
        deliveries: u64,
        /// Why it is given up.
        reason: String,
    },
    /// The receiver was too slow.
    #[error("the subscription to `{subject}` was too slow: {dropped} messages dropped so far")]
    SlowConsumer {
        /// The subject subscribed to.
        subject: String,
        /// Messages dropped since the subscription was made. Of a token stream: tokens missing, one at the least.
        dropped: u64,
    },
    /// A configuration file could not be read.
    #[error("cannot read the configuration file {}{}", .path.display(), and_hint(.hint))]
    ConfigRead {
        /// The file.
        #[serde(serialize_with = "crate::json::lossy_path")]
        path: PathBuf,
        /// What to try; empty where nothing is known.
        hint: String,
    },
    /// A configuration file is not well-formed YAML.
    #[error("the configuration is not well-formed YAML: {violations}")]
    ConfigSyntax {
        /// Where and why.
        violations: Violations,
    },
    /// A configuration breaks rules.
    #[error("the configuration is not valid: {violations}")]
    ConfigValidation {
        /// The rules broken, in the order of the file.
        violations: Violations,
    },
    /// The embedded server failed in a way that nothing finer names.
    #[error("the embedded NATS server failed: {reason}")]
    EmbeddedServer {
        /// What failed.
        reason: String,
    },
    /// No nats-server was found.
    #[error("no usable nats-server was found; tried {}{}", places(.tried), and_hint(.hint))]
    ServerNotFound {
        /// Every place tried, and what was wrong there.
        tried: Vec<TriedPath>,
        /// How to install one here.
        hint: String,
    },
    /// The nats-server found is too old.
    #[error("nats-server {found} at {} is too old: {needed} or newer is needed", .path.display())]
    ServerVersion {
        /// The binary.
        #[serde(serialize_with = "crate::json::lossy_path")]
        path: PathBuf,
        /// Its version.
        found: String,
        /// The oldest version that will do.
        needed: String,
    },
    /// The embedded server did not start.
    #[error("the embedded NATS server did not start: {reason}{}", indented(.last_lines))]
    ServerStart {
        /// What is known of the reason, with the setting to change where there is one.
        reason: String,
        /// How the process ended, where it did.
        exit: Option<String>,
        /// Its last lines on standard error.
        last_lines: Vec<String>,
    },
    /// The embedded server crashed too often.
    #[error("the embedded NATS server is given up after {restarts} restarts: {reason}{}", indented(.last_lines))]
    ServerFailed {
        /// Restarts within the window.
        restarts: u32,
        /// How it ended the last time.
        reason: String,
        /// Its last lines on standard error.
        last_lines: Vec<String>,
    },
    /// Nothing can listen at the address.
    #[error("cannot listen on {address}{}", and_hint(.hint))]
    Listen {
        /// The address and the port.
        address: String,
        /// The setting to change.
        hint: String,
    },
    /// Logging could not be set up.
    #[error("cannot set up logging: {reason}")]
    Log {
        /// Why not.
        reason: String,
    },
    /// A defect in this software.
    #[error("internal error: {reason}")]
    Internal {
        /// What happened, for the log; a peer is told only that there was an internal error.
        reason: String,
    },
}

impl ErrorKind {
    /// The stable code of this kind.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Connection { .. } => ErrorCode::NatsConnection,
            Self::Authentication { .. } => ErrorCode::NatsAuthentication,
            Self::Timeout { .. } => ErrorCode::NatsTimeout,
            Self::Publish { .. } => ErrorCode::NatsPublish,
            Self::Subscription { .. } => ErrorCode::NatsSubscription,
            Self::NoResponders { .. } => ErrorCode::NatsNoResponders,
            Self::PayloadTooLarge { .. } => ErrorCode::NatsPayloadTooLarge,
            Self::Disconnected { .. } => ErrorCode::NatsDisconnected,
            Self::Closed { .. } => ErrorCode::NatsClosed,
            Self::InvalidSubject { .. } => ErrorCode::SubjectInvalid,
            Self::InvalidHeader { .. } => ErrorCode::HeaderInvalid,
            Self::DuplicateRequest { .. } => ErrorCode::RequestDuplicate,
            Self::DuplicateWorker { .. } => ErrorCode::WorkerDuplicate,
            Self::Remote(remote) => remote.known_code(),
            Self::Application(_) => ErrorCode::Application,
            Self::NoWorker { .. } => ErrorCode::NoWorker,
            Self::Unsupported { .. } => ErrorCode::RequestUnsupported,
            Self::Poisonous { .. } => ErrorCode::RequestPoisonous,
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::DeadlineExceeded { .. } => ErrorCode::DeadlineExceeded,
            Self::Decode { .. } => ErrorCode::MessageDecode,
            Self::Validation { .. } => ErrorCode::MessageValidation,
            Self::StreamGap { .. } => ErrorCode::StreamGap,
            Self::FirstTokenTimeout { .. } => ErrorCode::StreamFirstTokenTimeout,
            Self::InterTokenTimeout { .. } => ErrorCode::StreamInterTokenTimeout,
            Self::StreamDisconnected { .. } => ErrorCode::StreamDisconnected,
            Self::Cancelled { .. } => ErrorCode::StreamCancelled,
            Self::WorkerLost { .. } => ErrorCode::WorkerLost,
            Self::JetStream { .. } => ErrorCode::NatsJetStream,
            Self::RequestTaken { .. } => ErrorCode::RequestTaken,
            Self::RequestDead { .. } => ErrorCode::RequestDead,
            Self::SlowConsumer { .. } => ErrorCode::SlowConsumer,
            Self::ConfigRead { .. } => ErrorCode::ConfigRead,
            Self::ConfigSyntax { .. } => ErrorCode::ConfigSyntax,
            Self::ConfigValidation { .. } => ErrorCode::ConfigValidation,
            Self::EmbeddedServer { .. } => ErrorCode::EmbeddedServer,
            Self::ServerNotFound { .. } => ErrorCode::EmbeddedServerNotFound,
            Self::ServerVersion { .. } => ErrorCode::EmbeddedServerVersion,
            Self::ServerStart { .. } => ErrorCode::EmbeddedServerStart,
            Self::ServerFailed { .. } => ErrorCode::EmbeddedServerFailed,
            Self::Listen { .. } => ErrorCode::Listen,
            Self::Log { .. } => ErrorCode::Log,
            Self::Internal { .. } => ErrorCode::Internal,
        }
    }

    /// The kind's own name, for example `Timeout`: finer than the code only for what a peer sent, which is `Remote`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connection { .. } => "Connection",
            Self::Authentication { .. } => "Authentication",
            Self::Timeout { .. } => "Timeout",
            Self::Publish { .. } => "Publish",
            Self::Subscription { .. } => "Subscription",
            Self::NoResponders { .. } => "NoResponders",
            Self::PayloadTooLarge { .. } => "PayloadTooLarge",
            Self::Disconnected { .. } => "Disconnected",
            Self::Closed { .. } => "Closed",
            Self::InvalidSubject { .. } => "InvalidSubject",
            Self::InvalidHeader { .. } => "InvalidHeader",
            Self::DuplicateRequest { .. } => "DuplicateRequest",
            Self::DuplicateWorker { .. } => "DuplicateWorker",
            Self::Remote(_) => "Remote",
            Self::Application(_) => "Application",
            Self::NoWorker { .. } => "NoWorker",
            Self::Unsupported { .. } => "Unsupported",
            Self::Poisonous { .. } => "Poisonous",
            Self::Overloaded { .. } => "Overloaded",
            Self::DeadlineExceeded { .. } => "DeadlineExceeded",
            Self::Decode { .. } => "Decode",
            Self::Validation { .. } => "Validation",
            Self::StreamGap { .. } => "StreamGap",
            Self::FirstTokenTimeout { .. } => "FirstTokenTimeout",
            Self::InterTokenTimeout { .. } => "InterTokenTimeout",
            Self::StreamDisconnected { .. } => "StreamDisconnected",
            Self::Cancelled { .. } => "Cancelled",
            Self::WorkerLost { .. } => "WorkerLost",
            Self::JetStream { .. } => "JetStream",
            Self::RequestTaken { .. } => "RequestTaken",
            Self::RequestDead { .. } => "RequestDead",
            Self::SlowConsumer { .. } => "SlowConsumer",
            Self::ConfigRead { .. } => "ConfigRead",
            Self::ConfigSyntax { .. } => "ConfigSyntax",
            Self::ConfigValidation { .. } => "ConfigValidation",
            Self::EmbeddedServer { .. } => "EmbeddedServer",
            Self::ServerNotFound { .. } => "ServerNotFound",
            Self::ServerVersion { .. } => "ServerVersion",
            Self::ServerStart { .. } => "ServerStart",
            Self::ServerFailed { .. } => "ServerFailed",
            Self::Listen { .. } => "Listen",
            Self::Log { .. } => "Log",
            Self::Internal { .. } => "Internal",
        }
    }

    /// The rules broken, for the kinds that tell of a document or a message.
    pub fn violations(&self) -> Option<&Violations> {
        match self {
            Self::Decode { violations, .. }
            | Self::Validation { violations, .. }
            | Self::ConfigSyntax { violations }
            | Self::ConfigValidation { violations } => Some(violations),
            _ => None,
        }
    }

    /// Whether making the same call again may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::WorkerLost { tokens, .. } | Self::StreamDisconnected { tokens } => *tokens == 0,
            Self::Remote(remote) => remote.is_retryable(),
            Self::Application(error) => error.is_retryable(),
            _ => self.code().is_retryable(),
        }
    }

    /// What a peer may be told of it.
    pub fn to_remote(&self) -> RemoteError {
        let message = match self {
            Self::Remote(remote) => return remote.clone(),
            Self::Application(error) => return error.into(),
            Self::Internal { .. } => "internal error".to_owned(),
            // Public: these tell of the request, and of nothing else.
            Self::Timeout { .. }
            | Self::Publish { .. }
            | Self::Subscription { .. }
            | Self::NoResponders { .. }
            | Self::PayloadTooLarge { .. }
            | Self::Disconnected { .. }
            | Self::Closed { .. }
            | Self::InvalidSubject { .. }
            | Self::InvalidHeader { .. }
            | Self::DuplicateRequest { .. }
            | Self::DuplicateWorker { .. }
            | Self::NoWorker { .. }
            | Self::Unsupported { .. }
            | Self::Poisonous { .. }
            | Self::Overloaded { .. }
            | Self::DeadlineExceeded { .. }
            | Self::Decode { .. }
            | Self::Validation { .. }
            | Self::StreamGap { .. }
            | Self::FirstTokenTimeout { .. }
            | Self::InterTokenTimeout { .. }
            | Self::StreamDisconnected { .. }
            | Self::Cancelled { .. }
            | Self::WorkerLost { .. }
            | Self::JetStream { .. }
            | Self::RequestTaken { .. }
            | Self::RequestDead { .. }
            | Self::SlowConsumer { .. } => redact(&self.to_string()).into_owned(),
            // What tells of this machine (addresses, paths, process output) is nobody else's business; and so is, until it is
            // listed above, whatever comes new.
            _ => self.code().description().trim_end_matches('.').to_owned(),
        };
        RemoteError::new(message, self.code())
    }
}

/// How far an attempt to connect got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ConnectStep {
    /// Turning the host name into an address.
    Resolve,
    /// Opening the TCP connection and reading the server's greeting.
    Connect,
    /// The TLS handshake.
    Tls,
    /// Presenting the credentials.
    Authenticate,
}

impl fmt::Display for ConnectStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolving the host name",
            Self::Connect => "opening the connection",
            Self::Tls => "the TLS handshake",
            Self::Authenticate => "authentication",
        })
    }
}

/// A place where something was looked for, and what was wrong there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct TriedPath {
    /// The file or the place, for example a path or `PATH`.
    #[serde(serialize_with = "crate::json::lossy_path")]
    pub path: PathBuf,
    /// What was wrong, for example `not found`.
    pub problem: String,
}

impl TriedPath {
    /// A place, and what was wrong there.
    pub fn new(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }
}

impl fmt::Display for TriedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path.display(), self.problem)
    }
}

/// Milliseconds as a whole number; a wait of half a billion years is as good as one without end.
fn as_millis<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
