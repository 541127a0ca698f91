//! Workers and servers that die.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use mlx_errors::ErrorCode;
use mlx_tests::{LIMIT, within};
use mlx_types::messages::{FinishReason, InferenceRequest};
use serde_json::{Value, json};

use crate::support::{CONSUMER, Server, drain, echo, indexes, queued, request, serve, taken};

#[tokio::test]
async fn s4_a_worker_that_dies_before_its_first_token_is_followed_by_another() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut victim = server.worker(&["--preparation-ms", "3600000"]);
    let stream = client.infer_durable(&indexes(3)).await.unwrap();
    let mut seen = client.subscribe(&format!("response.{}", stream.request_id())).await.unwrap();
    taken(&client, "indexes", 1).await;
    victim.kill();
    let other = server.worker(&[]);
    assert_eq!(drain(stream).await.text(), "012");
    let first: mlx_nats::Received<Value> = within("a frame", seen.next()).await.unwrap().unwrap();
    assert_eq!(first.header("Mlx-Attempt"), Some("2"), "a second run says so");
    queued(&client, 0).await;
    other.stop().await;
}

#[tokio::test]
async fn s4_a_worker_that_dies_after_its_first_token_is_lost_and_not_followed() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut victim = server.worker(&["--pause-ms", "50"]);
    let mut stream = client.infer_durable(&indexes(100_000)).await.unwrap();
    let first = within("the first token", stream.next()).await.unwrap().unwrap();
    assert_eq!((first.index, stream.worker_id()), (0, Some(victim.id())));
    queued(&client, 0).await;
    victim.kill();
    let other = server.worker(&[]);
    let error = within("the loss", async {
        loop {
            match stream.next().await.unwrap() {
                Ok(frame) => assert_eq!(frame.text, frame.index.to_string()),
                Err(error) => return error,
            }
        }
    })
    .await;
    assert_eq!(error.code(), ErrorCode::WorkerLost, "{error}");
    assert!(!error.is_retryable());
    // Whatever was to come again would come before what is asked now.
    assert_eq!(drain(client.infer_durable(&indexes(1)).await.unwrap()).await.text(), "0");
    queued(&client, 0).await;
    other.stop().await;
}

#[tokio::test]
async fn a_worker_that_prepares_for_long_keeps_its_request() {
    let server = Server::start().await;
    let (client, worker) = (server.client().await, server.client().await);
    // Several times the wait for a silent worker, which is 500 ms.
    let _slow = serve(&worker, |_, mut tokens| async move {
        tokio::time::sleep(Duration::from_secs(2)).await; // the model's own time
        tokens.send("slow").await?;
        Ok(FinishReason::Stop)
    })
    .await;
    let stream = client.infer_durable(&request("p")).await.unwrap();
    taken(&client, CONSUMER, 1).await;
    let (_other, runs) = echo(&client).await;
    assert_eq!(drain(stream).await.text(), "slow");
    assert_eq!(runs.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_server_killed_with_requests_in_its_queue_loses_none() {
    const REQUESTS: usize = 50;
    let server = Server::start().await;
    let client = server.client().await;
    let requests: Vec<InferenceRequest> = (0..REQUESTS).map(|index| request(&format!("request {index}"))).collect();
    let mut streams = Vec::new();
    for request in &requests {
        streams.push(client.infer_durable(request).await.unwrap());
    }
    queued(&client, REQUESTS as u64).await;

    let pid = i32::try_from(server.server.embedded().pid().unwrap()).unwrap();
    let status = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success());
    for stream in streams {
        let error = drain(stream).await.error.unwrap();
        assert_eq!(error.code(), ErrorCode::StreamDisconnected);
        assert!(error.is_retryable());
    }
    client.wait_connected(LIMIT).await.unwrap();
    // Asked again under the same ids, they are the requests that the server kept.
    let mut streams = Vec::new();
    for request in &requests {
        streams.push(client.infer_durable(request).await.unwrap());
    }
    queued(&client, REQUESTS as u64).await;
    let (_service, runs) = echo(&client).await;
    let answers = join_all(streams.into_iter().map(drain)).await;
    for (request, answer) in requests.iter().zip(answers) {
        assert_eq!(answer.text(), request.prompt);
    }
    assert_eq!(runs.load(std::sync::atomic::Ordering::Relaxed), REQUESTS);
    queued(&client, 0).await;
}

#[tokio::test]
async fn a_worker_goes_on_pulling_after_its_server_died() {
    let server = Server::start().await;
    let client = server.client().await;
    let (_service, _) = echo(&client).await;
    drain(client.infer_durable(&request("before")).await.unwrap()).await.text();
    let pid = server.server.embedded().pid().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    client.watch_state().wait_for(|state| !state.is_connected()).await.unwrap();
    client.wait_connected(LIMIT).await.unwrap();
    let answer = drain(client.infer_durable(&request("after")).await.unwrap()).await;
    assert_eq!(answer.text(), "after");
}

#[tokio::test]
async fn an_acknowledgement_that_nobody_takes_is_sent_again() {
    let server = Server::start().await;
    // Long enough for the worker to make its consumer again before it gives up.
    let client = server.client_with(|settings| settings.ack_wait_ms = mlx_tests::millis(3000)).await;
    let go_on = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (told, counted) = (go_on.clone(), runs.clone());
    let _service = serve(&client, move |_, mut tokens| {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let told = told.clone();
        async move {
            let _told = told.acquire().await;
            tokens.send("once").await?;
            Ok(FinishReason::Stop)
        }
    })
    .await;
    let stream = client.infer_durable(&request("p")).await.unwrap();
    taken(&client, CONSUMER, 1).await;
    // As where it has no leader for a moment: nobody listens for its acknowledgements.
    let delete = format!("$JS.API.CONSUMER.DELETE.MLX_INFERENCE.{CONSUMER}");
    let deleted: Value = client.request(&delete, &json!({})).await.unwrap();
    assert_eq!(deleted["success"], true, "{deleted}");
    go_on.add_permits(1);
    assert_eq!(drain(stream).await.text(), "once");
    queued(&client, 0).await;
    assert_eq!(runs.load(std::sync::atomic::Ordering::Relaxed), 1);
}
