//! Discovery: the services of a client, listed by `nats micro` and whatever else speaks the NATS services' protocol.
//!
//! A client that serves anything answers on `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, on those alone, with its name, and
//! with its name and id. Three subscriptions do for all services of a client; they come with the first one and go with
//! the last. Serving never waits for any of this, nor fails because of it.
//!
//! async-nats brings a module for services, which is not used, because there
//! - each service makes nine subscriptions, and nothing confirms them;
//! - the task that answers ends for good, and silently, at the first answer that cannot be sent;
//! - that task outlives a service that is dropped, and keeps the connection open with it;
//! - an endpoint that is stopped stays listed, and a second one of the same name is not;
//! - a request counts when it is answered: one whose handler panics or gives up never happened;
//! - each answer takes a lock that all endpoints share, and whose poisoning makes every later one panic;
//! - an error's text goes into its header as it is, line breaks and all, and the body stays empty;
//! - every endpoint joins the queue group `q` unless told otherwise: a health check meant for all would reach one.

mod answers;
mod endpoint;
mod listing;

pub(crate) use self::endpoint::{Endpoint, Handling};
pub(crate) use self::listing::Listed;
