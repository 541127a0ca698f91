//! A handler takes a `Request`, and answers with a `Result` of something that serialises.

use mlx_nats::{Client, Request, Result};

struct NotSerialised;

async fn start(client: Client) -> Result<()> {
    let _payload_alone = client.serve("lab.a", |name: String| async move { Ok(name) }).await?;
    let _no_result = client.serve("lab.b", |name: Request<String>| async move { name.payload }).await?;
    let _no_json = client.serve("lab.c", |_: Request<String>| async move { Ok(NotSerialised) }).await?;
    Ok(())
}

fn main() {}
