//! The services that a client lists, and the task that answers for them.

use std::num::NonZeroU8;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use futures_util::StreamExt;
use futures_util::stream::select_all;
use parking_lot::Mutex;
use time::OffsetDateTime;
use time::format_description::well_known::Iso8601;
use time::format_description::well_known::iso8601::{Config, TimePrecision};

use super::{Endpoint, answers};
use crate::client::{Client, Discovery};
use crate::connection::AbortOnDrop;
use crate::pubsub::{RawSubscription, SubscribeOptions};

/// To the microsecond, always: some tools insist on a fraction, and on one that is no longer.
const STARTED: &Iso8601<
    {
        let precision = TimePrecision::Second { decimal_digits: NonZeroU8::new(6) };
        Config::DEFAULT.set_time_precision(precision).encode()
    },
> = &Iso8601;

/// A client's way to its listing, should it have one now.
#[derive(Debug, Default)]
pub(crate) struct Directory(tokio::sync::Mutex<Weak<Listing>>);

/// What a client lists while it serves anything. Held by its services: the last one to go ends it.
#[derive(Debug)]
pub(crate) struct Listing {
    node: Arc<Node>,
    _answering: AbortOnDrop,
}

/// Who answers, and for which services.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) about: Discovery,
    /// The id of this listing alone.
    pub(super) id: String,
    /// RFC 3339.
    pub(super) started: String,
    endpoints: Mutex<Vec<Arc<Endpoint>>>,
}

/// A service's place in the listing, given up when dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    listing: Arc<Listing>,
    endpoint: Arc<Endpoint>,
}

impl Client {
    /// The listing of this client, on its way to the server if it is new; nothing where the options or the connection
    /// leave none.
    pub(crate) async fn listing(&self) -> Option<Arc<Listing>> {
        let about = self.options().discovery.clone()?;
        let directory = self.room::<Directory>();
        let mut current = directory.0.lock().await;
        if let Some(listing) = current.upgrade() {
            return Some(listing);
        }
        let node = Arc::new(Node::new(about, self));
        let mut questions = Vec::new();
        for pattern in node.questions() {
            match self.subscribe_raw(pattern.into(), &SubscribeOptions::default()).await {
                Ok(subscription) => questions.push(subscription),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the services of this client are not listed"
                    );
                    return None;
                }
            }
        }
        let answering = self.runtime().spawn(answer(self.clone(), Arc::clone(&node), questions));
        let listing = Arc::new(Listing { node, _answering: AbortOnDrop(answering.abort_handle()) });
        *current = Arc::downgrade(&listing);
        Some(listing)
    }
}

impl Listing {
    /// Lists a service until what is returned is dropped.
    pub(crate) fn list(self: Arc<Self>, endpoint: Endpoint) -> Listed {
        let endpoint = Arc::new(endpoint);
        self.node.endpoints.lock().push(Arc::clone(&endpoint));
        Listed { listing: self, endpoint }
    }
}

impl Listed {
    /// Where the service's requests are counted.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.listing.node.endpoints.lock().retain(|endpoint| !Arc::ptr_eq(endpoint, &self.endpoint));
    }
}

impl Node {
    fn new(mut about: Discovery, client: &Client) -> Self {
        if let Some(name) = &client.options().name {
            about.metadata.entry("client".to_owned()).or_insert_with(|| name.clone());
        }
        let now = OffsetDateTime::from(SystemTime::now());
        // A clock that cannot be written is one far beyond the year 9999.
        let started = now.format(STARTED).unwrap_or_else(|_| "1970-01-01T00:00:00.000000Z".to_owned());
        let unique = client.nats().new_inbox();
        let id = unique.rsplit('.').next().unwrap_or_default().to_owned();
        Self { about, id, started, endpoints: Mutex::default() }
    }

    /// To anyone, to those of its name, and to itself alone. Not for any verb: nobody listens on one that nobody knows.
    fn questions(&self) -> Vec<String> {
        let (name, id) = (&self.about.name, &self.id);
        let forms = |verb| [format!("$SRV.{verb}"), format!("$SRV.{verb}.{name}"), format!("$SRV.{verb}.{name}.{id}")];
        answers::VERBS.into_iter().flat_map(forms).collect()
    }

    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.lock().clone()
    }

    #[cfg(test)]
    pub(super) fn of(about: Discovery, id: &str, endpoints: Vec<Arc<Endpoint>>) -> Self {
        Self { about, id: id.to_owned(), started: "2026-01-02T03:04:05Z".to_owned(), endpoints: Mutex::new(endpoints) }
    }
}

/// Answers, whatever becomes of one answer, until the connection is closed or nothing is left to list.
async fn answer(client: Client, node: Arc<Node>, questions: Vec<RawSubscription>) {
    let mut questions = select_all(questions);
    while let Some(question) = questions.next().await {
        let Some(reply) = question.reply else { continue };
        let Some(json) = answers::answer(&node, &question.subject) else { continue };
        if let Err(error) = client.send(reply, None, None, json).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a question for our services stays unanswered");
        }
    }
}
