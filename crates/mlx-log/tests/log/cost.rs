//! What an event costs in allocations; time is for the benchmark.

use allocation_counter::measure;
use mlx_log::{LogConfig, Setup};

use crate::support::TestLog;

fn events() {
    let subject = "worker.heartbeat";
    for index in 0..100_u64 {
        tracing::debug!(subject, index, ratio = 0.5, shown = %index, "a heartbeat from {subject}");
    }
}

#[test]
fn a_disabled_event_allocates_nothing() {
    let log = TestLog::new(Setup::new(&LogConfig::default()));
    log.run(|| {
        events();
        assert_eq!(measure(events).count_total, 0);
    });
    assert_eq!(log.flushed().text(), "");
}

#[test]
fn an_enabled_event_allocates_nothing_once_the_buffers_have_grown() {
    let log = TestLog::new(Setup::new(&LogConfig::default()).directives("debug"));
    log.run(|| {
        let _span = tracing::info_span!("request", component = "nats", request = 7).entered();
        // The queue and the writer swap two buffers, and how the lines fall into batches decides when both have grown.
        let rounds = (0..100).take_while(|_| {
            log.flushed();
            measure(events).count_total > 0
        });
        assert!(rounds.count() < 100, "every round allocates");
    });
    assert!(log.flushed().json().len() >= 100);
}
