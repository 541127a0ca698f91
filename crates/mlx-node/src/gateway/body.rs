//! The body of a request: as a whole, in time, and within a bound that all of them share.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::ApiError;

/// Bytes of a request's body at the most. NATS is the narrower gate: its limit is 8 MiB unless configured, and a chat of texts is
/// in a request twice.
const LIMIT: usize = 8 << 20;
/// How long a body may take to come.
const TIME: Duration = Duration::from_mins(1);
/// Bytes of all bodies that are under way: what many clients send at once, fast or slowly, is not to take all memory.
const ALL: usize = 128 << 20;
/// Bytes of each that need no room, so that those who hold it keep out nobody with a usual request.
const FREE: usize = 64 * 1024;
/// What is counted at once, in bytes.
const UNIT: usize = 1024;

/// The room that all bodies share.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ALL / UNIT)))
    }
}

/// A body, with its room, which is free again when it is dropped.
pub(super) struct Read {
    pub(super) bytes: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// Reads a body, which has to say that it is JSON: another site's page can have a browser send anything but that.
    ///
    /// # Errors
    /// What is wrong with it, or that there is no room.
    pub(super) async fn json(&self, request: Request) -> Result<Read, ApiError> {
        check(request.headers())?;
        let late = || {
            let message = format!("the body took longer than {} s to come", TIME.as_secs());
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message)
        };
        timeout(TIME, self.read(request.into_body())).await.map_err(|_| late())?
    }

    async fn read(&self, body: Body) -> Result<Read, ApiError> {
        let (mut bytes, mut room) = (Vec::new(), None::<OwnedSemaphorePermit>);
        let mut pieces = body.into_data_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|_| ApiError::invalid(None, "the connection ended in the middle of the body"))?;
            if bytes.len() + piece.len() > LIMIT {
                let message = format!("a body of more than {LIMIT} bytes is not read");
                return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message));
            }
            bytes.extend_from_slice(&piece);
            let has = room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
            let more = bytes.len().saturating_sub(FREE).div_ceil(UNIT).saturating_sub(has);
            let taken = Arc::clone(&self.0).try_acquire_many_owned(u32::try_from(more).unwrap_or(u32::MAX));
            match (&mut room, taken.map_err(|_| full())?) {
                (Some(room), taken) => room.merge(taken),
                (room, taken) => *room = Some(taken),
            }
        }
        Ok(Read { bytes: bytes.into(), _room: room })
    }
}

fn full() -> ApiError {
    let message = "too many large requests are on their way here: try again later";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED", message)
}

fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported = |message: String| ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request", message);
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let encoding = String::from_utf8_lossy(encoding.as_bytes());
        return Err(unsupported(format!("a body in `content-encoding: {encoding}` is not read: send it as it is")));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(unsupported("the header `content-type: application/json` is needed".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn request(pieces: usize) -> Request {
        let body = stream::iter((0..pieces).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 20]))));
        Request::post("/").header(header::CONTENT_TYPE, "application/json").body(Body::from_stream(body)).unwrap()
    }

    #[tokio::test]
    async fn p4_bodies_share_a_bounded_room_and_give_it_back() {
        let room = Room::default();
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(room.json(request(8)).await.map_err(|refusal| refusal.message).unwrap());
        }
        // What is free of each is left over.
        held.push(room.json(request(1)).await.map_err(|refusal| refusal.message).unwrap());
        let refused = room.json(request(1)).await.err().unwrap();
        assert_eq!((refused.status, refused.code.as_ref()), (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED"));
        let small = Request::post("/").header(header::CONTENT_TYPE, "application/json").body(Body::from("{}")).unwrap();
        assert_eq!(room.json(small).await.map_err(|refusal| refusal.message).unwrap().bytes, "{}");
        assert_eq!(held.swap_remove(0).bytes.len(), 8 << 20);
        assert!(room.json(request(8)).await.is_ok());
        assert_eq!(room.json(request(9)).await.err().unwrap().status, StatusCode::PAYLOAD_TOO_LARGE);
    }
}
