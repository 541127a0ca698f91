//! The requests of OpenAI's protocol, as far as they are understood here. Members that are not known are ignored.

use axum::http::StatusCode;
use mlx_types::messages::{ChatMessage, InferenceRequest, Message};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::ApiError;

/// A request for text, whichever way it was asked.
#[derive(Debug)]
pub(super) struct Asked {
    /// What goes to a worker.
    pub(super) request: InferenceRequest,
    /// What ends the answer.
    pub(super) stop: Vec<String>,
    /// Whether to stream.
    pub(super) stream: bool,
    /// Whether a stream closes with its figures.
    pub(super) include_usage: bool,
}

/// What `/v1/chat/completions` is sent.
///
/// # Errors
/// What cannot be answered as it was asked, with the member that is meant.
pub(super) fn chat(body: &[u8]) -> Result<Asked, ApiError> {
    let Chat { messages } = parse(body)?;
    let messages: Vec<ChatMessage> =
        (0..).zip(messages).map(|(index, said)| said.message(index)).collect::<Result<_, _>>()?;
    // For workers that know prompts only. It has to end with whose turn it is.
    let turns = messages.iter().flat_map(|message| [&message.role, ": ", &message.content, "\n"]);
    let transcript: String = turns.chain(["assistant:"]).collect();
    let mut asked = parse::<Sampling>(body)?.asked(transcript)?;
    asked.request.messages = Some(messages);
    checked(asked)
}

/// What `/v1/completions` is sent.
///
/// # Errors
/// As [`chat`].
pub(super) fn completion(body: &[u8]) -> Result<Asked, ApiError> {
    let Completion { prompt, echo, best_of } = parse(body)?;
    let [prompt] = <[String; 1]>::try_from(prompt.into_vec())
        .map_err(|_| ApiError::invalid("prompt".to_owned(), "one prompt at a time is answered"))?;
    if prompt.is_empty() {
        // It kills the generating thread of some engines.
        return Err(ApiError::invalid("prompt".to_owned(), "`prompt` must not be empty"));
    }
    refuse("echo", echo.as_ref(), &[Value::Bool(false)])?;
    refuse("best_of", best_of.as_ref(), &[1.into()])?;
    checked(parse::<Sampling>(body)?.asked(prompt)?)
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    role: String,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a list of parts with a type")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

#[derive(Deserialize)]
struct Completion {
    prompt: OneOrMany,
    echo: Option<Value>,
    best_of: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Sampling {
    model: String,
    #[serde(default)]
    stream: Option<bool>,
    stream_options: Option<StreamClosing>,
    #[serde(default, deserialize_with = "whole")]
    max_tokens: Option<u64>,
    #[serde(default, deserialize_with = "whole")]
    max_completion_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    stop: Option<OneOrMany>,
    n: Option<Value>,
    tools: Option<Value>,
    functions: Option<Value>,
    response_format: Option<Value>,
    logprobs: Option<Value>,
}

/// A count of tokens: JSON knows one kind of number, and some clients write `100.0`.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let of_float = || number.as_f64().filter(|value| value.fract() == 0.0 && (0.0..=LARGEST).contains(value));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and within bounds")]
    let value = number.as_u64().or_else(|| of_float().map(|value| value as u64));
    value.map(Some).ok_or_else(|| {
        serde::de::Error::custom(format!("`{number}` is no count of tokens, which is a whole number from 1"))
    })
}

/// The largest whole number that a JSON number surely holds.
const LARGEST: f64 = 9_007_199_254_740_992.0;

#[derive(Deserialize)]
struct StreamClosing {
    include_usage: Option<bool>,
}

impl Said {
    fn message(self, index: usize) -> Result<ChatMessage, ApiError> {
        let content = match self.content {
            // What an assistant says that only calls tools.
            None => String::new(),
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => {
                let texts = parts.into_iter().map(|part| match part.text {
                    Some(text) if part.r#type == "text" => Ok(text),
                    _ => {
                        let message = format!("a part of type `{}` cannot be passed on, only `text` can", part.r#type);
                        Err(ApiError::invalid(format!("messages[{index}].content"), message))
                    }
                });
                texts.collect::<Result<_, _>>()?
            }
        };
        Ok(ChatMessage::new(self.role, content))
    }
}

impl OneOrMany {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Many(texts) => texts,
        }
    }
}

impl Sampling {
    fn asked(self, prompt: String) -> Result<Asked, ApiError> {
        // An answer without what these ask for would look like one with it.
        refuse("n", self.n.as_ref(), &[1.into()])?;
        refuse("tools", self.tools.as_ref(), &[Value::Array(Vec::new())])?;
        refuse("functions", self.functions.as_ref(), &[Value::Array(Vec::new())])?;
        refuse("response_format", self.response_format.as_ref(), &[serde_json::json!({ "type": "text" })])?;
        refuse("logprobs", self.logprobs.as_ref(), &[Value::Bool(false)])?;
        let stop = self.stop.map(OneOrMany::into_vec).unwrap_or_default();
        if stop.iter().any(String::is_empty) {
            return Err(ApiError::invalid("stop".to_owned(), "a stop sequence must not be empty"));
        }
        let stream = self.stream.unwrap_or(false);
        Ok(Asked {
            request: InferenceRequest::new(self.model, prompt)
                .max_tokens(self.max_completion_tokens.or(self.max_tokens))
                .temperature(self.temperature)
                .top_p(self.top_p)
                .stream(stream),
            stop,
            stream,
            include_usage: self.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
        })
    }
}

/// Reads a body, or says which member is wrong.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut document = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut document);
    if read.is_ok() && document.end().is_err() {
        return Err(ApiError::invalid(None, "the body goes on behind its JSON document"));
    }
    read.map_err(|error| {
        let path = error.path().to_string();
        // Its signs for the whole document, and for a place that has no name.
        let param = Some(path).filter(|path| !matches!(path.as_str(), "." | "?"));
        ApiError::invalid(param, format!("the body is not what is expected here: {}", error.inner()))
    })
}

/// Refuses what would change the answer and cannot be done, unless it asks for what happens anyway.
fn refuse(name: &str, value: Option<&Value>, harmless: &[Value]) -> Result<(), ApiError> {
    match value {
        None | Some(Value::Null) => Ok(()),
        Some(value) if harmless.contains(value) => Ok(()),
        Some(_) => {
            let harmless: Vec<String> = harmless.iter().map(ToString::to_string).collect();
            let message = format!("`{name}` is not supported, other than {}", harmless.join(" or "));
            let refusal = ApiError::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message);
            Err(ApiError { param: Some(name.to_owned()), ..refusal })
        }
    }
}

/// Checks the bounds here, where the request's own names of its members are known.
fn checked(asked: Asked) -> Result<Asked, ApiError> {
    let Err(violations) = asked.request.check() else { return Ok(asked) };
    let Some(first) = violations.iter().next() else { return Ok(asked) };
    let name = match first.path.as_str() {
        "maxTokens" => "max_tokens",
        "topP" => "top_p",
        other => other,
    };
    Err(ApiError::invalid(name.to_owned(), format!("`{name}` {}", first.message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(result: Result<Asked, ApiError>) -> (StatusCode, String, String) {
        let refusal = result.unwrap_err();
        (refusal.status, refusal.param.unwrap_or_default(), refusal.message)
    }

    #[test]
    fn a_chat_goes_along_as_it_is_and_as_a_transcript() {
        let body = r#"{"model": "m", "messages": [{"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}], "name": "x"},
            {"role": "assistant", "content": null}], "max_tokens": 9, "max_completion_tokens": 5, "user": "u", "tools": [],
            "n": 1, "stop": "END", "stream": true, "stream_options": {"include_usage": true}, "temperature": 0.5}"#;
        let asked = chat(body.as_bytes()).unwrap();
        assert_eq!(asked.request.prompt, "system: Be brief.\nuser: Hi there\nassistant: \nassistant:");
        assert_eq!(asked.request.messages.unwrap()[1], ChatMessage::new("user", "Hi there"));
        assert_eq!((asked.request.max_tokens, asked.request.temperature), (Some(5), Some(0.5)));
        assert_eq!((asked.stop, asked.stream, asked.include_usage), (vec!["END".to_owned()], true, true));
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_the_member_that_asks_for_it() {
        let with = |member: &str| completion(format!(r#"{{"model": "m", "prompt": "p", {member}}}"#).as_bytes());
        assert!(with(r#""echo": false, "best_of": 1, "logprobs": null, "response_format": {"type": "text"}"#).is_ok());
        for (member, param) in [
            (r#""n": 2"#, "n"),
            (r#""echo": true"#, "echo"),
            (r#""logprobs": 3"#, "logprobs"),
            (r#""tools": [{}]"#, "tools"),
            (r#""response_format": {"type": "json_object"}"#, "response_format"),
            (r#""max_tokens": 0"#, "max_tokens"),
            (r#""max_tokens": -1"#, "max_tokens"),
            (r#""top_p": 1.5"#, "top_p"),
            (r#""temperature": "hot""#, "temperature"),
            (r#""stop": ["a", ""]"#, "stop"),
            (r#""stop": 1"#, "stop"),
        ] {
            let (status, about, message) = refused(with(member));
            assert_eq!((status, about.as_str()), (StatusCode::BAD_REQUEST, param), "{member}: {message}");
            assert!(!message.contains("untagged"), "{message}");
        }
        assert_eq!(refused(completion(br#"{"model": "m", "prompt": ["a", "b"]}"#)).1, "prompt");
        assert_eq!(refused(chat(br#"{"model": "m", "messages": []}"#)).1, "messages");
        let picture = br#"{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#;
        let (_, param, message) = refused(chat(picture));
        assert_eq!(param, "messages[0].content");
        assert!(message.contains("image_url"), "{message}");
    }

    #[test]
    fn a_body_that_is_no_json_is_said_to_be_none() {
        let (status, param, message) = refused(chat(b"{"));
        assert_eq!((status, param.as_str()), (StatusCode::BAD_REQUEST, ""));
        assert!(message.contains("EOF") || message.contains("line 1"), "{message}");
        assert!(refused(chat(br#"{"messages": []}"#)).2.contains("missing field `model`"));
    }
}
