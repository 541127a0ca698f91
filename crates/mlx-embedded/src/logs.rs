//! nats-server's log lines: parsed, given out as our events, and the last of them kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use mlx_types::config::EmbeddedLogLevel;
use parking_lot::Mutex;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tracing::{debug, error, info, trace, warn};

/// How many of the last lines are kept.
const KEPT_LINES: usize = 100;

/// Bytes of a line that are looked at; the rest is dropped.
const LINE_LIMIT: u64 = 16 * 1024;

/// The last lines, shared between the task that reads them and those who ask for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    /// The last `count` lines, the oldest first.
    pub(crate) fn last(&self, count: usize) -> Vec<String> {
        let lines = self.0.lock();
        lines.iter().skip(lines.len().saturating_sub(count)).cloned().collect()
    }

    fn push(&self, line: &str) {
        let mut lines = self.0.lock();
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }
}

/// Reads until the end of `stream`, giving each line to `lines`, to our log and to `seen`.
///
/// Why a server did not start is told by the error of the start, so a fatal line goes to our log only once `ready`.
pub(crate) async fn follow(
    stream: impl AsyncRead + Unpin,
    least: Arc<Threshold>,
    lines: LastLines,
    ready: impl Fn() -> bool,
    seen: impl Fn(&Line<'_>),
) {
    let mut reader = BufReader::new(stream);
    let mut bytes = Vec::new();
    while let Ok(true) = next_line(&mut reader, &mut bytes).await {
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end();
        if text.is_empty() {
            continue;
        }
        let line = Line::parse(text);
        if line.is_decoration() {
            continue;
        }
        lines.push(text);
        if least.passes(line.severity) && (!line.fatal || ready()) {
            line.emit();
        }
        seen(&line);
    }
}

/// One line, at most [`LINE_LIMIT`] bytes of it; `false` at the end.
async fn next_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut limited = (&mut *reader).take(LINE_LIMIT);
    if limited.read_until(b'\n', line).await? == 0 {
        return Ok(false);
    }
    while !line.ends_with(b"\n") {
        // The rest of an overlong line, in pieces that are not kept.
        let rest = reader.fill_buf().await?;
        if rest.is_empty() {
            break;
        }
        if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            reader.consume(end + 1);
            break;
        }
        let length = rest.len();
        reader.consume(length);
    }
    Ok(true)
}

/// How grave a line is, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// The least severity that goes into our log; it may change while lines are read.
#[derive(Debug)]
pub(crate) struct Threshold(AtomicU8);

impl Threshold {
    pub(crate) fn new(level: EmbeddedLogLevel) -> Self {
        let threshold = Self(AtomicU8::new(0));
        threshold.set(level);
        threshold
    }

    pub(crate) fn set(&self, level: EmbeddedLogLevel) {
        let least = match level {
            EmbeddedLogLevel::Debug => Severity::Debug,
            EmbeddedLogLevel::Info => Severity::Info,
            EmbeddedLogLevel::Warn => Severity::Warn,
            EmbeddedLogLevel::Error => Severity::Error,
        };
        self.0.store(least as u8, Ordering::Relaxed);
    }

    fn passes(&self, severity: Severity) -> bool {
        severity as u8 >= self.0.load(Ordering::Relaxed)
    }
}

/// A line of nats-server's log, for example `[42] [INF] 127.0.0.1:40000 - cid:7 - Client connection closed: Client Closed`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub(crate) severity: Severity,
    /// Ends the server.
    pub(crate) fatal: bool,
    pub(crate) pid: Option<u32>,
    /// Which connection it is about, for example `cid:7` (client), `rid:3` (route).
    pub(crate) connection: Option<&'a str>,
    /// The address at the other end of that connection.
    pub(crate) peer: Option<&'a str>,
    pub(crate) message: &'a str,
}

impl<'a> Line<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        Self::parse_known(text).unwrap_or(Self {
            // A configuration that it cannot read, or the trace of a panic: rare, and never idle talk.
            severity: Severity::Error,
            fatal: false,
            pid: None,
            connection: None,
            peer: None,
            message: text,
        })
    }

    fn parse_known(text: &'a str) -> Option<Self> {
        let (pid, rest) = text.strip_prefix('[')?.split_once("] [")?;
        let (label, message) = rest.split_once(']')?;
        let severity = match label {
            "TRC" => Severity::Trace,
            "DBG" => Severity::Debug,
            "INF" => Severity::Info,
            "WRN" => Severity::Warn,
            "ERR" | "FTL" => Severity::Error,
            _ => return None,
        };
        let line = Self {
            severity,
            fatal: label == "FTL",
            pid: Some(pid.parse().ok()?),
            connection: None,
            peer: None,
            message: message.trim(),
        };
        Some(line.with_connection())
    }

    fn with_connection(self) -> Self {
        let mut parts = self.message.splitn(3, " - ");
        match (parts.next(), parts.next(), parts.next()) {
            (Some(peer), Some(id), Some(message)) if is_connection_id(id) => {
                Self { connection: Some(id), peer: Some(peer), message, ..self }
            }
            _ => self,
        }
    }

    /// The picture that JetStream draws, and its rulers.
    fn is_decoration(&self) -> bool {
        self.pid.is_some() && !self.message.chars().any(char::is_alphanumeric)
    }

    fn emit(&self) {
        macro_rules! emit {
            ($level:ident) => {
                $level!(
                    target: "nats_server",
                    pid = self.pid,
                    connection = self.connection,
                    peer = self.peer,
                    "{}",
                    self.message
                )
            };
        }
        match self.severity {
            Severity::Trace => emit!(trace),
            Severity::Debug => emit!(debug),
            Severity::Info => emit!(info),
            Severity::Warn => emit!(warn),
            Severity::Error => emit!(error),
        }
    }
}

/// For example `cid:7`: a kind in lower-case letters, and a number.
fn is_connection_id(text: &str) -> bool {
    text.split_once(':').is_some_and(|(kind, number)| {
        (2..=4).contains(&kind.len())
            && kind.bytes().all(|byte| byte.is_ascii_lowercase())
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m7_a_line_keeps_its_level_and_its_fields() {
        let line =
            Line::parse("[42] [INF] 127.0.0.1:40000 - cid:7 - \"v1:rust\" - Client connection closed: Client Closed");
        assert_eq!(
            line,
            Line {
                severity: Severity::Info,
                fatal: false,
                pid: Some(42),
                connection: Some("cid:7"),
                peer: Some("127.0.0.1:40000"),
                message: "\"v1:rust\" - Client connection closed: Client Closed",
            }
        );
        let plain = Line::parse("[42] [WRN] a - b - c");
        assert_eq!((plain.severity, plain.connection, plain.message), (Severity::Warn, None, "a - b - c"));
        let fatal = Line::parse("[42] [FTL] no");
        assert!(fatal.fatal && fatal.severity == Severity::Error);
        let other = Line::parse("panic: runtime error");
        assert_eq!((other.severity, other.pid, other.message), (Severity::Error, None, "panic: runtime error"));
        assert!(Line::parse("[42] [INF]  \\__/|___| |_|").is_decoration());
        assert!(!Line::parse("[42] [INF] Server is ready").is_decoration());
    }

    #[tokio::test]
    async fn overlong_lines_are_cut_and_the_last_lines_kept() {
        let mut text = "x".repeat(100_000);
        text.push('\n');
        for number in 0..150 {
            text.push_str("[1] [INF] line ");
            text.push_str(&number.to_string());
            text.push('\n');
        }
        text.push_str("no line end");
        let least = || Arc::new(Threshold::new(EmbeddedLogLevel::Error));
        let lines = LastLines::default();
        follow(text.as_bytes(), least(), lines.clone(), || true, |_| {}).await;
        assert_eq!(lines.last(3), ["[1] [INF] line 148", "[1] [INF] line 149", "no line end"]);
        assert_eq!(lines.last(1000).len(), KEPT_LINES);

        let lines = LastLines::default();
        follow(&text.as_bytes()[..100_000], least(), lines.clone(), || true, |_| {}).await;
        assert_eq!(lines.last(1)[0].len() as u64, LINE_LIMIT);
    }
}
