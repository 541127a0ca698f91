//! A failure as it is told, for snapshots.

use std::fmt::Write as _;

use mlx_embedded::Binary;
use mlx_errors::Error;

/// The code, the message and the causes, without what differs from run to run and from machine to machine.
pub(crate) fn told(error: &Error, replace: &[(String, &str)]) -> String {
    let mut text = format!("{}: {error}", error.code());
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let _ = write!(text, "\ncaused by: {cause}");
        source = cause.source();
    }
    for (from, to) in replace {
        text = text.replace(from, to);
    }
    text = text.replace(&Binary::find(None).unwrap().version.to_string(), "VERSION");
    if let Some((before, rest)) = text.split_once("install one with ")
        && let Some((_, after)) = rest.split_once("; or name")
    {
        text = format!("{before}install one with WAYS; or name{after}");
    }
    text.lines().map(without_pid).collect::<Vec<_>>().join("\n")
}

fn without_pid(line: &str) -> String {
    let numbered = |rest: &str| {
        rest.split_once(']')
            .filter(|(pid, _)| pid.bytes().all(|byte| byte.is_ascii_digit()))
            .map(|(_, rest)| rest.to_owned())
    };
    match line.split_once('[').and_then(|(indent, rest)| Some((indent, numbered(rest)?))) {
        Some((indent, rest)) => format!("{indent}[PID]{rest}"),
        None => line.to_owned(),
    }
}
