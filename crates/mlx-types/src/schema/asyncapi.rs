//! The whole contract as an AsyncAPI 3 document: channels, operations, messages, headers.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::IntegerBounds;
use crate::headers as names;

use super::{Payload, Role, Row, contract};

/// The contract as an AsyncAPI 3.0 document, generated from the subject table.
pub fn asyncapi() -> Value {
    let mut generator = generator();
    let mut document = Document::default();
    for row in contract() {
        document.add(&row, &mut generator);
    }
    let mut schemas = generator.take_definitions(true);
    schemas.insert("ErrorReply".into(), error_reply());
    document.messages.insert("ErrorReply".into(), error_reply_message());
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "mlx-serving over NATS",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What crosses NATS between the controller of a cluster and its workers: one JSON object per message. Unknown members are ignored on receipt, and `null` means unset.",
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "defaultContentType": "application/json",
        "servers": {
            "local": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "The server that a node starts in embedded mode, at its default address.",
            },
        },
        "channels": document.channels,
        "operations": document.operations,
        "components": {
            "messages": document.messages,
            "messageTraits": { "traced": { "headers": trace_headers() } },
            "schemas": schemas,
        },
    })
}

#[derive(Default)]
struct Document {
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
}

impl Document {
    fn add(&mut self, row: &Row, generator: &mut SchemaGenerator) {
        let id = channel_id(&row.address);
        self.message(row.payload, row, generator);
        let mut channel = json!({
            "address": row.address,
            "description": row.summary,
            "messages": { row.payload.name: message_ref(row.payload.name) },
        });
        if let Some(parameter) = row.parameter {
            let description = match parameter {
                "model" => "The id of the model as one token: bytes other than ASCII letters, digits, `-` and `_` as `=` and two hexadecimal digits.".to_owned(),
                id => format!("The id of the {}, a UUID in lower case.", id.trim_end_matches("Id")),
            };
            insert(&mut channel, "parameters", json!({ parameter: { "description": description } }));
        }
        self.channels.insert(id.clone(), channel);
        let reply = row.reply.map(|reply| self.reply(&id, reply, generator));
        for (role, action) in [(row.sender, "send"), (row.receiver, "receive")] {
            let mut operation = json!({
                "action": action,
                "summary": row.summary,
                "channel": { "$ref": format!("#/channels/{id}") },
                "messages": [{ "$ref": format!("#/channels/{id}/messages/{}", row.payload.name) }],
                "tags": [{ "name": role.name() }],
            });
            if let Some(reply) = &reply {
                insert(&mut operation, "reply", reply.clone());
            }
            self.operations.insert(format!("{}{}{}", role.name(), capitalised(action), capitalised(&id)), operation);
        }
    }

    /// The inbox that a requester is answered in: its address is made up for each request.
    fn reply(&mut self, id: &str, reply: Payload, generator: &mut SchemaGenerator) -> Value {
        let channel = format!("{id}Reply");
        self.messages.entry(reply.name).or_insert_with(|| message(reply, &Map::new(), generator));
        self.channels.insert(
            channel.clone(),
            json!({
                "address": null,
                "description": "The reply inbox of one request.",
                "messages": { reply.name: message_ref(reply.name), "ErrorReply": message_ref("ErrorReply") },
            }),
        );
        json!({
            "channel": { "$ref": format!("#/channels/{channel}") },
            "messages": [
                { "$ref": format!("#/channels/{channel}/messages/{}", reply.name) },
                { "$ref": format!("#/channels/{channel}/messages/ErrorReply") },
            ],
        })
    }

    /// A message of several channels has the headers of all of them.
    fn message(&mut self, payload: Payload, row: &Row, generator: &mut SchemaGenerator) {
        let mut headers = headers(row);
        if let Some(known) = self.messages.get(payload.name).and_then(|known| known.pointer("/headers/properties")) {
            headers.extend(known.as_object().cloned().unwrap_or_default());
        }
        self.messages.insert(payload.name.into(), message(payload, &headers, generator));
    }
}

/// What a message may carry beside its payload.
fn headers(row: &Row) -> Map<String, Value> {
    let mut headers = Map::new();
    let mut add = |name: &str, schema: Value| {
        headers.insert(name.to_owned(), schema);
    };
    let text = |description: &str| json!({ "type": "string", "description": description });
    let number = |description: &str| json!({ "type": "string", "pattern": "^[0-9]+$", "description": description });
    let queued = row.address.starts_with("inference.queue.");
    if row.reply.is_some() || queued {
        add(
            names::DEADLINE,
            number(
                "Absolute deadline, in milliseconds since the Unix epoch; a receiver past it answers `DEADLINE_EXCEEDED`.",
            ),
        );
    }
    if row.address.ends_with(".inference") || queued {
        add(
            names::ACCEPT,
            json!({
                "type": "string",
                "description": "Kinds of frame that the requester understands beyond the base ones.",
                "examples": ["tokens"],
            }),
        );
    }
    if queued {
        add(names::MESSAGE_ID, text("The id of the request, by which JetStream recognises it."));
    }
    if row.address.starts_with("response.") {
        add(names::WORKER, text("On the first frame that answers a kept request: the id of the worker."));
        add(names::ATTEMPT, number("On frames that answer a kept request: which delivery of it, where not the first."));
    }
    if row.address.starts_with("inference.dead.") {
        add(names::DEAD_REASON, text("Why the request was given up."));
        add(names::DEAD_CODE, text("The stable code of that."));
        add(names::DEAD_DELIVERIES, number("How often it was handed to a worker."));
        add(
            names::DEAD_OMITTED_BYTES,
            number(
                "How long the payload was, where it was left out because the server takes none as large with these headers.",
            ),
        );
    }
    headers
}

fn message(payload: Payload, headers: &Map<String, Value>, generator: &mut SchemaGenerator) -> Value {
    let mut message = json!({
        "name": payload.name,
        "contentType": "application/json",
        "payload": (payload.subschema)(generator),
        "traits": [{ "$ref": "#/components/messageTraits/traced" }],
    });
    if !headers.is_empty() {
        insert(&mut message, "headers", json!({ "type": "object", "properties": headers }));
    }
    message
}

fn error_reply_message() -> Value {
    json!({
        "name": "ErrorReply",
        "summary": "A failed handler's answer, told apart from a reply by its headers; a TypeScript node sends the body alone.",
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "properties": {
                (names::SERVICE_ERROR): { "type": "string", "description": "The message." },
                (names::SERVICE_ERROR_CODE): { "type": "string", "pattern": "^[0-9]+$", "description": "The numeric code." },
                (names::ERROR_CODE): { "type": "string", "description": "The stable code." },
            },
        },
        "payload": { "$ref": "#/components/schemas/ErrorReply" },
    })
}

fn error_reply() -> Value {
    json!({
        "type": "object",
        "properties": {
            "error": { "type": "string", "description": "The public message." },
            "code": { "type": "string", "description": "The stable code." },
        },
        "required": ["error"],
    })
}

fn trace_headers() -> Value {
    json!({
        "type": "object",
        "properties": {
            "traceparent": { "type": "string", "description": "W3C trace context." },
            "tracestate": { "type": "string", "description": "W3C trace context." },
        },
    })
}

fn message_ref(name: &str) -> Value {
    json!({ "$ref": format!("#/components/messages/{name}") })
}

/// AsyncAPI's schema object is a superset of draft-07.
fn generator() -> SchemaGenerator {
    let mut settings = SchemaSettings::draft07().for_deserialize().with_transform(IntegerBounds);
    settings.definitions_path = "/components/schemas".into();
    settings.into_generator()
}

/// `worker.{workerId}.inference` to `workerInference`.
fn channel_id(address: &str) -> String {
    let tokens = address.split('.').filter(|token| !token.starts_with('{'));
    let id: String = tokens.map(capitalised).collect();
    id.chars().take(1).flat_map(char::to_lowercase).chain(id.chars().skip(1)).collect()
}

fn capitalised(word: &str) -> String {
    word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)).collect()
}

fn insert(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(members) = object {
        members.insert(key.to_owned(), value);
    }
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Worker => "worker",
        }
    }
}
