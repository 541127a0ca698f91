//! Loading the default file: time, and what it allocates.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group};
use mlx_config::Loader;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

fn loader(file: &str) -> Loader {
    Loader::new().file(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config").join(file)).without_env()
}

fn broken() -> Loader {
    Loader::new().text("cluster.yaml", "nats:\n  embedded:\n    prot: 1\n    httpPort: 80\nmode: dual\n").without_env()
}

fn load(c: &mut Criterion) {
    let mut group = c.benchmark_group("load");
    for file in ["cluster.yaml", "cluster.example.yaml"] {
        let loader = loader(file);
        group.bench_function(file, |b| b.iter(|| black_box(loader.load())));
    }
    let broken = broken();
    group.bench_function("a file with three errors", |b| b.iter(|| black_box(broken.load())));
    group.finish();
}

/// Counted apart from the timing, which the counting would slow down.
fn count_allocations() {
    for (name, loader) in
        [("cluster.yaml", loader("cluster.yaml")), ("cluster.example.yaml", loader("cluster.example.yaml"))]
    {
        // What is made once (the key table) is not part of a load.
        drop(loader.load());
        let profiler = dhat::Profiler::builder().testing().build();
        drop(black_box(loader.load()));
        let stats = dhat::HeapStats::get();
        println!(
            "load/{name}: {} allocations, {} bytes in all, {} at the most",
            stats.total_blocks, stats.total_bytes, stats.max_bytes
        );
        drop(profiler);
    }
}

criterion_group!(benches, load);

fn main() {
    count_allocations();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
