use mlx_types::messages::InferenceCancel;
use mlx_types::{Subject, WorkerId, subjects};

fn main() {
    let _: Subject<InferenceCancel> = subjects::worker_inference(WorkerId::new());
}
