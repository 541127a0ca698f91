//! Token streams.

use std::future::pending;

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind};
use mlx_nats::{Client, InferenceOptions, InferenceService, TokenStream};
use mlx_tests::{LIMIT, TestServer, within};
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::{RequestId, WorkerId};
use serde_json::{Value, json};

use super::peer::Peer;

async fn drain(stream: &mut TokenStream) -> (Vec<String>, Option<Error>) {
    let (mut tokens, mut error) = (Vec::new(), None);
    while let Some(frame) = within("the end of the stream", stream.next()).await {
        assert!(error.is_none(), "something came after the end: {frame:?}");
        match frame {
            Ok(frame) => tokens.push(frame.text),
            Err(end) => error = Some(end),
        }
    }
    (tokens, error)
}

#[tokio::test]
async fn nats_py_plays_a_worker_that_never_acknowledges_and_counts_nothing() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let id = WorkerId::new();
    let mut peer = Peer::start(&server, "worker", &[&id.to_string()]).await;

    let request = InferenceRequest::new("llama-3", "one two three");
    let mut stream = client.infer(id, &request).await.unwrap();
    let (tokens, error) = drain(&mut stream).await;
    assert_eq!(tokens, ["one", "two", "three"]);
    assert!(error.is_none(), "{error:?}");
    let summary = stream.summary().unwrap();
    assert_eq!((summary.tokens, &summary.finish_reason), (3, &None));

    let (body, message) = peer.hears_json().await;
    let sent = json!({ "requestId": request.request_id.to_string(), "modelId": "llama-3", "prompt": "one two three" });
    assert_eq!(body, sent);
    assert_eq!(message["headers"], json!({ "Mlx-Accept": "tokens,delta" }));
    assert!(message["reply"].as_str().unwrap().starts_with("_INBOX."), "{message}");

    let (tokens, error) = drain(&mut client.infer(id, &InferenceRequest::new("m", "fail")).await.unwrap()).await;
    assert_eq!(tokens, ["fail"]);
    let error = error.unwrap();
    let ErrorKind::Remote(remote) = error.kind() else { panic!("{error:?}") };
    assert_eq!((remote.message(), remote.code()), ("the model gave up", "MODEL_CRASHED"));
    peer.hears().await;
    assert!(peer.leave().await.is_empty(), "streams that ended by themselves are not cancelled");
}

#[tokio::test]
async fn nats_py_plays_a_worker_and_hears_our_cancellations() {
    let server = TestServer::start().await;
    let client = server.client().await;
    let id = WorkerId::new();
    let mut peer = Peer::start(&server, "worker", &[&id.to_string()]).await;
    let request = || InferenceRequest::new("m", "one two ...");

    let mut stopped = client.infer(id, &request()).await.unwrap();
    within("a token", stopped.next()).await.unwrap().unwrap();
    peer.hears().await;
    stopped.stop().await.unwrap();
    let (rest, error) = drain(&mut stopped).await;
    assert_eq!(rest, ["two", "..."]);
    assert!(error.is_none(), "it finished cleanly: {error:?}");
    heard_cancellation(&mut peer, id, stopped.request_id(), "stop").await;

    let mut dropped = client.infer(id, &request()).await.unwrap();
    within("a token", dropped.next()).await.unwrap().unwrap();
    peer.hears().await;
    let request_id = dropped.request_id();
    drop(dropped);
    heard_cancellation(&mut peer, id, request_id, "kill").await;
    assert!(peer.leave().await.is_empty());
}

async fn heard_cancellation(peer: &mut Peer, id: WorkerId, request_id: RequestId, mode: &str) {
    let (body, message) = peer.hears_json().await;
    assert_eq!(message["subject"], format!("worker.{id}.cancel"));
    assert_eq!(body, json!({ "requestId": request_id.to_string(), "mode": mode }));
}

/// Answers word by word, and one word more each time, so that frames would merge if they were allowed to; a prompt that
/// ends in `...` has no end.
async fn serve(client: &Client, id: WorkerId) -> InferenceService {
    let options = InferenceOptions::default().max_concurrent(1);
    let service = client.serve_inference(id, options, |request, mut tokens| async move {
        for word in request.prompt.split_inclusive(' ') {
            tokens.send(word).await?;
        }
        if request.prompt.ends_with("...") {
            tokio::select! {
                error = tokens.cancelled() => return Err(error),
                () = pending() => {}
            }
        }
        Ok(FinishReason::Length)
    });
    service.await.unwrap()
}

fn asking(request_id: RequestId, prompt: &str) -> Value {
    json!({
        "requestId": request_id.to_string(), "modelId": "m", "prompt": prompt, "temperature": null, "priority": "high"
    })
}

/// The first frame of a request behind a kill, which nothing confirms: it is refused, and asks again, while the kill is on
/// its way from one of our tasks to the other.
async fn admitted(peer: &mut Peer, request_id: RequestId, prompt: &str) -> Value {
    loop {
        peer.tell(asking(request_id, prompt)).await;
        let frame = frames(peer, request_id, 1).await.remove(0);
        if frame["code"] != "OVERLOADED" {
            return frame;
        }
    }
}

/// The frames of one request up to its end, `requestId` checked and taken off.
async fn frames(peer: &mut Peer, request_id: RequestId, count: usize) -> Vec<Value> {
    let mut frames = Vec::new();
    while frames.len() < count {
        let (mut body, message) = peer.hears_json().await;
        assert_eq!(message["subject"], format!("response.{request_id}"), "{message}");
        assert_eq!(message["headers"], json!({}));
        assert_eq!(body.as_object_mut().unwrap().remove("requestId"), Some(json!(request_id.to_string())));
        frames.push(body);
    }
    frames
}

fn token(index: usize, text: &str) -> Value {
    json!({ "type": "token", "token": text, "index": index })
}

#[tokio::test]
async fn nats_py_plays_a_requester_that_offers_nothing_and_gets_plain_frames() {
    let server = TestServer::start().await;
    let id = WorkerId::new();
    let service = serve(&server.client().await, id).await;
    let mut peer = Peer::start(&server, "requester", &[&id.to_string()]).await;
    let (request_id, words) = (RequestId::new(), 200);
    let prompt = vec!["word"; words].join(" ");
    peer.tell(asking(request_id, &prompt)).await;

    let mut heard = frames(&mut peer, request_id, words + 1).await;
    let mut end = heard.pop().unwrap();
    assert!(end.as_object_mut().unwrap().remove("latencyMs").unwrap().as_f64().unwrap() >= 0.0);
    assert_eq!(end, json!({ "type": "done", "totalTokens": words, "finishReason": "length" }));
    for (index, frame) in heard.iter().enumerate() {
        assert_eq!(*frame, token(index, if index + 1 < words { "word " } else { "word" }));
    }
    assert!(peer.leave().await.is_empty(), "nothing follows the end");
    service.stop(LIMIT).await.unwrap();
}

#[tokio::test]
async fn nats_py_plays_a_requester_that_cancels_and_is_refused() {
    let server = TestServer::start().await;
    let id = WorkerId::new();
    let service = serve(&server.client().await, id).await;
    let mut peer = Peer::start(&server, "requester", &[&id.to_string()]).await;
    let [stopped, refused, killed, after] = [(); 4].map(|()| RequestId::new());

    peer.tell(asking(stopped, "one ...")).await;
    assert_eq!(frames(&mut peer, stopped, 2).await, [token(0, "one "), token(1, "...")]);
    // The only place is taken.
    peer.tell(asking(refused, "two")).await;
    let refusal = frames(&mut peer, refused, 1).await.remove(0);
    assert_eq!((&refusal["type"], &refusal["code"]), (&json!("error"), &json!("OVERLOADED")), "{refusal}");
    assert!(refusal["error"].is_string(), "{refusal}");

    peer.tell(json!({ "requestId": stopped.to_string(), "mode": "stop" })).await;
    let end = frames(&mut peer, stopped, 1).await.remove(0);
    assert_eq!(
        (&end["type"], &end["totalTokens"], &end["finishReason"]),
        (&json!("done"), &json!(2), &json!("cancelled"))
    );

    // Behind an end the place is free.
    peer.tell(asking(killed, "three ...")).await;
    assert_eq!(frames(&mut peer, killed, 2).await, [token(0, "three "), token(1, "...")]);
    peer.tell(json!({ "requestId": killed.to_string(), "mode": "kill", "reason": null })).await;
    // The killed stream says nothing more: what is heard next is the one after it.
    assert_eq!(admitted(&mut peer, after, "four").await, token(0, "four"));
    assert_eq!(frames(&mut peer, after, 1).await.remove(0)["type"], "done");
    assert!(peer.leave().await.is_empty());
    service.stop(LIMIT).await.unwrap();
}
