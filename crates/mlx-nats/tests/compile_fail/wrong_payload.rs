//! A subject of the contract takes its own payload, and no other.

use mlx_types::messages::HealthCheck;
use mlx_types::subjects;

async fn publish(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    client.publish(&subjects::WORKER_HEARTBEAT, &HealthCheck::new()).await
}

fn main() {}
