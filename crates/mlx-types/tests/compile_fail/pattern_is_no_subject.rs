use mlx_types::messages::Message;
use mlx_types::{Subject, subjects};

fn publish<M: Message>(_: &Subject<M>) {}

fn main() {
    publish(&subjects::ANY_WORKER_CANCEL);
}
