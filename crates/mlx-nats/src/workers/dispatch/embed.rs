//! Embeddings: a question to the worker that suits best.

use std::collections::HashSet;
use std::time::Duration;

use mlx_errors::Result;
use mlx_types::messages::{EmbeddingRequest, EmbeddingResponse, Feature};
use mlx_types::{RequestId, WorkerId, subjects};

use super::breaker::Outcome;
use super::core::Wanted;
use super::pending::{Ask, QueuePosition};
use super::{Dispatcher, Shared};
use crate::rpc::RequestOptions;

impl Dispatcher {
    /// Has a worker embed texts. Workers are chosen, replaced and waited for as by [`infer`](Self::infer); the answer may take
    /// [`whole_begin_timeout`](super::DispatchOptions::whole_begin_timeout).
    ///
    /// ```no_run
    /// use mlx_types::messages::{EmbeddingRequest, RawObject};
    ///
    /// # async fn example(dispatcher: mlx_nats::Dispatcher) -> Result<(), Box<dyn std::error::Error>> {
    /// let params = RawObject::from_json(r#"{"input": ["one", "two"]}"#)?;
    /// let answer = dispatcher.embed(&EmbeddingRequest::new("bge-small", params)).await?;
    /// println!("{}", answer.result.as_json());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`infer`](Self::infer), and [`ErrorKind::PayloadTooLarge`](mlx_errors::ErrorKind::PayloadTooLarge).
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the waiting room; a worker that was asked finishes for nobody.
    pub async fn embed(&self, request: &EmbeddingRequest) -> Result<EmbeddingResponse> {
        let (model, needs) = (request.model_id.clone(), vec![Feature::Embeddings]);
        let wanted = Wanted { model, needs, key: None, tried: HashSet::new() };
        let timeout = self.shared.options.whole_begin_timeout;
        let place = QueuePosition::new(&self.shared);
        let (assignment, response) = place.attempts(wanted, timeout, None, Embedding(request.clone())).await?;
        assignment.end(Outcome::Succeeded, None);
        Ok(response)
    }
}

struct Embedding(EmbeddingRequest);

impl Ask for Embedding {
    type Answer = EmbeddingResponse;

    async fn ask(&self, shared: &Shared, worker: WorkerId, left: Duration) -> Result<EmbeddingResponse> {
        let subject = subjects::worker_embeddings(worker);
        shared.client.request_with(&subject, &self.0, RequestOptions::default().timeout(left)).await
    }

    fn renew(&mut self) {
        self.0.request_id = RequestId::new();
    }
}
