//! Whether the worker takes the request on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use mlx_errors::Error;
use mlx_types::Epoch;
use mlx_types::messages::InferenceAcceptance;

use super::TokenStream;
use crate::rpc::check_answer;
use crate::wire::headers;
use crate::wire::inbox::Reply;

impl TokenStream {
    pub(super) fn poll_acceptance(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        let Some(acceptance) = &mut self.acceptance else { return Poll::Pending };
        let answer = ready!(Pin::new(acceptance).poll(context));
        self.acceptance = None;
        // Nothing means that the connection dropped, and then `fate` tells more.
        match answer {
            Some(Reply::Message(message)) => {
                self.client.measure().received(&message);
                // The server handled the subscription before the request.
                if let Some(frames) = &mut self.frames {
                    frames.settle();
                }
                if let Err(error) = check_answer::<InferenceAcceptance>(&self.subject, &message) {
                    if self.first_token.is_some() {
                        // The one that answers has accepted: another worker with the same id refuses.
                        self.foreign();
                        return Poll::Pending;
                    }
                    return Poll::Ready(error);
                }
                let epoch = headers::first(&message, headers::EPOCH).and_then(|text| text.parse().ok());
                self.run.accepted(epoch.map(Epoch::from_millis));
                if epoch.is_some() {
                    self.knows_to_answer();
                }
                Poll::Pending
            }
            Some(Reply::Refused(refused)) => Poll::Ready(refused.publish(&self.subject)),
            // Tokens come another way; only a refusal would not be heard.
            Some(Reply::NoInbox(_)) | None => Poll::Pending,
        }
    }
}
