//! A stream of JetStream that is kept three times, and what it was told to keep.

use std::time::Duration;

use mlx_tests::eventually_async;
use mlx_types::NatsUrl;
use serde_json::{Value, json};

/// How long an acknowledgement may take before it is asked for again. A new leader takes several seconds.
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(2);

pub(crate) struct Kept {
    client: async_nats::Client,
    stored: u64,
}

impl Kept {
    /// Creates it, with a client that begins at `url`.
    pub(crate) async fn create(url: &NatsUrl) -> Self {
        let client = async_nats::connect(url.to_string()).await.unwrap();
        let kept = Self { client, stored: 0 };
        let stream = json!({ "name": "KEPT", "subjects": ["kept"], "num_replicas": 3 });
        kept.ask("$JS.API.STREAM.CREATE.KEPT", "create", &stream).await;
        kept
    }

    /// Stores so many messages more, each acknowledged.
    pub(crate) async fn store(&mut self, count: u64) {
        for _ in 0..count {
            self.stored += 1;
            let answer = self.ask("kept", &self.stored.to_string(), &json!({ "number": self.stored })).await;
            // One that was stored before its acknowledgement was lost is told to be a duplicate.
            assert_eq!(answer["seq"], self.stored, "{answer}");
        }
    }

    /// All that was acknowledged is there, and nothing twice; the first and the last are what they were.
    pub(crate) async fn is_complete(&self) {
        // A leader that was cut off answers of what it knows until it hears of its successor.
        eventually_async(&format!("a stream of {}", self.stored), async || {
            let info = self.ask("$JS.API.STREAM.INFO.KEPT", "info", &json!({})).await;
            (info["state"]["messages"] == self.stored).then_some(())
        })
        .await;
        for seq in [1, self.stored] {
            let message = self.ask("$JS.API.STREAM.MSG.GET.KEPT", "get", &json!({ "seq": seq })).await;
            let data = message["message"]["data"].as_str().expect("a message");
            let data = data_encoding::BASE64.decode(data.as_bytes()).unwrap();
            assert_eq!(serde_json::from_slice::<Value>(&data).unwrap(), json!({ "number": seq }));
        }
    }

    /// Asks until the answer is not an error: while its leader is elected, a stream has none.
    async fn ask(&self, subject: &str, id: &str, body: &Value) -> Value {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        eventually_async(&format!("an answer on {subject}"), async || {
            let payload = serde_json::to_vec(body).unwrap().into();
            let request = self.client.request_with_headers(subject.to_owned(), headers.clone(), payload);
            let answer = tokio::time::timeout(ACKNOWLEDGEMENT, request).await.ok()?.ok()?;
            let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
            answer["error"].is_null().then_some(answer)
        })
        .await
    }
}
