//! Services, and who finds them.

use mlx_errors::ErrorKind;
use mlx_nats::{ClientOptions, Discovery, Request};
use mlx_tests::{LIMIT, TestServer};
use serde_json::{Value, json};

use super::peer::Peer;

#[tokio::test]
async fn nats_py_finds_our_services_beside_its_own() {
    let server = TestServer::start().await;
    let discovery = Discovery::new("mlx-worker", "1.2.3").unwrap().describe("for tests");
    let options = ClientOptions::default().discovery(discovery);
    let client = server.client_with(options).await;
    let service = client.serve("lab.echo", |text: Request<String>| async move { Ok(text.payload) }).await.unwrap();
    let micro = Peer::start(&server, "micro", &[]).await;
    let mut finder = Peer::start(&server, "discover", &[]).await;

    let both = find(&mut finder, "$SRV.PING", 2).await;
    let mut names: Vec<_> = both.iter().map(|found| found["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["halver", "mlx-worker"]);

    let info = find(&mut finder, "$SRV.INFO.mlx-worker", 1).await.remove(0);
    let endpoints = json!([{ "name": "lab-echo", "subject": "lab.echo", "queue_group": "", "metadata": {} }]);
    assert_eq!((&info["type"], &info["endpoints"]), (&json!("io.nats.micro.v1.info_response"), &endpoints));
    assert_eq!((&info["version"], &info["description"]), (&json!("1.2.3"), &json!("for tests")));

    let one = format!("$SRV.STATS.mlx-worker.{}", info["id"].as_str().unwrap());
    let stats = find(&mut finder, &one, 1).await.remove(0);
    assert_eq!(stats["type"], "io.nats.micro.v1.stats_response");
    assert_eq!((&stats["endpoints"][0]["num_requests"], &stats["endpoints"][0]["last_error"]), (&json!(0), &json!("")));
    micro.leave().await;
    finder.leave().await;
    service.stop(LIMIT).await.unwrap();
}

async fn find(finder: &mut Peer, subject: &str, count: usize) -> Vec<Value> {
    finder.tell(json!({ "subject": subject, "count": count })).await;
    finder.hears().await["found"].as_array().unwrap().clone()
}

#[tokio::test]
async fn nats_py_serves_as_a_nats_service_and_its_errors_are_typed_here() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let micro = Peer::start(&server, "micro", &[]).await;
    let half: u64 = client.request("lab.half", &8).await.unwrap();
    assert_eq!(half, 4);
    let error = client.request::<_, _, u64>("lab.half", &7).await.unwrap_err();
    let ErrorKind::Remote(remote) = error.kind() else { panic!("{error:?}") };
    assert_eq!((remote.message(), remote.code()), ("an odd number", "REMOTE_ERROR"));
    micro.leave().await;
}
