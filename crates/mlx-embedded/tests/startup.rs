//! How long a start takes, with a wide margin; `cargo bench -p mlx-embedded` measures it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/bare.rs"]
mod bare;
mod support;

use std::time::Duration;

#[tokio::test]
async fn m9_a_start_takes_little_more_than_the_servers_own() {
    let (by_hand, ours) = bare::medians(&support::any_port(), 7).await;
    // On a busy machine a thread more may wait for its turn.
    assert!(ours < by_hand * 3 + Duration::from_millis(50), "{ours:?} against {by_hand:?}");
}
