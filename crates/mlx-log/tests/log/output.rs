//! L4: what a slow or failing output does, and does not do, to the log.

use std::fs;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use mlx_errors::ErrorCode;
use mlx_log::{Format, LogConfig, Setup};

use crate::support::{Captured, DEADLINE};

/// A writer that blocks until it is opened.
#[derive(Clone, Default)]
struct Gate {
    open: Arc<(Mutex<bool>, Condvar)>,
    behind: Captured,
}

impl Gate {
    fn open(&self) {
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let closed = self.open.0.lock().unwrap();
        drop(self.open.1.wait_while(closed, |open| !*open).unwrap());
        self.behind.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn l4_what_a_blocked_writer_loses_is_counted_and_said_where_it_is_missing() {
    const LINES: u64 = 5_000;
    let long = ".".repeat(2_000);
    let gate = Gate::default();
    let setup = Setup::new(&LogConfig::default()).buffer_bytes(16 * 1024).writer(gate.clone());
    let (dispatch, guard) = setup.build().unwrap();
    let handle = guard.handle();
    tracing::dispatcher::with_default(&dispatch, || {
        for index in 0..LINES {
            // A short line would still fit where a long one did not, and must not jump the gap.
            let padding = if index % 2 == 0 { "" } else { &long };
            tracing::info!(index, "a line that nobody takes{padding}");
        }
        let error = handle.flush(Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Log);
        assert!(error.to_string().contains("the output is blocked"), "{error}");
        let lost = handle.lost();
        assert!(lost > LINES / 2, "{lost}");

        gate.open();
        handle.flush(DEADLINE).unwrap();
        assert_eq!(handle.lost(), lost, "nothing is lost once the writer is taking lines again");
        tracing::info!(index = LINES, "after");
        handle.flush(DEADLINE).unwrap();
    });

    let mut next = 0;
    let mut said = 0;
    for line in gate.behind.json() {
        let context = &line["context"];
        if line["component"] == "log" {
            assert_eq!(line["level"], "warn");
            let lost = context["lost"].as_u64().unwrap();
            said += lost;
            assert_eq!(context["lostTotal"], said);
            assert!(line["message"].as_str().unwrap().starts_with(&format!("log lines lost here: {lost};")), "{line}");
            next += lost;
        } else {
            assert_eq!(context["index"], next, "a gap stands where it is said");
            next += 1;
        }
    }
    assert_eq!(next, LINES + 1);
    assert_eq!(said, handle.lost());
}

#[test]
fn l4_a_line_longer_than_the_queue_is_written() {
    let captured = Captured::default();
    let setup = Setup::new(&LogConfig::default().format(Format::Text)).buffer_bytes(100);
    let (dispatch, guard) = setup.writer(captured.clone()).build().unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info!("{}", "x".repeat(100_000));
        guard.handle().flush(DEADLINE).unwrap();
        tracing::info!("and the next");
    });
    drop(guard);
    assert!(captured.text().ends_with("and the next\n") && captured.text().len() > 100_000);
}

/// A writer that behaves as badly as one may.
#[derive(Clone, Default)]
struct Unreliable {
    behind: Captured,
    failing: Arc<Mutex<Option<&'static str>>>,
    calls: u64,
}

impl Write for Unreliable {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let failing = *self.failing.lock().unwrap();
        match failing {
            Some("panic") => panic!("a writer that panics"),
            Some("zero") => return Ok(0),
            Some(other) => return Err(io::Error::other(other)),
            None => {}
        }
        self.calls += 1;
        match self.calls % 4 {
            0 => Err(io::ErrorKind::Interrupted.into()),
            1 => Err(io::ErrorKind::WouldBlock.into()),
            _ => self.behind.write(bytes.get(..7).unwrap_or(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn l4_nothing_is_lost_by_an_output_that_fails_for_a_while() {
    let writer = Unreliable::default();
    let (dispatch, guard) = Setup::new(&LogConfig::default()).writer(writer.clone()).build().unwrap();
    let handle = guard.handle();
    tracing::dispatcher::with_default(&dispatch, || {
        for (index, failure) in ["disk full", "panic", "zero"].into_iter().enumerate() {
            *writer.failing.lock().unwrap() = Some(failure);
            tracing::info!(index, "kept");
            let error = handle.flush(DEADLINE).unwrap_err().to_string();
            assert!(error.contains("lines not written: 1; the output fails"), "{error}");
            *writer.failing.lock().unwrap() = None;
            // A flush reports a moment's refusal too, and may be asked for again.
            let start = Instant::now();
            while handle.flush(DEADLINE).is_err() {
                assert!(start.elapsed() < DEADLINE);
            }
        }
    });
    drop(guard);
    let indexes: Vec<_> = writer.behind.json().iter().map(|line| line["context"]["index"].clone()).collect();
    assert_eq!(indexes, [0, 1, 2]);
    assert_eq!(handle.lost(), 0);
}

#[test]
fn l4_an_output_that_fails_to_the_end_does_not_hold_the_process_up() {
    let writer = Unreliable::default();
    *writer.failing.lock().unwrap() = Some("disk full");
    let (dispatch, guard) = Setup::new(&LogConfig::default()).writer(writer.clone()).build().unwrap();
    let handle = guard.handle();
    tracing::dispatcher::with_default(&dispatch, || tracing::error!("never written"));
    let start = Instant::now();
    drop(guard);
    let error = handle.flush(DEADLINE).unwrap_err().to_string();
    assert!(error.contains("lines not written: 1; the output fails: disk full"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(4), "it did not wait its whole time");
    assert_eq!(writer.behind.text(), "");
}

#[test]
fn l4_lines_after_the_guard_are_written_at_once() {
    let captured = Captured::default();
    let (dispatch, guard) = Setup::new(&LogConfig::default()).writer(captured.clone()).build().unwrap();
    let handle = guard.handle();
    tracing::dispatcher::with_default(&dispatch, || {
        tracing::info!("before");
        drop(guard);
        tracing::info!("after");
        assert_eq!(captured.json().len(), 2, "no flush was needed");
        handle.flush(DEADLINE).unwrap();
    });
}

#[test]
fn l4_an_error_is_written_without_waiting_for_more() {
    let captured = Captured::default();
    let (dispatch, guard) = Setup::new(&LogConfig::default()).writer(captured.clone()).build().unwrap();
    tracing::dispatcher::with_default(&dispatch, || tracing::error!("now"));
    let start = Instant::now();
    while captured.text().is_empty() {
        assert!(start.elapsed() < DEADLINE);
        std::thread::yield_now();
    }
    drop(guard);
}

#[test]
fn l4_a_file_that_is_rotated_by_renaming_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mlx.log");
    let old = folder.path().join("mlx.log.1");
    let config = LogConfig::default().file(file.clone());
    let (dispatch, guard) = Setup::new(&config).build().unwrap();
    let handle = guard.handle();
    let mut logged = 0_u64;
    tracing::dispatcher::with_default(&dispatch, || {
        let mut log = || {
            tracing::info!(index = logged, "a line");
            handle.flush(DEADLINE).unwrap();
            logged += 1;
        };
        log();
        fs::rename(&file, &old).unwrap();
        let start = Instant::now();
        while !file.exists() {
            assert!(start.elapsed() < DEADLINE, "the file is not opened anew");
            log();
            std::thread::yield_now();
        }
        log();
        // Rotation by copying and truncating: the file goes on at its start, without a hole.
        fs::copy(&file, folder.path().join("mlx.log.2")).unwrap();
        fs::write(&file, "").unwrap();
        log();
    });
    drop(guard);
    let mut indexes = Vec::new();
    for name in ["mlx.log.1", "mlx.log.2", "mlx.log"] {
        for line in fs::read_to_string(folder.path().join(name)).unwrap().lines() {
            let line: serde_json::Value = serde_json::from_str(line).expect(line);
            indexes.push(line["context"]["index"].as_u64().unwrap());
        }
    }
    assert_eq!(indexes, (0..logged).collect::<Vec<_>>(), "no line is lost, none is torn");
}

#[test]
fn l1_after_a_process_that_ended_within_a_line_the_next_one_begins_a_new_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mlx.log");
    let config = LogConfig::default().file(file.clone());
    for before in ["", "{\"whole\":1}\n", "{\"whole\":1}\n{\"torn\":"] {
        fs::write(&file, before).unwrap();
        let (dispatch, guard) = Setup::new(&config).build().unwrap();
        tracing::dispatcher::with_default(&dispatch, || tracing::info!("a line"));
        drop(guard);
        let text = fs::read_to_string(&file).unwrap();
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).expect(&text);
        assert_eq!(last["message"], "a line");
        assert_eq!(text.lines().count(), before.lines().count() + 1, "{text}");
    }
}
