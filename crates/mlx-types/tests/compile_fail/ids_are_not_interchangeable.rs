use mlx_types::{RequestId, subjects};

fn main() {
    let _ = subjects::worker_cancel(RequestId::new());
}
