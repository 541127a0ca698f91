//! A worker of somebody else's before our gateway: it knows tokens and no more, or sends what is none.

use futures_util::StreamExt;
use mlx_types::WorkerId;
use mlx_types::messages::{ModelSkills, WorkerRegistration};
use mlx_types::subjects;
use serde_json::{Value, json};

use crate::support::{Home, QUICK, curl, json_of};

const CONTROLLER: &str = "mode: controller\nnats: { embedded: { port: 0, httpPort: 0 } }\n";

/// Answers each request with the frames that `frames` makes of it.
async fn serve(bus: &str, frames: impl Fn(&Value) -> Vec<Value> + Send + 'static) -> tokio::task::JoinHandle<()> {
    let client = async_nats::connect(bus).await.unwrap();
    let id = WorkerId::new();
    let mut requests = client.subscribe(subjects::worker_inference(id).to_string()).await.unwrap();
    let local = std::net::Ipv4Addr::LOCALHOST.into();
    let registration = WorkerRegistration::new(id, "foreign", local, 8080, ModelSkills::new(["m"]));
    let registration = serde_json::to_vec(&registration).unwrap();
    client.publish("worker.register", registration.into()).await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let request: Value = serde_json::from_slice(&message.payload).unwrap();
            let subject = format!("response.{}", request["requestId"].as_str().unwrap());
            for frame in frames(&request) {
                client.publish(subject.clone(), frame.to_string().into()).await.unwrap();
            }
        }
    })
}

async fn asked(gateway: &str, members: &Value) -> (u16, Value) {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }] });
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    let url = format!("http://{gateway}/v1/chat/completions");
    let (status, answer) = curl(&["--json", &body.to_string(), &url]).await;
    (status, json_of(&answer))
}

#[tokio::test]
async fn r1_a_worker_that_knows_no_more_than_tokens_is_asked_for_no_more() {
    let home = Home::with(&format!("{CONTROLLER}{QUICK}"));
    let controller = home.run(&["--listen", "127.0.0.1:0"]);
    let gateway = controller.gateway().await;
    let worker = serve(&controller.bus().await.to_string(), |request| {
        let id = &request["requestId"];
        let text = format!("{} {}", request["prompt"].as_str().unwrap(), request["messages"][0]["content"]);
        let token = json!({ "requestId": id, "type": "token", "token": text, "index": 0 });
        vec![token, json!({ "requestId": id, "type": "done", "totalTokens": 0, "latencyMs": 1 })]
    })
    .await;
    // `stop` is looked for by the gateway as well, so that any worker will do.
    let answer = mlx_tests::eventually_async("an answer", async || {
        let (status, answer) = asked(&gateway, &json!({ "stop": ["nobody says this"], "user": "u", "n": 1 })).await;
        (status == 200).then_some(answer)
    })
    .await;
    let said = &answer["choices"][0]["message"]["content"];
    assert_eq!(said, "user: hi\nassistant: \"hi\"", "the chat in both forms");
    let (status, answer) = asked(&gateway, &json!({ "seed": 7 })).await;
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("seed")), "{answer}");
    worker.abort();
    assert_eq!(controller.end("-INT").await, Some(0));
}

#[tokio::test]
async fn what_is_no_frame_is_the_workers_fault_and_not_the_clients() {
    let home = Home::with(&format!("{CONTROLLER}{QUICK}"));
    let controller = home.run(&["--listen", "127.0.0.1:0"]);
    let gateway = controller.gateway().await;
    let worker = serve(&controller.bus().await.to_string(), |request| {
        vec![json!({ "requestId": request["requestId"], "type": "token", "token": 7, "index": 0 })]
    })
    .await;
    let (status, answer) = mlx_tests::eventually_async("the worker", async || {
        let (status, answer) = asked(&gateway, &json!({})).await;
        (answer["error"]["code"] != "no_workers").then_some((status, answer))
    })
    .await;
    assert_eq!((status, &answer["error"]["code"]), (502, &json!("MESSAGE_DECODE_ERROR")), "{answer}");
    assert!(answer["error"]["type"] == "server_error", "{answer}");
    worker.abort();
    assert_eq!(controller.end("-INT").await, Some(0));
}
