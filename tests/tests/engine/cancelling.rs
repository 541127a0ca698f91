//! What ends an answer early ends it at the server, too.

use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::ErrorCode;
use mlx_nats::TokenStream;
use mlx_tests::{Answer, eventually, within};
use mlx_types::messages::{FinishReason, InferenceRequest};
use mlx_types::subjects;

use crate::support::{MODEL, Scene, read};

/// A generation that would never end, of which a token has come.
async fn endless(scene: &Scene) -> TokenStream {
    scene.models.set_pace(Duration::from_millis(5));
    scene.models.answer_next(Answer::endless());
    let mut stream = scene.ask(&InferenceRequest::new(MODEL, "p")).await;
    let first = within("a token", stream.next()).await.unwrap().unwrap();
    assert_eq!(first.text, "0 ");
    stream
}

#[tokio::test]
async fn s2_a_dropped_stream_stops_the_generation() {
    let scene = Scene::start().await;
    let stream = endless(&scene).await;
    assert_eq!((scene.models.generating(), scene.models.abandoned()), (1, 0));
    drop(stream);
    eventually("the end of the generation", || scene.models.abandoned() == 1).await;
    scene.end().await;
}

#[tokio::test]
async fn s2_a_stream_dropped_before_its_first_token_stops_the_generation() {
    let scene = Scene::start().await;
    scene.models.answer_next(Answer::stream().silence());
    let stream = scene.ask(&InferenceRequest::new(MODEL, "p")).await;
    eventually("a generation", || scene.models.generating() == 1).await;
    drop(stream);
    eventually("the end of the generation", || scene.models.abandoned() == 1).await;
    scene.end().await;
}

#[tokio::test]
async fn s2_a_stopped_stream_ends_cleanly_and_stops_the_generation_while_it_is_silent() {
    let scene = Scene::start().await;
    scene.models.answer_next(Answer::stream().chat_token("a").silence());
    let mut stream = scene.ask(&InferenceRequest::new(MODEL, "p")).await;
    within("a token", stream.next()).await.unwrap().unwrap();
    stream.stop().await.unwrap();
    assert_eq!(read(stream).await.reason(), FinishReason::Cancelled);
    eventually("the end of the generation", || scene.models.abandoned() == 1).await;
    scene.end().await;
}

#[tokio::test]
async fn s4_a_killed_worker_is_lost_and_its_generation_stopped() {
    let mut scene = Scene::start().await;
    let stream = endless(&scene).await;
    scene.worker.kill();
    let ended = read(stream).await.ended;
    assert_eq!(ended.unwrap_err().code(), ErrorCode::WorkerLost);
    eventually("the end of the generation", || scene.models.abandoned() == 1).await;
}

#[tokio::test]
async fn c13_a_worker_asks_no_more_of_its_server_than_its_limit_and_says_what_it_is_busy_with() {
    const LIMIT: usize = 4;
    let scene = Scene::start().await;
    let mut figures = scene.client.subscribe(&subjects::METRICS_REPORT).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..LIMIT {
        streams.push(endless(&scene).await);
    }
    let refused = scene.client.infer(scene.worker.id(), &InferenceRequest::new(MODEL, "p")).await;
    let error = match refused {
        Err(error) => error,
        Ok(stream) => read(stream).await.ended.unwrap_err(),
    };
    assert_eq!(error.code(), ErrorCode::Overloaded);
    assert_eq!(scene.models.generating(), LIMIT);

    let reading = streams.into_iter().map(|stream| tokio::spawn(read_on(stream))).collect::<Vec<_>>();
    let busy = async {
        loop {
            let report = figures.next().await.unwrap().unwrap();
            // Four times a token each 5 ms, timers being what they are.
            if report.metrics.active_requests == 4 && report.tokens_per_second.is_some_and(|rate| rate > 80.0) {
                return report;
            }
        }
    };
    let report = within("figures of a busy worker", busy).await;
    // Generously, for what came late and all at once.
    assert!(report.tokens_per_second.unwrap() <= 4.0 * 200.0 * 10.0, "{report:?}");
    assert_eq!(report.metrics.models_loaded, [MODEL], "what answers is in memory; what an engine lists need not be");
    for task in reading {
        task.abort();
    }
    scene.until("an idle worker", |worker| worker.metrics.as_ref().is_some_and(|now| now.active_requests == 0)).await;
    assert_eq!(scene.models.generating(), 0);
    scene.end().await;
}

async fn read_on(mut stream: TokenStream) {
    while stream.next().await.is_some() {}
}
