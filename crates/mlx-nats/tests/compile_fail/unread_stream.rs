//! A stream that is dropped at once cancels its request.
#![deny(unused_must_use)]

use mlx_types::WorkerId;
use mlx_types::messages::InferenceRequest;

async fn ask(client: mlx_nats::Client, worker: WorkerId) -> mlx_nats::Result<()> {
    client.infer(worker, &InferenceRequest::new("m", "p")).await?;
    client.subscribe::<_, String>("lab.test").await?;
    Ok(())
}

fn main() {}
