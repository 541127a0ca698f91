//! How the two processes of a measurement talk to each other: by a connection of their own, the same on both sides of a
//! row.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{Stream, StreamExt};
use tokio::task::JoinHandle;

use crate::processor::processor_time;

/// The responder is told how many units to send next.
const SEND: &str = "bench.send";
/// The responder is asked for its processor time in ns.
const PROCESSOR_TIME: &str = "bench.processorTime";

/// The connection. It idles while something is measured.
#[derive(Debug)]
pub(crate) struct Control {
    client: async_nats::Client,
}

impl Control {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        Ok(Self { client: async_nats::connect(url).await? })
    }

    /// For the responder: answers what the driver asks, until the process ends.
    pub(crate) async fn answer(&self) -> Result<JoinHandle<()>> {
        let mut questions = self.client.subscribe(PROCESSOR_TIME).await?;
        settle(&self.client).await?;
        let client = self.client.clone();
        Ok(tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                // Always as many digits, so that the server counts the same bytes in every measurement.
                let nanos = format!("{:020}", processor_time().as_nanos());
                let Some(reply) = question.reply else { continue };
                if client.publish(reply, nanos.into()).await.is_err() {
                    return;
                }
            }
        }))
    }

    /// For the responder: how many units to send, again and again.
    pub(crate) async fn orders(&self) -> Result<impl Stream<Item = u64> + Unpin> {
        let orders = self.client.subscribe(SEND).await?;
        settle(&self.client).await?;
        Ok(orders.filter_map(|order| std::future::ready(number(&order.payload))))
    }

    /// For the driver: has the responder send so many units more.
    pub(crate) async fn order(&self, count: u64) -> Result<()> {
        Ok(self.client.publish(SEND, count.to_string().into()).await?)
    }

    /// For the driver: the processor time of the responder.
    pub(crate) async fn processor_time_of_peer(&self) -> Result<Duration> {
        let answer = self.client.request(PROCESSOR_TIME, "".into()).await?;
        number(&answer.payload).map(Duration::from_nanos).context("a responder's processor time")
    }
}

fn number(payload: &[u8]) -> Option<u64> {
    str::from_utf8(payload).ok()?.parse().ok()
}

/// A round trip to the server: it has every subscription made before.
pub(crate) async fn settle(client: &async_nats::Client) -> Result<()> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    client.publish(inbox, "".into()).await?;
    answers.next().await.context("the connection ended")?;
    Ok(())
}
