//! A call that is not awaited does nothing.
#![deny(unused_must_use)]

fn publish(client: mlx_nats::Client) {
    client.publish("lab.test", "hello");
}

async fn flush(client: mlx_nats::Client) {
    client.flush(std::time::Duration::from_secs(1));
}

fn main() {}
