//! The messages of a chat: role and content are understood, everything else is carried unread.

use mlx_types::messages::{ChatContent, ChatMessage, RawObject};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ApiError, parse, unwritable};
use crate::members::{Members, object};

/// Members of a message that change nothing of the answer, or are understood.
const HARMLESS: [&str; 5] = ["role", "content", "name", "refusal", "annotations"];

/// A chat.
pub(super) struct Said {
    pub(super) messages: Vec<ChatMessage>,
    /// As one text, for workers that know no chats. It ends with whose turn it is.
    pub(super) transcript: String,
    /// What the transcript lacks: where in the request it is.
    pub(super) demands: Vec<String>,
    /// Whether all of them are texts, and no more.
    pub(super) is_plain: bool,
}

/// Reads the messages of a request.
///
/// # Errors
/// The first member that is wrong, by its path.
pub(super) fn read(raw: &[&RawValue]) -> Result<Said, ApiError> {
    let mut said = Said {
        messages: Vec::with_capacity(raw.len()),
        transcript: String::new(),
        demands: Vec::new(),
        is_plain: true,
    };
    for (index, raw) in raw.iter().enumerate() {
        let (message, demands) = message(raw).map_err(|refusal| within(index, refusal))?;
        said.demands.extend(demands.into_iter().map(|name| format!("messages[{index}].{name}")));
        said.transcript.extend([message.role.as_str(), ": "]);
        said.transcript.extend(texts(&message).unwrap_or_default());
        said.transcript.push('\n');
        said.is_plain &= message.is_plain();
        said.messages.push(message);
    }
    said.transcript.push_str("assistant:");
    Ok(said)
}

#[derive(Deserialize)]
struct Own {
    role: String,
    content: Option<ChatContent>,
}

/// A message, and what a transcript lacks of it.
fn message(raw: &RawValue) -> Result<(ChatMessage, Vec<String>), ApiError> {
    let Own { role, content } = parse(raw.get().as_bytes())?;
    let members: Members<'_> = parse(raw.get().as_bytes())?;
    let rest = members.0.iter().filter(|(name, value)| name != "role" && name != "content" && value.get() != "null");
    let carried: Vec<(&str, &RawValue)> = rest.map(|(name, value)| (name.as_str(), *value)).collect();
    let mut demands: Vec<String> = carried
        .iter()
        .filter(|(name, value)| !HARMLESS.contains(name) && value.get() != "[]")
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let params = if carried.is_empty() { None } else { Some(object(carried).map_err(unwritable)?) };
    let message = ChatMessage::new(role, "").content(content).params(params);
    if texts(&message).is_none() {
        demands.push("content".to_owned());
    }
    Ok((message, demands))
}

/// The texts that a message consists of; nothing where it has something else.
fn texts(message: &ChatMessage) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Part {
        r#type: String,
        text: Option<String>,
    }
    match &message.content {
        None => Some(Vec::new()),
        Some(ChatContent::Text(text)) => Some(vec![text.clone()]),
        Some(ChatContent::Parts(parts)) => {
            let text = |part: &RawObject| {
                let part: Part = part.read().ok()?;
                part.text.filter(|_| part.r#type == "text")
            };
            parts.iter().map(text).collect()
        }
        Some(_) => None,
    }
}

fn within(index: usize, refusal: ApiError) -> ApiError {
    let path = refusal.param.map_or_else(|| format!("messages[{index}]"), |path| format!("messages[{index}].{path}"));
    ApiError { param: Some(path), ..refusal }
}
