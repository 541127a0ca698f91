use mlx_types::messages::Message;
use mlx_types::{Subject, subjects};

fn subscribe<M: Message>(_: &Subject<M>) {}

fn main() {
    subscribe(&subjects::HEALTH_CHECK);
}
