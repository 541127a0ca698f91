use mlx_types::messages::{HealthCheck, Message};
use mlx_types::{Subject, subjects};

fn publish<M: Message>(_: &Subject<M>, _: &M) {}

fn main() {
    publish(&subjects::WORKER_HEARTBEAT, &HealthCheck::new());
}
