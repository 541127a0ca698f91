//! From `start` to the first round trip, against nats-server started by hand: on a bare command line, without any
//! credentials; and with the settings and the credentials that ours has.
//!
//! `cargo bench -p mlx-embedded`. The server by hand is watched by connecting to its port without a pause, which is as
//! early as anyone can know. The ratios are of medians over rounds taken in turns.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a benchmark may panic")]

#[path = "../tests/support/bare.rs"]
mod bare;

use std::time::Duration;

use bare::Medians;
use criterion::Criterion;
use mlx_types::Secret;
use mlx_types::config::NatsConfig;
use tokio::runtime::Runtime;

/// Rounds for a ratio.
const ROUNDS: usize = 100;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let runtime = Runtime::new().unwrap();
    let mut config = NatsConfig::default();
    config.embedded.port = 0;
    config.embedded.http_port = 0;

    let mut group = criterion.benchmark_group("start to first round trip");
    group.sample_size(30).measurement_time(Duration::from_secs(5));
    group.bench_function("nats-server by hand", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| bare::bare_start()).sum());
    });
    group.bench_function("EmbeddedServer", |bencher| {
        bencher.iter_custom(|rounds| (0..rounds).map(|_| runtime.block_on(bare::embedded_start(&config))).sum());
    });
    group.finish();
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }

    println!();
    ratio(&runtime, "as configured by default", &config);
    config.user = Some("worker".to_owned());
    config.password = Some(Secret::from("secret"));
    ratio(&runtime, "with a user and a password", &config);
}

fn ratio(runtime: &Runtime, what: &str, config: &NatsConfig) {
    let Medians { bare, bare_alike, embedded } = runtime.block_on(bare::medians(config, ROUNDS));
    let over = |reference: Duration| embedded.as_secs_f64() / reference.as_secs_f64();
    println!("{what}: EmbeddedServer {embedded:.1?}");
    println!("  {:.2} times nats-server by hand ({bare:.1?})", over(bare));
    println!("  {:.2} times nats-server by hand with the same settings ({bare_alike:.1?})", over(bare_alike));
}
