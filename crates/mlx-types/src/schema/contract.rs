//! The subject table as data, for documents generated from it.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use super::of;
use crate::messages::{EmbeddingResponse, InferenceAcceptance, Message};
use crate::subjects::{
    ANY_INFERENCE_DEAD, ANY_INFERENCE_QUEUE, ANY_RESPONSE, ANY_WORKER_CANCEL, ANY_WORKER_EMBEDDINGS,
    ANY_WORKER_INFERENCE, CLUSTER_ANNOUNCE, CLUSTER_SHUTDOWN, HEALTH_CHECK, HEALTH_RESPONSE, INFERENCE_CANCEL,
    METRICS_REPORT, MODEL_LOAD, MODEL_STATUS, MODEL_UNLOAD, WORKER_DEREGISTER, WORKER_HEARTBEAT, WORKER_REGISTER,
};
use crate::{Pattern, RequestSubject, Subject};

/// A subject, or a family of them, and what crosses it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Row {
    /// The subject, a token that varies as `{name}`: `worker.{workerId}.inference`.
    pub address: String,
    /// The name of the token that varies.
    pub parameter: Option<&'static str>,
    /// Who publishes.
    pub sender: Role,
    /// Who subscribes.
    pub receiver: Role,
    /// What is published.
    pub payload: Payload,
    /// What is answered in the reply inbox, where there is one.
    pub reply: Option<Payload>,
    /// What it is for.
    pub summary: &'static str,
}

/// A part of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The controller.
    Controller,
    /// Any worker.
    Worker,
}

/// A type of message.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Payload {
    /// Its name.
    pub name: &'static str,
    /// Its own schema, draft 2020-12.
    pub schema: fn() -> Value,
    /// Its schema as a part of another document.
    pub(crate) subschema: fn(&mut SchemaGenerator) -> Schema,
}

impl Payload {
    fn of<M: Message + JsonSchema>() -> Self {
        Self { name: M::NAME, schema: of::<M>, subschema: SchemaGenerator::subschema_for::<M> }
    }
}

/// Every subject of the contract.
pub fn contract() -> Vec<Row> {
    use Role::{Controller, Worker};
    vec![
        publish(&WORKER_REGISTER, Worker, Controller, "A worker joins."),
        publish(&WORKER_HEARTBEAT, Worker, Controller, "A worker lives, every `discovery.heartbeatIntervalMs`."),
        publish(&WORKER_DEREGISTER, Worker, Controller, "A worker leaves."),
        Row {
            reply: Some(Payload::of::<InferenceAcceptance>()),
            ..family(&ANY_WORKER_INFERENCE, "workerId", Controller, Worker, "A prompt for one worker to complete.")
        },
        family(&ANY_RESPONSE, "requestId", Worker, Controller, "The token stream that answers one request."),
        family(&ANY_WORKER_CANCEL, "workerId", Controller, Worker, "The answer to a request is no longer wanted."),
        Row {
            reply: Some(Payload::of::<EmbeddingResponse>()),
            ..family(&ANY_WORKER_EMBEDDINGS, "workerId", Controller, Worker, "Texts for one worker to embed.")
        },
        family(
            &ANY_INFERENCE_QUEUE,
            "model",
            Controller,
            Worker,
            "A prompt kept until a worker with the model takes it.",
        ),
        publish(&INFERENCE_CANCEL, Controller, Worker, "The answer to a kept request is no longer wanted."),
        family(&ANY_INFERENCE_DEAD, "model", Worker, Controller, "A kept prompt that was given up."),
        request(&MODEL_LOAD, Controller, Worker, "Load a model."),
        request(&MODEL_UNLOAD, Controller, Worker, "Unload a model."),
        publish(&MODEL_STATUS, Worker, Controller, "How far a model is."),
        request(&HEALTH_CHECK, Controller, Worker, "Are you well?"),
        publish(&HEALTH_RESPONSE, Worker, Controller, "A health report from a node without a reply inbox."),
        publish(&METRICS_REPORT, Worker, Controller, "Figures between heartbeats."),
        publish(&CLUSTER_ANNOUNCE, Controller, Worker, "Who came and went."),
        publish(&CLUSTER_SHUTDOWN, Controller, Worker, "The cluster goes down."),
    ]
}

fn publish<M: Message + JsonSchema>(subject: &Subject<M>, sender: Role, receiver: Role, summary: &'static str) -> Row {
    let address = subject.as_str().to_owned();
    Row { address, parameter: None, sender, receiver, payload: Payload::of::<M>(), reply: None, summary }
}

fn request<Q: Message + JsonSchema, R: Message + JsonSchema>(
    subject: &RequestSubject<Q, R>,
    sender: Role,
    receiver: Role,
    summary: &'static str,
) -> Row {
    Row { reply: Some(Payload::of::<R>()), ..publish(subject.as_subject(), sender, receiver, summary) }
}

fn family<M: Message + JsonSchema>(
    pattern: &Pattern<M>,
    parameter: &'static str,
    sender: Role,
    receiver: Role,
    summary: &'static str,
) -> Row {
    Row {
        address: pattern.as_str().replace('*', &format!("{{{parameter}}}")),
        parameter: Some(parameter),
        sender,
        receiver,
        payload: Payload::of::<M>(),
        reply: None,
        summary,
    }
}
