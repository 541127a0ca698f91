//! How a stream begins.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use mlx_types::RequestId;
use tokio::time::Instant;

use super::TokenStream;
use crate::client::Client;
use crate::connection::transport_capacity;
use crate::pubsub::RawSubscription;
use crate::stream::assembly::Assembly;
use crate::stream::backlog::Backlog;
use crate::stream::lifeline::Lifelines;
use crate::stream::route::Route;
use crate::stream::run::Run;
use crate::stream::silence::{SUSPICIOUS, Silence};
use crate::telemetry::trace::Span;
use crate::wire::inbox::Waiter;
use crate::wire::surrogates::Joiner;

/// What a stream begins with.
pub(crate) struct Opening {
    pub(crate) client: Client,
    pub(crate) route: Route,
    /// The request's reply inbox, where it has one.
    pub(crate) mark: Option<Arc<str>>,
    pub(crate) request_id: RequestId,
    pub(crate) subject: String,
    pub(crate) frames: RawSubscription,
    pub(crate) acceptance: Option<Waiter>,
    pub(crate) workers: Arc<dyn Lifelines>,
    pub(crate) epoch: u64,
    pub(crate) first_token_timeout: Duration,
    pub(crate) inter_token_timeout: Duration,
    /// To the deadline of the request, where it has one.
    pub(crate) time_left: Option<Duration>,
    pub(crate) started: Instant,
    pub(crate) span: Span,
}

impl TokenStream {
    pub(crate) fn open(opening: Opening) -> Self {
        let Opening { client, route, workers, epoch, first_token_timeout, inter_token_timeout, started, span, .. } =
            opening;
        let link = Arc::clone(client.link());
        let measure = client.measure().stream(started);
        let capacity = transport_capacity(client.options().subscription_capacity);
        let slept = link.clock().slept(started.into_std());
        let silence = Silence::new(first_token_timeout, inter_token_timeout, started, slept);
        let mut stream = Self {
            client,
            route,
            worker_id: None,
            request_id: opening.request_id,
            subject: opening.subject,
            frames: Some(opening.frames),
            acceptance: opening.acceptance,
            workers,
            departure: None,
            disconnection: Box::pin(async move { link.lost(epoch).await }),
            deadline: opening.time_left.map(|left| Box::pin(tokio::time::sleep(left))),
            silence,
            look: Box::pin(tokio::time::sleep(SUSPICIOUS.min(first_token_timeout))),
            progressed: false,
            suspicion: None,
            reading: None,
            has_read: false,
            run: Run::default(),
            is_known_to_answer: false,
            joiner: Joiner::default(),
            has_halves: false,
            epilogue: None,
            mark: opening.mark,
            assembly: Assembly::default(),
            backlog: Backlog::new(capacity),
            attempt: None,
            ready: VecDeque::new(),
            started,
            first_token: None,
            summary: None,
            companion: None,
            measure,
            span,
        };
        match route {
            Route::Worker(worker_id) => stream.depend_on(worker_id),
            #[cfg(feature = "durable")]
            Route::Queue { .. } => {} // the worker that takes it says so with the first token
        }
        stream
    }
}
