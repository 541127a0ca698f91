use mlx_types::messages::{HealthReport, Message, ModelCommand};
use mlx_types::{RequestSubject, subjects};

fn request<Q: Message, R: Message>(_: &RequestSubject<Q, R>, _: &Q) -> R {
    unimplemented!() // never run: this file must not compile
}

fn main() {
    let _: HealthReport = request(&subjects::MODEL_LOAD, &ModelCommand::new("llama-3"));
}
