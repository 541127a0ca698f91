//! What a request asks of the engine beyond what is understood here.

use mlx_types::messages::RawObject;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{ApiError, parse, unwritable};
use crate::members::{Members, object};

/// Members that are understood, and go their own way.
const OWN: [&str; 7] =
    ["model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p"];

/// Members that change nothing of the answer, or for which the gateway looks itself.
const HARMLESS: [&str; 8] = [
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "stop",
    "store",
    "user",
];

/// What is passed on.
pub(super) struct Params {
    /// As the client wrote it; nothing where there is nothing.
    pub(super) carried: Option<RawObject>,
    /// The members of it that change the answer.
    pub(super) demands: Vec<String>,
}

impl Params {
    /// All members of a body but those understood here, and `own`.
    pub(super) fn of(body: &[u8], own: &[&str]) -> Result<Self, ApiError> {
        let members: Members<'_> = parse(body)?;
        let rest = members.0.iter().filter(|(name, _)| !OWN.contains(&name.as_str()) && !own.contains(&name.as_str()));
        let carried: Vec<(&str, &RawValue)> = rest.map(|(name, value)| (name.as_str(), *value)).collect();
        let changes = carried.iter().filter(|(name, value)| !is_harmless(name, value.get(), &members));
        let demands = changes.map(|(name, _)| (*name).to_owned()).collect();
        let carried = if carried.is_empty() { None } else { Some(object(carried).map_err(unwritable)?) };
        Ok(Self { carried, demands })
    }
}

/// Whether the answer is the same without it: many clients send the defaults along.
fn is_harmless(name: &str, json: &str, all: &Members<'_>) -> bool {
    let is = |value: f64| json.parse() == Ok(value);
    let empty = |name: &str| all.get(name).is_none_or(|json| matches!(json, "null" | "[]" | "false"));
    match name {
        _ if json == "null" || HARMLESS.contains(&name) => true,
        "n" | "best_of" | "repetition_penalty" => is(1.0),
        "frequency_penalty" | "presence_penalty" | "min_p" => is(0.0),
        "logprobs" | "echo" => json == "false",
        "tools" | "functions" => empty(name),
        "tool_choice" | "parallel_tool_calls" => empty("tools"),
        "function_call" => empty("functions"),
        "top_logprobs" => empty("logprobs"),
        "logit_bias" => json == "{}",
        "suffix" => json == "\"\"",
        "response_format" => {
            let format = serde_json::from_str::<Value>(json).unwrap_or_default();
            format.get("type").and_then(Value::as_str) == Some("text")
        }
        _ => false,
    }
}
