//! Reads the frames of a token stream, which are told apart by a member.
//!
//! What serde derives for such an enum copies every frame into a tree before it reads it, and has then forgotten where in
//! it a member was. Here members are read as they come, once the type is known; only those before it are kept aside, and
//! peers write the type first or right behind the id.

use std::fmt;

use mlx_errors::Violations;
use serde::Deserialize;
use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::{FinishReason, Message, RawObject, StreamingResponse, Usage};
use crate::{Epoch, RequestId};

impl StreamingResponse {
    /// What `remote = "Self"` would derive.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FrameVisitor).map(|frame| frame.response)
    }
}

/// A frame of a token stream, with the incarnation of the worker that sends it.
///
/// ```
/// use mlx_types::messages::Frame;
///
/// let json = r#"{"requestId":"6f2c1b9e-3d4a-4b8e-9a51-0c6f1de2a7b3","type":"token","token":"a","index":0,"epoch":7}"#;
/// let frame: Frame = serde_json::from_str(json)?;
/// assert_eq!(frame.epoch.map(|epoch| epoch.as_millis()), Some(7));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Frame {
    /// What it brings.
    pub response: StreamingResponse,
    /// The incarnation; unset for workers that do not tell.
    pub epoch: Option<Epoch>,
}

impl Frame {
    /// Checks the bounds of what it brings.
    ///
    /// # Errors
    /// Those of [`StreamingResponse`].
    pub fn check(&self) -> Result<(), Violations> {
        self.response.check()
    }
}

impl<'de> Deserialize<'de> for Frame {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FrameVisitor)
    }
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Token,
    Tokens,
    Delta,
    Done,
    Error,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Member {
    Type,
    RequestId,
    Token,
    Tokens,
    Delta,
    Index,
    TotalTokens,
    LatencyMs,
    FinishReason,
    Usage,
    Error,
    Code,
    Retryable,
    Epoch,
    #[serde(other)]
    Unknown,
}

impl Member {
    /// The name on the wire.
    fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::RequestId => "requestId",
            Self::Token => "token",
            Self::Tokens => "tokens",
            Self::Delta => "delta",
            Self::Index => "index",
            Self::TotalTokens => "totalTokens",
            Self::LatencyMs => "latencyMs",
            Self::FinishReason => "finishReason",
            Self::Usage => "usage",
            Self::Error => "error",
            Self::Code => "code",
            Self::Retryable => "retryable",
            Self::Epoch => "epoch",
            Self::Unknown => "",
        }
    }

    /// Whether frames of this kind have it; in others it is as unknown as any.
    fn belongs_to(self, kind: Kind) -> bool {
        match self {
            Self::Type | Self::RequestId | Self::Epoch => true,
            Self::Token => kind == Kind::Token,
            Self::Tokens => kind == Kind::Tokens,
            Self::Delta => kind == Kind::Delta,
            Self::Index => matches!(kind, Kind::Token | Kind::Tokens | Kind::Delta),
            Self::TotalTokens | Self::LatencyMs | Self::FinishReason | Self::Usage => kind == Kind::Done,
            Self::Error | Self::Code | Self::Retryable => kind == Kind::Error,
            Self::Unknown => false,
        }
    }
}

struct FrameVisitor;

impl<'de> Visitor<'de> for FrameVisitor {
    type Value = Frame;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with a `type`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Frame, A::Error> {
        let mut draft = Draft::default();
        let mut early = Vec::new();
        while let Some(member) = map.next_key::<Member>()? {
            match (draft.kind, member) {
                (None, Member::Unknown) => drop(map.next_value::<IgnoredAny>()?),
                (None, Member::Type | Member::RequestId) => draft.read(member, &mut map)?,
                (None, _) => early.push((member, map.next_value::<Value>()?)),
                (Some(kind), member) if member.belongs_to(kind) => draft.read(member, &mut map)?,
                (Some(_), _) => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let kind = draft.kind.ok_or_else(|| A::Error::missing_field(Member::Type.name()))?;
        for (member, value) in early {
            if member.belongs_to(kind) {
                let mut one = MapDeserializer::new(std::iter::once((member.name(), value)));
                let read = one.next_key::<Member>().and_then(|_| draft.read(member, &mut one));
                read.map_err(|error: serde_json::Error| A::Error::custom(format_args!("{}: {error}", member.name())))?;
            }
        }
        draft.finish(kind)
    }
}

/// What has been read of a frame.
#[derive(Default)]
struct Draft {
    kind: Option<Kind>,
    request_id: Option<RequestId>,
    token: Option<String>,
    tokens: Option<Vec<String>>,
    delta: Option<RawObject>,
    index: Option<u64>,
    total_tokens: Option<u64>,
    latency_ms: Option<f64>,
    #[expect(clippy::option_option, reason = "read, and `null`, which means unset but must not come twice either")]
    finish_reason: Option<Option<FinishReason>>,
    #[expect(clippy::option_option, reason = "as above")]
    usage: Option<Option<Usage>>,
    error: Option<String>,
    code: Option<String>,
    #[expect(clippy::option_option, reason = "as above")]
    retryable: Option<Option<bool>>,
    #[expect(clippy::option_option, reason = "as above")]
    epoch: Option<Option<Epoch>>,
}

impl Draft {
    /// Reads the value of `member`, which is the next of `map`.
    fn read<'de, A: MapAccess<'de>>(&mut self, member: Member, map: &mut A) -> Result<(), A::Error> {
        let name = member.name();
        match member {
            Member::Type => set(&mut self.kind, name, map),
            Member::RequestId => set(&mut self.request_id, name, map),
            Member::Token => set(&mut self.token, name, map),
            Member::Tokens => set(&mut self.tokens, name, map),
            Member::Delta => set(&mut self.delta, name, map),
            Member::Index => set(&mut self.index, name, map),
            Member::TotalTokens => set(&mut self.total_tokens, name, map),
            Member::LatencyMs => set(&mut self.latency_ms, name, map),
            Member::FinishReason => set(&mut self.finish_reason, name, map),
            Member::Usage => set(&mut self.usage, name, map),
            Member::Error => set(&mut self.error, name, map),
            Member::Code => set(&mut self.code, name, map),
            Member::Retryable => set(&mut self.retryable, name, map),
            Member::Epoch => set(&mut self.epoch, name, map),
            Member::Unknown => map.next_value::<IgnoredAny>().map(drop),
        }
    }

    fn finish<E: Error>(self, kind: Kind) -> Result<Frame, E> {
        let request_id = required(self.request_id, Member::RequestId)?;
        let epoch = self.epoch.flatten();
        let response = match kind {
            Kind::Token => StreamingResponse::Token {
                request_id,
                token: required(self.token, Member::Token)?,
                index: required(self.index, Member::Index)?,
            },
            Kind::Tokens => StreamingResponse::Tokens {
                request_id,
                tokens: required(self.tokens, Member::Tokens)?,
                index: required(self.index, Member::Index)?,
            },
            Kind::Delta => StreamingResponse::Delta {
                request_id,
                delta: required(self.delta, Member::Delta)?,
                index: required(self.index, Member::Index)?,
            },
            Kind::Done => StreamingResponse::Done {
                request_id,
                total_tokens: required(self.total_tokens, Member::TotalTokens)?,
                latency_ms: required(self.latency_ms, Member::LatencyMs)?,
                finish_reason: self.finish_reason.flatten(),
                usage: self.usage.flatten(),
            },
            Kind::Error => StreamingResponse::Error {
                request_id,
                error: required(self.error, Member::Error)?,
                code: required(self.code, Member::Code)?,
                retryable: self.retryable.flatten(),
            },
        };
        Ok(Frame { response, epoch })
    }
}

fn set<'de, T: DeserializeOwned, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    name: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::duplicate_field(name));
    }
    *slot = Some(map.next_value()?);
    Ok(())
}

fn required<T, E: Error>(value: Option<T>, member: Member) -> Result<T, E> {
    value.ok_or_else(|| E::missing_field(member.name()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ID: &str = "6f2c1b9e-3d4a-4b8e-9a51-0c6f1de2a7b3";

    /// As serde derives it: what is accepted here is accepted there, and means the same.
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
    enum Derived {
        Token {
            request_id: RequestId,
            token: String,
            index: u64,
        },
        Tokens {
            request_id: RequestId,
            tokens: Vec<String>,
            index: u64,
        },
        Delta {
            request_id: RequestId,
            delta: serde_json::Map<String, Value>,
            index: u64,
        },
        Done {
            request_id: RequestId,
            total_tokens: u64,
            latency_ms: f64,
            finish_reason: Option<FinishReason>,
            usage: Option<Usage>,
        },
        Error {
            request_id: RequestId,
            error: String,
            code: String,
            retryable: Option<bool>,
        },
    }

    impl From<Derived> for StreamingResponse {
        fn from(derived: Derived) -> Self {
            match derived {
                Derived::Token { request_id, token, index } => Self::Token { request_id, token, index },
                Derived::Tokens { request_id, tokens, index } => Self::Tokens { request_id, tokens, index },
                Derived::Delta { request_id, delta, index } => {
                    Self::Delta { request_id, delta: RawObject::of(&delta).unwrap(), index }
                }
                Derived::Done { request_id, total_tokens, latency_ms, finish_reason, usage } => {
                    Self::Done { request_id, total_tokens, latency_ms, finish_reason, usage }
                }
                Derived::Error { request_id, error, code, retryable } => {
                    Self::Error { request_id, error, code, retryable }
                }
            }
        }
    }

    fn read(json: &str) -> Result<StreamingResponse, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// Members in every order, each with values right and wrong.
    #[test]
    fn frames_mean_what_they_would_by_derivation() {
        let values = |name: &str| match name {
            "type" => vec![
                json!("token"),
                json!("tokens"),
                json!("delta"),
                json!("done"),
                json!("error"),
                json!("novel"),
                json!(null),
            ],
            "requestId" => vec![json!(ID), json!(ID.to_uppercase()), json!(7)],
            "token" | "error" | "code" => vec![json!("text"), json!(""), json!(5), json!(null)],
            "tokens" => vec![json!(["a", "b"]), json!([]), json!([1]), json!("a")],
            "delta" => vec![json!({ "a": [1] }), json!({}), json!([]), json!("{}"), json!(null)],
            "latencyMs" => vec![json!(1.5), json!(2), json!("2"), json!(null)],
            "retryable" => vec![json!(true), json!(false), json!(null), json!(1)],
            "finishReason" => vec![json!("stop"), json!("novel"), json!(null), json!(1)],
            "usage" => vec![json!({ "promptTokens": 7, "novel": "x" }), json!({}), json!(null), json!(1)],
            "index" | "totalTokens" => vec![json!(0), json!(u64::MAX), json!(-1), json!(1.5), json!(null)],
            _ => vec![json!({ "deep": [null] })],
        };
        let names = [
            "type",
            "requestId",
            "token",
            "tokens",
            "delta",
            "index",
            "totalTokens",
            "usage",
            "latencyMs",
            "finishReason",
            "error",
            "code",
            "retryable",
            "novelty",
            "type",
            "index",
            "token",
            "error",
        ];
        let (mut state, mut accepted) = (0x9e37_79b9_7f4a_7c15_u64, 0);
        let mut below = move |limit: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % limit as u64).unwrap()
        };
        for _ in 0..60_000 {
            let mut left: Vec<&str> = names[..[12, 13, 17][below(3)]].to_vec();
            let mut members = Vec::new();
            while !left.is_empty() {
                let name = left.swap_remove(below(left.len()));
                let values = values(name);
                // Mostly the right ones, or hardly any frame would be valid.
                let value = &values[if below(8) > 0 && name != "type" { 0 } else { below(values.len()) }];
                if below(12) > 0 {
                    members.push(format!("\"{name}\":{value}"));
                }
            }
            let text = format!("{{{}}}", members.join(","));
            let derived = serde_json::from_str::<Derived>(&text);
            match (read(&text), derived) {
                (Ok(frame), Ok(derived)) => {
                    accepted += 1;
                    assert_eq!(frame, derived.into(), "{text}");
                }
                (Err(_), Err(_)) => {}
                (frame, derived) => panic!("{text}: {frame:?} instead of {derived:?}"),
            }
        }
        assert!(accepted > 5_000, "{accepted} frames were valid");
    }

    #[test]
    fn a_wrong_member_is_named_by_its_path() {
        let wrong = |id: &str, tokens: &str, index: &str| {
            let text = format!(r#"{{"requestId":"{id}","type":"tokens","tokens":{tokens},"index":{index}}}"#);
            let mut decoder = serde_json::Deserializer::from_str(&text);
            serde_path_to_error::deserialize::<_, StreamingResponse>(&mut decoder).unwrap_err().path().to_string()
        };
        assert_eq!(wrong("x", "[]", "0"), "requestId");
        assert_eq!(wrong(ID, r#"["a", 7]"#, "0"), "tokens[1]");
        assert_eq!(wrong(ID, "[]", r#""one""#), "index");
    }

    #[test]
    fn a_wrong_member_before_the_type_is_named_in_the_message() {
        let error = read(&format!(r#"{{"index":"one","requestId":"{ID}","token":"t","type":"token"}}"#)).unwrap_err();
        assert!(error.to_string().starts_with("index: invalid type"), "{error}");
        let error = read(&format!(r#"{{"requestId":"{ID}","type":"token","token":"t"}}"#)).unwrap_err();
        assert!(error.to_string().contains("missing field `index`"), "{error}");
        let error = read(&format!(r#"{{"requestId":"{ID}"}}"#)).unwrap_err();
        assert!(error.to_string().contains("missing field `type`"), "{error}");
        assert!(read("[]").is_err() && read("\"token\"").is_err());
    }
}
