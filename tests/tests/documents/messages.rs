//! `docs/wire-protocol.md` says what the types say.

use std::collections::BTreeSet;

use mlx_errors::RemoteError;
use mlx_types::messages::{
    ClusterAnnouncement, InferenceAcceptance, InferenceCancel, InferenceRequest, Message, StreamingResponse,
    WorkerDeregistration, WorkerHeartbeat, WorkerRegistration,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::page::{self, Part};

const PAGE: &str = "docs/wire-protocol.md";

#[test]
fn every_message_of_the_page_is_one_of_its_subject() {
    let steps = page::steps(&page::read(PAGE)).unwrap_or_else(|problem| panic!("{PAGE}, {problem}"));
    let mut seen = 0;
    for step in &steps {
        if let Part::Message(subject) = &step.part {
            check(subject, &step.text).unwrap_or_else(|problem| panic!("{PAGE}, line {}: {problem}", step.line));
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen} messages");
}

fn check(subject: &str, json: &str) -> Result<(), String> {
    let tokens: Vec<_> = subject.split('.').collect();
    match *tokens {
        ["worker", "register"] => message::<WorkerRegistration>(json),
        ["worker", "heartbeat"] => message::<WorkerHeartbeat>(json),
        ["worker", "deregister"] => message::<WorkerDeregistration>(json),
        ["worker", _, "inference"] => message::<InferenceRequest>(json),
        ["worker", _, "cancel"] => message::<InferenceCancel>(json),
        ["response", _] => message::<StreamingResponse>(json),
        ["cluster", "announce"] => message::<ClusterAnnouncement>(json),
        ["acceptance"] => message::<InferenceAcceptance>(json),
        ["error"] => decode::<RemoteError>(json).map(drop),
        _ => Err(format!("no message is known for {subject}")),
    }
}

fn message<M: Message>(json: &str) -> Result<(), String> {
    decode::<M>(json)?.check().map_err(|violations| violations.to_string())
}

/// A message, all of whose members mean something: an unknown one would be ignored.
fn decode<M: DeserializeOwned + Serialize>(json: &str) -> Result<M, String> {
    let message: M = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let (written, read): (Value, Value) =
        (serde_json::from_str(json).unwrap(), serde_json::to_value(&message).map_err(|error| error.to_string())?);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    if keys(&written) == keys(&read) {
        Ok(message)
    } else {
        Err(format!("{:?} was written, and {:?} understood", keys(&written), keys(&read)))
    }
}

#[test]
fn every_subject_and_every_member_is_on_the_page() {
    // What only the durable hand-over needs is on a page of its own.
    let text = page::read(PAGE) + &page::read("docs/durable.md");
    let contract = page::read("docs/asyncapi.yaml");
    let (mut subjects, mut members) = (0, 0);
    let mut in_properties = None;
    for line in contract.lines() {
        let indent = line.len() - line.trim_start().len();
        let (key, value) = line.trim().split_once(':').unwrap_or((line.trim(), ""));
        if in_properties.is_some_and(|outer| indent <= outer) {
            in_properties = None;
        }
        if key == "address" && value.trim() != "null" {
            subjects += 1;
            assert!(text.contains(&format!("`{}`", value.trim())), "{PAGE} does not have the subject {value}");
        } else if key == "properties" && in_properties.is_none() {
            in_properties = Some(indent);
        } else if in_properties.is_some_and(|outer| indent == outer + 2) {
            members += 1;
            assert!(text.contains(&format!("`{key}`")), "{PAGE} does not have the member {key}");
        }
    }
    assert!(subjects > 12 && members > 60, "{subjects} subjects and {members} members in the contract");
}
