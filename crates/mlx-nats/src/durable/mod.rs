//! Durable hand-over: requests that JetStream keeps until a worker has begun to answer them.
//!
//! A request waits in a work queue, named after its model, until a worker that has the model pulls it. The worker says
//! that it is alive while it prepares, and acknowledges behind the first frame of the answer, once the server has that
//! frame; a worker that dies before leaves the request to the next. So each request is answered at least once, or ends
//! as a dead letter. See `docs/durable.md` for what that does and does not promise.

mod api;
mod dead_letter;
mod delivery;
mod lease;
mod puller;
mod requester;
mod streams;
mod worker;

pub use requester::DurableOptions;
