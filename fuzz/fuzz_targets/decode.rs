//! Any bytes are a message or an error, for every type of message; and what is taken survives a round trip.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use mlx_types::messages::{
    self, ClusterAnnouncement, ClusterShutdown, HealthCheck, HealthReport, InferenceAcceptance, InferenceCancel,
    InferenceRequest, Message, ModelCommand, ModelStatus, StreamingResponse, WorkerDeregistration, WorkerHeartbeat,
    WorkerMetricsReport, WorkerRegistration,
};
use mlx_types::{NatsUrl, Subject, subjects};

fuzz_target!(|bytes: &[u8]| {
    let Some((which, json)) = bytes.split_first() else { return };
    match which % 15 {
        0 => decode::<WorkerRegistration>(json),
        1 => decode::<WorkerHeartbeat>(json),
        2 => decode::<WorkerDeregistration>(json),
        3 => decode::<InferenceRequest>(json),
        4 => decode::<InferenceAcceptance>(json),
        5 => decode::<StreamingResponse>(json),
        6 => decode::<InferenceCancel>(json),
        7 => decode::<ModelCommand>(json),
        8 => decode::<ModelStatus>(json),
        9 => decode::<HealthCheck>(json),
        10 => decode::<HealthReport>(json),
        11 => decode::<WorkerMetricsReport>(json),
        12 => decode::<ClusterAnnouncement>(json),
        13 => decode::<ClusterShutdown>(json),
        _ => text(json),
    }
});

fn decode<M: Message + PartialEq + Debug>(json: &[u8]) {
    let strict = serde_json::from_slice::<M>(json);
    let Ok(message) = messages::from_json::<M>(json) else {
        assert!(strict.is_err(), "what is read strictly is read");
        return;
    };
    if let Ok(strict) = strict {
        assert_eq!(strict, message);
    }
    if let Err(violations) = message.check() {
        assert!(!violations.is_empty());
        return;
    }
    let text = serde_json::to_vec(&message).expect("what is valid can be written");
    let again: M = serde_json::from_slice(&text).expect("what is written can be read");
    assert_eq!(again, message);
}

/// Subjects and URLs come from outside, too.
fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if subjects::parse(text).is_some() {
        assert!(Subject::<()>::new(text).is_ok(), "{text:?}");
    }
    if let Ok(url) = text.parse::<NatsUrl>() {
        let plain: NatsUrl = url.as_str_without_credentials().parse().expect("what is shown can be read");
        assert_eq!(plain, url.without_credentials());
    }
}
