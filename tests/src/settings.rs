//! What a run of the tests can be told from outside.

use std::str::FromStr;

/// The number in the variable `name`, or `otherwise` where it is unset.
pub fn number_from_env<N: FromStr>(name: &str, otherwise: impl FnOnce() -> N) -> N {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => otherwise(),
    }
}
