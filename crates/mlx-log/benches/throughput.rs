//! Events a second, against `tracing-subscriber`'s own JSON formatter with the same fields to the same sink.
//!
//! `cargo bench -p mlx-log`. Both are given the same sinks: one that takes everything at once, which leaves the cost
//! of making a line and handing it over, and a file. Ours includes the flush that writes the last line; the other
//! writes as it goes, and once through `tracing-appender`'s non-blocking writer (which is told to lose nothing).

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(missing_docs, reason = "criterion's macros make a public function")]

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use mlx_log::{LogConfig, Setup};
use tracing::Dispatch;
use tracing_appender::non_blocking::NonBlockingBuilder;

/// Long before the queue of 8 MiB is full: a lost line costs next to nothing, and would flatter us.
const FLUSH_EVERY: u64 = 10_000;

fn plain(index: u64) {
    tracing::info!(subject = "worker.heartbeat", index, latency_ms = 0.25, retry = false, worker = %index, "published");
}

fn in_spans(index: u64) {
    let _connection = tracing::info_span!("connection", server = "nats://127.0.0.1:4222", attempt = 1).entered();
    let _request = tracing::info_span!("request", request = index, model = "llama-3-8b").entered();
    plain(index);
}

/// A sink that takes everything at once.
struct Nowhere;

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        black_box(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn throughput(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bench.log");
    for (name, event) in [("event", plain as fn(u64)), ("event in two spans", in_spans)] {
        let mut group = criterion.benchmark_group(format!("{name}, no sink"));
        measure(&mut group, event, || Nowhere);
        group.finish();
        let mut group = criterion.benchmark_group(format!("{name}, file"));
        measure(&mut group, event, || open(&path));
        group.finish();
    }
    disabled(criterion);
}

fn measure<W: Write + Send + 'static>(group: &mut BenchmarkGroup<'_, WallTime>, event: fn(u64), sink: impl Fn() -> W) {
    group.throughput(Throughput::Elements(1));
    group.bench_function("mlx-log", |bencher| {
        bencher.iter_custom(|events| {
            let (dispatch, guard) = Setup::new(&LogConfig::default()).writer(sink()).build().unwrap();
            let handle = guard.handle();
            let elapsed = time(&dispatch, events, event, || handle.flush(Duration::from_mins(1)).unwrap());
            assert_eq!(handle.lost(), 0, "a benchmark that loses lines measures nothing");
            elapsed
        });
    });
    group.bench_function("tracing-subscriber json", |bencher| {
        bencher.iter_custom(|events| {
            let subscriber = tracing_subscriber::fmt().json().with_writer(Mutex::new(sink())).finish();
            time(&Dispatch::new(subscriber), events, event, || {})
        });
    });
    group.bench_function("tracing-subscriber json, non-blocking", |bencher| {
        bencher.iter_custom(|events| {
            let (writer, guard) = NonBlockingBuilder::default().lossy(false).finish(sink());
            let subscriber = tracing_subscriber::fmt().json().with_writer(writer).finish();
            let elapsed = time(&Dispatch::new(subscriber), events, event, || {});
            let start = Instant::now();
            drop(guard);
            elapsed + start.elapsed()
        });
    });
}

fn time(dispatch: &Dispatch, events: u64, event: fn(u64), flush: impl Fn()) -> Duration {
    tracing::dispatcher::with_default(dispatch, || {
        let start = Instant::now();
        for index in 0..events {
            event(index);
            if index % FLUSH_EVERY == FLUSH_EVERY - 1 {
                flush();
            }
        }
        flush();
        start.elapsed()
    })
}

fn disabled(criterion: &mut Criterion) {
    let (dispatch, guard) = Setup::new(&LogConfig::default()).directives("warn").writer(Nowhere).build().unwrap();
    let mut group = criterion.benchmark_group("disabled event");
    group.throughput(Throughput::Elements(1));
    group.bench_function("mlx-log", |bencher| {
        bencher.iter_custom(|events| time(&dispatch, events, plain, || {}));
    });
    group.finish();
    drop(guard);
}

fn open(path: &std::path::Path) -> File {
    OpenOptions::new().create(true).write(true).truncate(true).open(path).unwrap()
}

criterion_group!(benches, throughput);
criterion_main!(benches);
