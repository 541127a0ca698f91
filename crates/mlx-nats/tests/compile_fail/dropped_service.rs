//! A service that nobody keeps has ended before its first request.
#![deny(unused_must_use)]

async fn start(client: mlx_nats::Client) -> mlx_nats::Result<()> {
    client.serve("lab.greet", |name: mlx_nats::Request<String>| async move { Ok(format!("hello {}", *name)) }).await?;
    Ok(())
}

fn main() {}
