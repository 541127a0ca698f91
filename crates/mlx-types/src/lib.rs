//! Types of an mlx-serving cluster: what crosses the wire, on which subject, and what a node is configured with.
//!
//! - [`messages`]: every payload, with its bounds. Decoding ignores unknown members; [`Message::check`] enforces the bounds.
//! - [`subjects`]: the subject table. A [`Subject<M>`] carries its payload type, so a mix-up does not compile.
//! - [`headers`]: the names of the headers beside them.
//! - [`config`]: [`ClusterConfig`] and its parts, with defaults and rules.
//! - [`NatsUrl`] and [`Secret`]: credentials that no log, error or `Debug` output can show.
//! - With the feature `schema`: JSON Schemas of all that, and the table of subjects as data, in the module of that name.
//!
//! ```
//! use mlx_types::messages::{InferenceRequest, Message};
//! use mlx_types::{WorkerId, subjects};
//!
//! let worker = WorkerId::new();
//! let subject = subjects::worker_inference(worker); // a Subject<InferenceRequest>
//! assert_eq!(subject.as_str(), format!("worker.{worker}.inference"));
//!
//! let request = InferenceRequest::new("llama-3", "Hello").temperature(3.0);
//! let violations = request.check().unwrap_err();
//! assert_eq!(violations.to_string(), "temperature: must be at most 2");
//! ```

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

pub mod config;
pub mod headers;
pub mod messages;
#[cfg(feature = "schema")]
pub mod schema;
pub mod subjects;

mod check;
mod ids;
mod nats_url;
mod secret;
#[cfg(feature = "schema")]
mod shapes;
mod subject;
mod time;

pub use config::ClusterConfig;
pub use ids::{ParseIdError, RequestId, SessionId, WorkerId};
pub use messages::Message;
pub use nats_url::{NatsUrl, NatsUrlError, Scheme};
pub use secret::Secret;
pub use subject::{Pattern, RequestSubject, Subject, check_subject_token};
pub use time::{Epoch, Millis, Timestamp};
