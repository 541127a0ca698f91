//! L3: the level changes while the log runs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use mlx_errors::ErrorCode;
use mlx_log::{Level, LogConfig, Setup};

use crate::support::TestLog;

#[test]
fn l3_the_level_changes_under_load_both_ways() {
    let log = TestLog::new(Setup::new(&LogConfig::default()).buffer_bytes(64 * 1024 * 1024));
    let handle = log.guard.handle();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                log.run(|| {
                    while !stop.load(Ordering::Relaxed) {
                        tracing::info!("load");
                        tracing::debug!("load");
                        thread::yield_now();
                    }
                });
            });
        }
        log.run(|| {
            for round in 0..200_u64 {
                let levels = [Level::Error, Level::Debug, Level::Warn, Level::Info];
                handle.set_level(levels[usize::try_from(round).unwrap() % 4]);
                tracing::error!(round, marker = "error");
                tracing::warn!(round, marker = "warn");
                tracing::info!(round, marker = "info");
                tracing::debug!(round, marker = "debug");
            }
        });
        stop.store(true, Ordering::Relaxed);
    });
    let mut seen: Vec<Vec<String>> = vec![Vec::new(); 200];
    for line in log.flushed().json() {
        if let Some(marker) = line["context"]["marker"].as_str() {
            let round = usize::try_from(line["context"]["round"].as_u64().unwrap()).unwrap();
            assert_eq!(line["level"], marker);
            seen[round].push(marker.to_owned());
        }
    }
    for (round, markers) in seen.iter().enumerate() {
        let expected: &[&str] = match round % 4 {
            0 => &["error"],
            1 => &["error", "warn", "info", "debug"],
            2 => &["error", "warn"],
            _ => &["error", "warn", "info"],
        };
        assert_eq!(markers, expected, "round {round}");
    }
    assert_eq!(handle.lost(), 0);
}

#[test]
fn l3_directives_change_too_and_wrong_ones_leave_the_log_as_it_is() {
    let log = TestLog::new(Setup::new(&LogConfig::default()));
    let handle = log.guard.handle();
    let here = module_path!();
    log.run(|| {
        tracing::debug!("1");
        handle.set_directives(&format!("{here}=debug"), Level::Error).unwrap();
        tracing::debug!("2");
        tracing::warn!(target: "elsewhere", "3");
        handle.set_level(Level::Warn);
        tracing::debug!("4");
        tracing::warn!(target: "elsewhere", "5");
        let error = handle.set_directives("loud", Level::Error).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Log);
        tracing::debug!("6");
        handle.set_directives("off", Level::Error).unwrap();
        tracing::error!("7");
    });
    let messages: Vec<String> =
        log.flushed().json().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect();
    assert_eq!(messages, ["2", "4", "5", "6"]);
    assert!(format!("{:?}", log.guard).contains("off"), "{:?}", log.guard);
}
