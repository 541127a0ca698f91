//! What a model server sends, of which no more is kept in memory than makes sense.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream::{BoxStream, StreamExt};
use reqwest::Response;
use sse_stream::{Sse, SseByteStream};

/// How long one event may be, in bytes, or a list of models.
pub(super) const LIMIT: usize = 4 << 20;

/// The events of a response.
pub(super) fn events(response: Response) -> BoxStream<'static, Result<Sse, sse_stream::Error>> {
    // Bytes since the last event.
    let held = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&held);
    let bytes = response.bytes_stream().map(move |bytes| {
        let bytes = bytes.map_err(of_connection)?;
        let before = counted.fetch_add(bytes.len(), Ordering::Relaxed);
        if before + bytes.len() > LIMIT { Err(too_long(LIMIT)) } else { Ok(bytes) }
    });
    SseByteStream::new(bytes).inspect(move |_| held.store(0, Ordering::Relaxed)).boxed()
}

/// The whole body, if it has no more bytes than this.
pub(super) async fn body(mut response: Response, limit: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.map_err(of_connection)? {
        if body.len() + bytes.len() > limit {
            return Err(too_long(limit));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

/// Without the address, whose query may hold a key.
fn of_connection(error: reqwest::Error) -> io::Error {
    io::Error::other(error.without_url())
}

fn too_long(limit: usize) -> io::Error {
    io::Error::other(format!("more than {limit} bytes in one piece"))
}
