//! The parts of the hot path, one by one, without a server: `cargo bench -p mlx-bench`.
//!
//! A log line and the loading of a configuration have benchmarks of their own, in mlx-log and mlx-config.
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]
#![allow(missing_docs, reason = "criterion's macros make a public function")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mlx_types::messages::{InferenceRequest, Message, StreamingResponse, WorkerHeartbeat, WorkerMetrics, WorkerStatus};
use mlx_types::{RequestId, Subject, WorkerId, subjects};

/// The very file of mlx-nats, which keeps it to itself.
#[path = "../../crates/mlx-nats/src/stream/assembly.rs"]
#[allow(dead_code, unreachable_pub, reason = "made for its own crate")]
mod assembly;

/// Tokens of a stream.
const TOKENS: u64 = 256;

fn heartbeat() -> WorkerHeartbeat {
    let metrics = WorkerMetrics::default()
        .cpu_usage_percent(42.5)
        .memory_used_gb(61.25)
        .gpu_utilization_percent(87.5)
        .active_requests(3)
        .total_requests_handled(1_234_567)
        .avg_latency_ms(182.75)
        .models_loaded(vec!["llama-3-8b-instruct".to_owned(), "mistral-7b-v0.3".to_owned()]);
    WorkerHeartbeat::new(WorkerId::new(), WorkerStatus::Online, metrics)
}

fn token(request_id: RequestId, index: u64) -> StreamingResponse {
    StreamingResponse::Token { request_id, token: format!(" t{index:03}"), index }
}

fn tokens(request_id: RequestId, index: u64, count: u64) -> StreamingResponse {
    let tokens = (index..index + count).map(|index| format!(" t{index:03}")).collect();
    StreamingResponse::Tokens { request_id, tokens, index }
}

fn codec(criterion: &mut Criterion) {
    let request_id = RequestId::new();
    message(criterion, "heartbeat", &heartbeat());
    message(criterion, "inference request", &InferenceRequest::new("llama-3", "Tell me about NATS"));
    message(criterion, "token", &token(request_id, 1));
    message(criterion, "16 tokens", &tokens(request_id, 1, 16));
}

fn message<M: Message>(criterion: &mut Criterion, name: &str, message: &M) {
    let json = serde_json::to_vec(message).unwrap();
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(json.len() as u64));
    group.bench_function("encode", |bencher| bencher.iter(|| serde_json::to_vec(black_box(message)).unwrap()));
    group.bench_function("decode", |bencher| bencher.iter(|| serde_json::from_slice::<M>(black_box(&json)).unwrap()));
    group.bench_function("check", |bencher| bencher.iter(|| black_box(message).check().unwrap()));
    group.finish();
}

fn subject_building(criterion: &mut Criterion) {
    let (worker, request) = (WorkerId::new(), RequestId::new());
    let mut group = criterion.benchmark_group("subject");
    group.bench_function("worker.{id}.inference", |bencher| {
        bencher.iter(|| subjects::worker_inference(black_box(worker)));
    });
    group.bench_function("response.{id}", |bencher| bencher.iter(|| subjects::response(black_box(request))));
    group.bench_function("of text", |bencher| {
        bencher.iter(|| Subject::<WorkerHeartbeat>::new(black_box("lab.heartbeat.of-mine")).unwrap());
    });
    group.bench_function("parse", |bencher| {
        let subject = subjects::worker_cancel(worker);
        bencher.iter(|| subjects::parse(black_box(subject.as_str())).unwrap());
    });
    group.finish();
}

fn reassembly(criterion: &mut Criterion) {
    let request_id = RequestId::new();
    let mut group = criterion.benchmark_group("reassembly of 256 tokens");
    group.throughput(Throughput::Elements(TOKENS));
    for size in [1, 16] {
        let frames: Vec<_> = (0..TOKENS)
            .step_by(size)
            .map(|index| if size == 1 { token(request_id, index) } else { tokens(request_id, index, size as u64) })
            .collect();
        group.bench_function(format!("{size} a frame"), |bencher| {
            let assemble = |frames: Vec<StreamingResponse>| {
                let mut assembly = assembly::Assembly::default();
                for frame in frames {
                    black_box(assembly.accept(frame));
                }
                assembly.received()
            };
            bencher.iter_batched(|| frames.clone(), assemble, BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, codec, subject_building, reassembly);
criterion_main!(benches);
