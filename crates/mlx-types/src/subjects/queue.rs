//! Where requests wait that must not be lost: subjects named after models.

use std::fmt::Write as _;

use mlx_errors::Result;

use crate::messages::{InferenceCancel, InferenceRequest};
use crate::{Pattern, Subject};

/// The queued requests of every model.
pub static ANY_INFERENCE_QUEUE: Pattern<InferenceRequest> = Pattern::from_static("inference.queue.*");
/// The dead letters of every model.
pub static ANY_INFERENCE_DEAD: Pattern<InferenceRequest> = Pattern::from_static("inference.dead.*");
/// Controller to whichever worker took a queued request: its answer is no longer wanted.
pub static INFERENCE_CANCEL: Subject<InferenceCancel> = Subject::from_static("inference.cancel");

/// Controller to any worker that has `model`: requests that wait until one takes them.
///
/// Whatever the id of a model holds, it becomes one token, and no two ids the same one: bytes other than ASCII letters,
/// digits, `-` and `_` are written as `=` and two hexadecimal digits.
///
/// ```
/// # fn main() -> mlx_errors::Result<()> {
/// let subject = mlx_types::subjects::inference_queue("mlx-community/Llama-3.2-1B")?;
/// assert_eq!(subject.as_str(), "inference.queue.mlx-community=2fLlama-3=2e2-1B");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `SUBJECT_INVALID` for an id that makes a subject of more than 1024 bytes.
pub fn inference_queue(model: &str) -> Result<Subject<InferenceRequest>> {
    Subject::new(format!("inference.queue.{}", token(model)))
}

/// From a worker to the operator: requests for `model` that were given up. Named like those of the queue.
///
/// # Errors
/// As [`inference_queue`].
pub fn inference_dead(model: &str) -> Result<Subject<InferenceRequest>> {
    Subject::new(format!("inference.dead.{}", token(model)))
}

fn token(model: &str) -> String {
    if model.is_empty() {
        return "=".to_owned(); // which nothing else becomes, an escape being longer
    }
    let mut token = String::with_capacity(model.len());
    for byte in model.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            token.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(token, "={byte:02x}");
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Undoes [`token`], which shows that it loses nothing.
    fn model(token: &str) -> Vec<u8> {
        if token == "=" {
            return Vec::new();
        }
        let mut parts = token.split('=');
        let mut bytes = parts.next().unwrap().as_bytes().to_vec();
        for part in parts {
            bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
            bytes.extend(&part.as_bytes()[2..]);
        }
        bytes
    }

    proptest! {
        #[test]
        fn a_model_becomes_one_valid_token_and_no_other_models(id in "\\PC{0,60}") {
            let subject = inference_queue(&id).unwrap();
            let token = subject.as_str().strip_prefix("inference.queue.").unwrap();
            prop_assert!(!token.contains('.'));
            prop_assert_eq!(model(token), id.as_bytes());
        }
    }

    #[test]
    fn an_id_without_end_is_an_error() {
        let error = inference_queue(&"m".repeat(2000)).unwrap_err();
        assert_eq!(error.code(), mlx_errors::ErrorCode::SubjectInvalid);
        assert_eq!(inference_queue("").unwrap().as_str(), "inference.queue.=");
    }
}
