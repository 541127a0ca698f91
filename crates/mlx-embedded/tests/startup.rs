//! How long a start takes, with a wide margin; `cargo bench -p mlx-embedded` measures it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/bare.rs"]
mod bare;
mod support;

use std::time::Duration;

use bare::Medians;
use mlx_types::Secret;

#[tokio::test]
async fn m9_a_start_takes_little_more_than_the_servers_own() {
    let mut config = support::any_port();
    config.user = Some("worker".to_owned());
    config.password = Some(Secret::from("secret"));
    let Medians { bare, bare_alike, embedded } = bare::medians(&config, 7).await;
    // On a busy machine a thread more may wait for its turn; and a hash without optimisation takes many times as long.
    let wide = Duration::from_millis(250);
    assert!(embedded < bare * 3 + wide, "{embedded:?} against {bare:?}");
    assert!(embedded < bare_alike * 3 + wide, "{embedded:?} against {bare_alike:?} with the same settings");
}
