//! The requests of OpenAI's protocol: what is understood here, and the rest of them, which goes to the engine unread.

mod messages;
mod params;

use mlx_types::messages::{Feature, InferenceRequest, Message};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use self::params::Params;
use super::error::ApiError;

/// A request for text, whichever way it was asked.
#[derive(Debug)]
pub(super) struct Asked {
    /// What goes to a worker.
    pub(super) request: InferenceRequest,
    /// What a worker need not accept of it, since the answer is the same without.
    pub(super) optional: Vec<Feature>,
    /// The members that a worker has to accept, to name them if none does.
    pub(super) demands: Vec<String>,
    /// What ends the answer.
    pub(super) stop: Vec<String>,
    /// Whether to stream.
    pub(super) stream: bool,
    /// Whether a stream closes with its figures.
    pub(super) include_usage: bool,
    /// Answers that are wanted in one.
    pub(super) choices: u64,
}

/// What `/v1/chat/completions` is sent.
///
/// # Errors
/// What cannot be answered as it was asked, with the member that is meant.
pub(super) fn chat(body: &[u8]) -> Result<Asked, ApiError> {
    let Chat { messages } = parse(body)?;
    let chat = messages::read(&messages)?;
    let params = Params::of(body, &["messages"])?;
    let mut asked = parse::<Sampling>(body)?.asked(params, chat.transcript)?;
    asked.demands.extend(chat.demands);
    if asked.demands.is_empty() {
        asked.optional = vec![Feature::Params, Feature::Messages];
    } else {
        // Nobody who reads only this is asked, and what would be in a request twice counts twice.
        asked.request.prompt.clear();
        asked.optional.clear();
    }
    asked.request.messages = Some(chat.messages);
    checked(asked)
}

/// What `/v1/completions` is sent.
///
/// # Errors
/// As [`chat`].
pub(super) fn completion(body: &[u8]) -> Result<Asked, ApiError> {
    let Completion { prompt } = parse(body)?;
    let [prompt] = <[String; 1]>::try_from(prompt.into_vec())
        .map_err(|_| ApiError::invalid("prompt".to_owned(), "one prompt at a time is answered"))?;
    if prompt.is_empty() {
        // It kills the generating thread of some engines.
        return Err(ApiError::invalid("prompt".to_owned(), "`prompt` must not be empty"));
    }
    let params = Params::of(body, &["prompt"])?;
    let mut asked = parse::<Sampling>(body)?.asked(params, prompt)?;
    asked.request.raw = Some(true);
    checked(asked)
}

#[derive(Deserialize)]
struct Chat<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Completion {
    prompt: OneOrMany,
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
    #[serde(default, deserialize_with = "whole")]
    n: Option<u64>,
}

/// A count: JSON knows one kind of number, and some clients write `100.0`.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let of_float = || number.as_f64().filter(|value| value.fract() == 0.0 && (0.0..=LARGEST).contains(value));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and within bounds")]
    let value = number.as_u64().or_else(|| of_float().map(|value| value as u64));
    value.map(Some).ok_or_else(|| {
        serde::de::Error::custom(format!("`{number}` is no count of tokens or answers, which is a whole number"))
    })
}

/// The largest whole number that a JSON number surely holds.
const LARGEST: f64 = 9_007_199_254_740_992.0;

#[derive(Deserialize)]
struct StreamClosing {
    include_usage: Option<bool>,
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
    fn asked(self, params: Params, prompt: String) -> Result<Asked, ApiError> {
        let stop = self.stop.map(OneOrMany::into_vec).unwrap_or_default();
        if stop.iter().any(String::is_empty) {
            return Err(ApiError::invalid("stop".to_owned(), "a stop sequence must not be empty"));
        }
        let choices = self.n.unwrap_or(1);
        if choices == 0 {
            return Err(ApiError::invalid("n".to_owned(), "`n` must be at least 1"));
        }
        let stream = self.stream.unwrap_or(false);
        Ok(Asked {
            optional: params.demands.is_empty().then_some(Feature::Params).into_iter().collect(),
            demands: params.demands,
            request: InferenceRequest::new(self.model, prompt)
                .max_tokens(self.max_completion_tokens.or(self.max_tokens))
                .temperature(self.temperature)
                .top_p(self.top_p)
                .params(params.carried)
                .stream(stream),
            stop,
            stream,
            include_usage: self.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            choices,
        })
    }
}

/// Reads a body, or says which member is wrong.
pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
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

/// What was read cannot be written again, which nobody has seen so far.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unwritable(error: serde_json::Error) -> ApiError {
    ApiError::invalid(None, format!("the body cannot be passed on: {error}"))
}

/// Checks the bounds here, where the request's own names of its members are known.
fn checked(asked: Asked) -> Result<Asked, ApiError> {
    let Err(violations) = asked.request.check() else { return Ok(asked) };
    let Some(first) = violations.iter().next() else { return Ok(asked) };
    let name = match first.path.as_str() {
        "maxTokens" => "max_tokens",
        "topP" => "top_p",
        "params" => return Err(ApiError::invalid(None, format!("what is passed on to the engine {}", first.message))),
        other => other,
    };
    Err(ApiError::invalid(name.to_owned(), format!("`{name}` {}", first.message)))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use mlx_types::messages::{ChatContent, ChatMessage, RawObject};

    use super::*;

    fn refused(result: Result<Asked, ApiError>) -> (StatusCode, String, String) {
        let refusal = result.unwrap_err();
        (refusal.status, refusal.param.unwrap_or_default(), refusal.message)
    }

    fn carried(asked: &Asked) -> &str {
        asked.request.params.as_ref().map_or("", RawObject::as_json)
    }

    #[test]
    fn a_chat_goes_along_as_it_is_and_as_a_transcript() {
        let body = r#"{"model": "m", "messages": [{"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}], "name": "x"},
            {"role": "assistant", "content": null}], "max_tokens": 9, "max_completion_tokens": 5, "user": "u", "tools": [],
            "n": 1, "stop": "END", "stream": true, "stream_options": {"include_usage": true}, "temperature": 0.5}"#;
        let asked = chat(body.as_bytes()).unwrap();
        assert_eq!(asked.request.prompt, "system: Be brief.\nuser: Hi there\nassistant: \nassistant:");
        let messages = asked.request.messages.as_ref().unwrap();
        assert_eq!(messages[0], ChatMessage::new("system", "Be brief."));
        assert!(matches!(&messages[1].content, Some(ChatContent::Parts(parts)) if parts.len() == 2), "{messages:?}");
        assert_eq!(messages[1].params.as_ref().unwrap().as_json(), r#"{"name":"x"}"#);
        assert_eq!(messages[2].content, None);
        assert_eq!((asked.request.max_tokens, asked.request.temperature), (Some(5), Some(0.5)));
        assert_eq!(carried(&asked), r#"{"user":"u","tools":[],"n":1,"stop":"END"}"#);
        assert_eq!(asked.optional, [Feature::Params, Feature::Messages], "every worker answers it alike");
        assert_eq!((asked.stop, asked.stream, asked.include_usage), (vec!["END".to_owned()], true, true));
    }

    #[test]
    fn r1_what_only_an_engine_understands_is_carried_as_it_is_written() {
        let body = r#"{"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "function": {"arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": "7"}], "seed": 7, "top_k": 1.50, "tool_choice": "auto",
            "tools": [{"type": "function"}], "novel": {"a": [1E2]}}"#;
        let asked = chat(body.as_bytes()).unwrap();
        assert_eq!(
            carried(&asked),
            r#"{"seed":7,"top_k":1.50,"tool_choice":"auto","tools":[{"type": "function"}],"novel":{"a": [1E2]}}"#
        );
        let demands =
            ["seed", "top_k", "tool_choice", "tools", "novel", "messages[0].content", "messages[1].tool_calls"];
        assert_eq!(asked.demands, [&demands[..], &["messages[2].tool_call_id"]].concat());
        assert_eq!((asked.request.prompt.as_str(), asked.optional.len()), ("", 0));
        assert_eq!(asked.request.needs(), [Feature::Params, Feature::Messages]);
        let call = asked.request.messages.as_ref().unwrap()[1].params.as_ref().unwrap();
        assert_eq!(call.as_json(), r#"{"tool_calls":[{"id": "c", "function": {"arguments": "{}"}}]}"#);
    }

    #[test]
    fn what_changes_nothing_is_asked_of_every_worker_and_what_does_is_not() {
        let with = |member: &str| completion(format!(r#"{{"model": "m", "prompt": "p", {member}}}"#).as_bytes());
        for harmless in [
            r#""echo": false, "best_of": 1, "logprobs": null, "response_format": {"type": "text"}, "stop": ["x"]"#,
            r#""tools": [], "tool_choice": "auto", "logit_bias": {}, "presence_penalty": 0.0, "user": "u""#,
        ] {
            let asked = with(harmless).unwrap();
            assert_eq!((asked.optional, asked.demands.len()), (vec![Feature::Params], 0), "{harmless}");
            assert_eq!(asked.request.raw, Some(true));
        }
        for member in ["n", "best_of", "logprobs", "top_k", "seed", "presence_penalty"] {
            let asked = with(&format!(r#""{member}": 2"#)).unwrap();
            assert_eq!((asked.optional.len(), asked.demands), (0, vec![member.to_owned()]));
        }
        assert_eq!(with(r#""n": 3"#).unwrap().choices, 3);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_the_member_that_asks_for_it() {
        let with = |member: &str| completion(format!(r#"{{"model": "m", "prompt": "p", {member}}}"#).as_bytes());
        for (member, param) in [
            (r#""n": 0"#, "n"),
            (r#""n": "two""#, "n"),
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
        let wrong = br#"{"model": "m", "messages": [{"role": "user", "content": [1]}]}"#;
        let (_, param, message) = refused(chat(wrong));
        assert_eq!(param, "messages[0].content[0]", "{message}");
        let deep = format!(r#"{{"model": "m", "prompt": "p", "x": {}{}}}"#, "[".repeat(70), "]".repeat(70));
        let (_, param, message) = refused(completion(deep.as_bytes()));
        assert_eq!(param, "");
        assert!(message.contains("71 levels"), "{message}");
        let large = format!(r#"{{"model": "m", "prompt": "p", "x": "{}"}}"#, "x".repeat(1 << 20));
        assert!(refused(completion(large.as_bytes())).2.contains("at most 1048576"));
    }

    #[test]
    fn a_body_that_is_no_json_is_said_to_be_none() {
        let (status, param, message) = refused(chat(b"{"));
        assert_eq!((status, param.as_str()), (StatusCode::BAD_REQUEST, ""));
        assert!(message.contains("EOF") || message.contains("line 1"), "{message}");
        assert!(refused(chat(br#"{"messages": []}"#)).2.contains("missing field `model`"));
    }
}
