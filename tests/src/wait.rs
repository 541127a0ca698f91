//! Waiting for what should happen, with a deadline, and never for time to pass.

use std::future::Future;
use std::time::{Duration, Instant};

/// Far longer than anything here takes, even on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(20);

/// How long to wait before a condition is looked at again.
const INTERVAL: Duration = Duration::from_millis(10);

/// The value of `future`, which has to come within [`LIMIT`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {LIMIT:?}"),
    }
}

/// Everything that a client which is not ours has sent so far is with the server, its subscriptions among it; its flush knows
/// only that the socket has it.
pub async fn arrived(client: &async_nats::Client) {
    let inbox = client.new_inbox();
    let mut back = client.subscribe(inbox.clone()).await.expect("a connected client");
    client.publish(inbox, "".into()).await.expect("a connected client");
    within("a round trip", futures_util::StreamExt::next(&mut back)).await.expect("a connected client");
}

/// Looks at `condition` until it holds, for [`LIMIT`] at the most.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not become true within {LIMIT:?}");
        tokio::time::sleep(INTERVAL).await; // between two looks at something that cannot wake us
    }
}

/// The value that `attempt` gives in the end, tried again and again, for three times [`LIMIT`] at the most.
pub async fn eventually_async<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let limit = 3 * LIMIT;
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = attempt().await {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {limit:?}");
        tokio::time::sleep(INTERVAL).await; // between two attempts
    }
}
