//! A message that came in.

use std::fmt;
use std::ops::Deref;

use crate::wire::headers;

/// A received message: its payload, to which it dereferences, and what came with it.
///
/// ```no_run
/// use futures_util::StreamExt;
///
/// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
/// let mut messages = client.subscribe::<_, String>("lab.test").await?;
/// if let Some(message) = messages.next().await {
///     let message = message?;
///     println!("{} ({:?})", message.len(), message.header("Tenant")); // the length of the payload
///     let text: String = message.into_payload();
/// }
/// # Ok(())
/// # }
/// ```
#[non_exhaustive]
pub struct Received<M> {
    /// The decoded payload.
    pub payload: M,
    pub(super) message: async_nats::Message,
}

impl<M> Received<M> {
    /// The subject that it was published on.
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// Where an answer is expected, if one is.
    pub fn reply(&self) -> Option<&str> {
        self.message.reply.as_deref()
    }

    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        headers::first(&self.message, name)
    }

    /// The payload alone.
    pub fn into_payload(self) -> M {
        self.payload
    }
}

impl<M> Deref for Received<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.payload
    }
}

impl<M: fmt::Debug> fmt::Debug for Received<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("subject", &self.subject())
            .field("payload", &self.payload)
            .finish_non_exhaustive()
    }
}
