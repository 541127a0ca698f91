//! The answers of everyone, as a list.

use futures_util::StreamExt;
use mlx_errors::{ErrorKind, Result};
use mlx_nats::{Client, RequestManyOptions, RequestTo};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// All the answers to one question, or what came in the place of any.
///
/// # Errors
/// What ended the stream of answers, if a limit did not.
pub async fn ask_all<S, Q, R>(
    client: &Client,
    to: S,
    payload: &Q,
    options: RequestManyOptions,
) -> Result<Vec<Result<R>>>
where
    S: RequestTo<Q, R>,
    Q: Serialize + ?Sized,
    R: DeserializeOwned,
{
    let mut answers: Vec<Result<R>> = client.request_many_with(to, payload, options).await?.collect().await;
    match answers.pop() {
        Some(Err(error)) if !matches!(error.kind(), ErrorKind::Remote(_) | ErrorKind::Decode { .. }) => Err(error),
        last => {
            answers.extend(last);
            Ok(answers)
        }
    }
}
