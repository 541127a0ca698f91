//! JSON in and out, with the rules of the payload's type.

use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use mlx_errors::{Error, ErrorKind, Result, Violation, Violations};
use mlx_types::messages::from_json;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::telemetry::measure;

/// A decoder's message is cut here: it may quote what a peer sent, which has no bounds.
const MESSAGE_LIMIT: usize = 200;

/// Checks and encodes a payload for `subject`.
pub(crate) fn encode<M: Serialize + ?Sized>(
    subject: &str,
    payload: &M,
    check: fn(&M) -> Result<(), Violations>,
) -> Result<Bytes> {
    encode_ending(subject, payload, check, None)
}

/// [`encode`], of an object that ends otherwise: `ending` takes the place of its last brace.
pub(crate) fn encode_ending<M: Serialize + ?Sized>(
    subject: &str,
    payload: &M,
    check: fn(&M) -> Result<(), Violations>,
    ending: Option<&str>,
) -> Result<Bytes> {
    check(payload).map_err(|violations| invalid(subject, violations))?;
    to_json(payload, ending).map_err(|error| {
        let reason = format!("the payload cannot be written as JSON: {error}");
        Error::new(ErrorKind::Publish { subject: subject.to_owned(), reason })
    })
}

/// A longer one is not kept: a thread would hold on to its memory for one large message.
const KEPT_BUFFER: usize = 64 * 1024;

/// What one thread's messages are cut from: so large that a message rarely needs an allocation, and so small that one which
/// is kept for long does not hold on to much besides.
const CHUNK: usize = 16 * 1024;

/// A larger message gets memory of its own, which ends with it.
const CUT: usize = 2 * 1024;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static CHUNK_LEFT: Cell<BytesMut> = Cell::new(BytesMut::with_capacity(CHUNK));
}

/// Writes into a buffer that stays, and copies what there is then.
fn to_json<M: Serialize + ?Sized>(payload: &M, ending: Option<&str>) -> serde_json::Result<Bytes> {
    // Taken out, so that a payload which encodes another one finds an empty buffer and not one in use.
    let mut buffer = BUFFER.take();
    buffer.clear();
    let json = serde_json::to_writer(&mut buffer, payload).map(|()| {
        if let Some(ending) = ending {
            buffer.pop();
            buffer.extend_from_slice(ending.as_bytes());
        }
        copy_to_chunk(&buffer)
    });
    if buffer.capacity() <= KEPT_BUFFER {
        BUFFER.set(buffer);
    }
    json
}

/// A copy. Small ones lie side by side in one piece of memory, which is used again once all of them are gone: nearly at
/// once, while messages leave as fast as they are made. With memory of its own each of them would cost two allocations,
/// one of them for its count, and both would be freed by another thread, which is what allocators are slowest at.
fn copy_to_chunk(json: &[u8]) -> Bytes {
    if json.len() > CUT {
        return Bytes::copy_from_slice(json);
    }
    let mut left = CHUNK_LEFT.take();
    left.extend_from_slice(json);
    let copy = left.split().freeze();
    CHUNK_LEFT.set(left);
    copy
}

/// Decodes and checks a payload that came on `subject`, and takes what JavaScript takes for JSON.
pub(crate) fn decode<M: DeserializeOwned>(
    subject: &str,
    json: &[u8],
    check: fn(&M) -> Result<(), Violations>,
) -> Result<M> {
    match from_json(json) {
        Ok(payload) => checked(subject, payload, check),
        Err(error) => Err(refused(undecodable::<M>(subject, json, &error))),
    }
}

/// [`decode`] of what needs no mending; nothing where it does: for texts of which half a character may come next.
pub(crate) fn decode_whole<M: DeserializeOwned>(
    subject: &str,
    json: &[u8],
    check: fn(&M) -> Result<(), Violations>,
) -> Option<Result<M>> {
    serde_json::from_slice(json).ok().map(|payload| checked(subject, payload, check))
}

fn checked<M>(subject: &str, payload: M, check: fn(&M) -> Result<(), Violations>) -> Result<M> {
    check(&payload).map_err(|violations| refused(invalid(subject, violations)))?;
    Ok(payload)
}

fn invalid(subject: &str, violations: Violations) -> Error {
    Error::new(ErrorKind::Validation { subject: subject.to_owned(), violations })
}

/// Decodes a second time, keeping track of the path: what a good message should not have to pay for.
#[cold]
fn undecodable<M: DeserializeOwned>(subject: &str, json: &[u8], error: &serde_json::Error) -> Error {
    let mut decoder = serde_json::Deserializer::from_slice(json);
    let violation = match serde_path_to_error::deserialize::<_, M>(&mut decoder) {
        Err(tracked) => {
            let path = tracked.path().to_string();
            let path = if path == "." { String::new() } else { path };
            Violation::new(path, "decode", shorten(tracked.inner().to_string()))
        }
        // Only what follows the value can be wrong when the value itself decodes.
        Ok(_) => Violation::new("", "decode", shorten(error.to_string())),
    };
    Error::new(ErrorKind::Decode { subject: subject.to_owned(), violations: vec![violation].into() })
}

/// Counts the error of a message that came in.
fn refused(error: Error) -> Error {
    measure::decode_failed(error.code());
    error
}

fn shorten(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(MESSAGE_LIMIT) {
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use mlx_errors::ErrorCode;
    use mlx_types::messages::{Message, StreamingResponse, WorkerHeartbeat};
    use proptest::prelude::*;

    use super::*;

    fn heartbeat(change: impl Fn(&mut serde_json::Value)) -> Vec<u8> {
        let mut json = serde_json::json!({
            "workerId": "6f2c1b9e-3d4a-4b8e-9a51-0c6f1de2a7b3",
            "status": "online",
            "metrics": {
                "cpuUsagePercent": 12.5, "memoryUsedGB": 3.0, "gpuUtilizationPercent": 80.0, "activeRequests": 1,
                "totalRequestsHandled": 7, "avgLatencyMs": 20.0, "modelsLoaded": ["m"]
            },
            "timestamp": 1_700_000_000_000_u64
        });
        change(&mut json);
        serde_json::to_vec(&json).unwrap()
    }

    #[test]
    fn messages_of_every_size_keep_what_was_written_while_others_are_made_beside_them() {
        let text = |length: usize| char::from(b'a' + u8::try_from(length % 26).unwrap()).to_string().repeat(length);
        let lengths = || (0..CUT + 100).step_by(7).chain([CHUNK, KEPT_BUFFER + 1]);
        let kept: Vec<Bytes> = lengths().map(|length| to_json(&text(length), None).unwrap()).collect();
        for (length, json) in lengths().zip(&kept) {
            assert_eq!(*json, format!("\"{}\"", text(length)));
        }
    }

    #[test]
    fn messages_that_are_gone_make_room_for_the_next() {
        let text = "x".repeat(100);
        let places: Vec<usize> = (0..10_000).map(|_| to_json(&text, None).unwrap().as_ptr() as usize).collect();
        let (first, last) = (places.iter().min().unwrap(), places.iter().max().unwrap());
        assert!(last - first < CHUNK, "a megabyte went through {} bytes", last - first);
    }

    fn decode_heartbeat(json: &[u8]) -> Result<WorkerHeartbeat> {
        decode("worker.heartbeat", json, WorkerHeartbeat::check)
    }

    #[test]
    fn a_wrong_type_is_named_by_its_path() {
        let error = decode_heartbeat(&heartbeat(|json| json["metrics"]["activeRequests"] = "many".into())).unwrap_err();
        assert_eq!(error.code(), ErrorCode::MessageDecode);
        assert!(error.to_string().contains("metrics.activeRequests"), "{error}");
    }

    #[test]
    fn a_broken_bound_is_named_by_its_path() {
        let error = decode_heartbeat(&heartbeat(|json| json["metrics"]["cpuUsagePercent"] = 101.into())).unwrap_err();
        assert_eq!(error.code(), ErrorCode::MessageValidation);
        assert!(error.to_string().contains("metrics.cpuUsagePercent"), "{error}");
    }

    #[test]
    fn a_wrong_member_of_a_frame_is_named_by_its_path() {
        let json = br#"{"requestId":"6f2c1b9e-3d4a-4b8e-9a51-0c6f1de2a7b3","type":"token","token":"t","index":"1"}"#;
        let error = decode("response.x", json, StreamingResponse::check).unwrap_err();
        assert!(error.to_string().contains("index: invalid type: string"), "{error}");
    }

    #[test]
    fn unknown_members_and_nulls_are_fine() {
        let beat = decode_heartbeat(&heartbeat(|json| {
            json["epoch"] = serde_json::Value::Null;
            json["novelty"] = 1.into();
        }));
        assert!(beat.unwrap().epoch.is_none());
    }

    #[test]
    fn a_payload_that_cannot_be_written_leaves_nothing_in_the_next() {
        /// Fails half way.
        struct Broken;
        impl Serialize for Broken {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                use serde::ser::{Error as _, SerializeSeq as _};
                let mut seq = serializer.serialize_seq(None)?;
                seq.serialize_element("half")?;
                Err(S::Error::custom("no more"))
            }
        }
        let error = encode("lab.test", &Broken, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("no more"), "{error}");
        assert_eq!(encode("lab.test", &[1, 2], |_| Ok(())).unwrap(), "[1,2]");
    }

    #[test]
    fn a_payload_may_encode_another_while_it_is_written() {
        struct Nested;
        impl Serialize for Nested {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                let inner = encode("lab.test", &[1, 2], |_| Ok(())).unwrap();
                [str::from_utf8(&inner).unwrap(), "outer"].serialize(serializer)
            }
        }
        assert_eq!(encode("lab.test", &Nested, |_| Ok(())).unwrap(), r#"["[1,2]","outer"]"#);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode_heartbeat(&bytes);
            let _ = decode::<StreamingResponse>("response.x", &bytes, StreamingResponse::check);
        }
    }
}
