//! From configuration to a running log.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use mlx_errors::{Error, ErrorKind, Result};
use tracing::Dispatch;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt;

use crate::clock::Timestamp;
use crate::fields::EventFields;
use crate::filter::{Directives, Filter};
use crate::json::Json;
use crate::layer::LogLayer;
use crate::syntax::{Line, Syntax};
use crate::text::Text;
use crate::value::Value;
use crate::writer::{Loss, Output, Queue};
use crate::{Format, LogConfig, LogGuard, LogHandle, panic};

/// Bytes that wait for a slow output at the most, unless set otherwise.
const DEFAULT_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Starts the log for this process: for every thread, panics included, with `MLX_LOG` from the environment.
///
/// ```no_run
/// use mlx_log::{Format, Level, LogConfig};
///
/// # fn main() -> mlx_errors::Result<()> {
/// let config = LogConfig::default().level(Level::Debug).format(Format::Text);
/// let _guard = mlx_log::init(&config)?; // keep it: the last lines are written when it is dropped
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `LOG_ERROR` when the file cannot be opened, `MLX_LOG` is not understood, or the process has a subscriber already.
pub fn init(config: &LogConfig) -> Result<LogGuard> {
    Setup::new(config).environment(|name| std::env::var_os(name)).install()
}

/// [`init`] in steps, for programs and tests that bring their own environment or output.
///
/// ```
/// use mlx_log::{LogConfig, Setup};
///
/// let setup = Setup::new(&LogConfig::default()).directives("warn,mlx_nats=debug").writer(std::io::sink());
/// let (dispatch, guard) = setup.build()?;
/// tracing::dispatcher::with_default(&dispatch, || tracing::warn!("logged to the sink"));
/// # drop(guard);
/// # Ok::<(), mlx_errors::Error>(())
/// ```
#[must_use = "nothing is set up before `install` or `build`"]
pub struct Setup {
    config: LogConfig,
    directives: Option<OsString>,
    writer: Option<Box<dyn Write + Send>>,
    buffer_bytes: usize,
    no_colour: bool,
}

impl Setup {
    /// The log that `config` describes, without a look at the environment.
    pub fn new(config: &LogConfig) -> Self {
        Self {
            config: config.clone(),
            directives: None,
            writer: None,
            buffer_bytes: DEFAULT_BUFFER_BYTES,
            no_colour: false,
        }
    }

    /// Reads `MLX_LOG` (see [`directives`](Self::directives)) and `NO_COLOR` (set: the text format is not coloured).
    pub fn environment(mut self, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        self.directives = variable("MLX_LOG");
        self.no_colour = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        self
    }

    /// Levels that win over the configured one: a list, separated by commas, of `target=level` and of a level for
    /// everything else. A target is a module path and matches by prefix; the longest match wins. Levels are `off`,
    /// `error`, `warn`, `info`, `debug` and `trace`. None of them silences a panic.
    pub fn directives(mut self, directives: impl Into<OsString>) -> Self {
        self.directives = Some(directives.into());
        self
    }

    /// Writes lines to `writer` instead of the configured place. It is called by one thread only.
    pub fn writer(mut self, writer: impl Write + Send + 'static) -> Self {
        self.writer = Some(Box::new(writer));
        self
    }

    /// Bytes that may wait for a slow output; 8 MiB unless set. Lines beyond are lost, counted, and said.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// Makes it the log of this process, panics included.
    ///
    /// # Errors
    /// As [`init`].
    pub fn install(self) -> Result<LogGuard> {
        // A panic is also told on standard error, unless that is where the log goes.
        let pass_on = self.writer.is_some() || self.config.file.is_some();
        let (dispatch, guard) = self.build()?;
        tracing::dispatcher::set_global_default(dispatch).map_err(|_| {
            failed("this process has a tracing subscriber already; call `mlx_log::init` once, before any other")
        })?;
        panic::install_hook(guard.handle(), pass_on);
        Ok(guard)
    }

    /// The log as a value, for [`tracing::dispatcher::with_default`]; panics are left alone.
    ///
    /// # Errors
    /// As [`init`], except that the process may have a subscriber already.
    pub fn build(self) -> Result<(Dispatch, LogGuard)> {
        let directives = match &self.directives {
            None => "",
            Some(text) => text.to_str().ok_or_else(|| failed("MLX_LOG is not UTF-8"))?,
        };
        let filter = Arc::new(Filter::new(Directives::parse(directives, self.config.level)?));
        let to_stderr = self.writer.is_none() && self.config.file.is_none();
        let colour = to_stderr && !self.no_colour && io::stderr().is_terminal();
        let output = match (self.writer, &self.config.file) {
            (Some(writer), _) => Output::Writer(writer),
            (None, Some(path)) => Output::file(path).map_err(|error| {
                Error::with_source(ErrorKind::Log { reason: format!("cannot open {}", path.display()) }, error)
            })?,
            (None, None) => Output::Stderr,
        };
        match self.config.format {
            Format::Json => start(|| Json, filter, output, self.buffer_bytes),
            Format::Text => start(move || Text { colour }, filter, output, self.buffer_bytes),
        }
    }
}

fn start<S: Syntax>(
    syntax: impl Fn() -> S,
    filter: Arc<Filter>,
    output: Output,
    buffer_bytes: usize,
) -> Result<(Dispatch, LogGuard)> {
    let announcing = syntax();
    let announce = Box::new(move |out: &mut Vec<u8>, loss| announce(&announcing, out, loss));
    let queue = Queue::start(buffer_bytes, output, announce)
        .map_err(|error| Error::with_source(ErrorKind::Log { reason: "cannot start the writer".to_owned() }, error))?;
    let handle = LogHandle { filter: Arc::clone(&filter), queue: Arc::clone(&queue) };
    let subscriber = Registry::default().with(LogLayer { syntax: syntax(), filter, queue });
    Ok((Dispatch::new(subscriber), LogGuard::new(handle)))
}

/// The line that stands where lines are missing. It is logged whatever the level: a gap is never silent.
fn announce<S: Syntax>(syntax: &S, out: &mut Vec<u8>, loss: Loss) {
    let mut message = Vec::new();
    syntax.message(&mut message, &format_args!("log lines lost here: {}; the output is too slow", loss.lines));
    let mut fields = EventFields::default();
    fields.add(syntax, "lost", |out| syntax.value(out, &Value::Unsigned(loss.lines)));
    fields.add(syntax, "lostTotal", |out| syntax.value(out, &Value::Unsigned(loss.total)));
    let line = Line {
        timestamp: Timestamp::now(),
        level: tracing::Level::WARN,
        component: "log",
        message: &message,
        fields: fields.as_bytes(),
        error: None,
    };
    syntax.line(out, &line);
}

fn failed(reason: &str) -> Error {
    Error::new(ErrorKind::Log { reason: reason.to_owned() })
}
