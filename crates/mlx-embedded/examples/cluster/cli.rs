//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::engine::{Api, Choice};

/// Every prompt was answered; or whoever serves was told to end.
pub const EXIT_ANSWERED: u8 = 0;
/// The cluster could not be run; the reason is on standard error.
pub const EXIT_FAILED: u8 = 1;
/// At least one prompt ended in an error.
pub const EXIT_PROMPT_FAILED: u8 = 3;
/// Interrupted by Ctrl-C or SIGTERM.
pub const EXIT_INTERRUPTED: u8 = 130;

/// A small cluster on one machine: a controller, a NATS server, and workers as processes of their own.
#[derive(Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[command(name = "cluster", after_help = AFTER_HELP)]
pub struct Arguments {
    /// Prompts to answer; without any, the lines of standard input; without those either, a built-in pair
    #[arg(value_name = "PROMPT")]
    pub prompts: Vec<String>,

    /// The configuration; `MLX_…` environment variables win over it
    #[arg(long, value_name = "FILE", default_value = "config/cluster.yaml")]
    pub config: PathBuf,

    /// Worker processes to start; 0, with --listen, where all workers run elsewhere
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub workers: u16,

    /// Serve OpenAI's HTTP protocol here, and a page that shows the cluster, until interrupted; no authentication
    #[arg(long, value_name = "IP:PORT", conflicts_with_all = ["prompts", "kill_worker", "max_tokens"])]
    pub listen: Option<SocketAddr>,

    /// Serve requests for this host name too, as behind a proxy; may be given several times. Without it, a loopback
    /// address serves `localhost`, this machine's names and IP addresses only, against DNS rebinding; another serves any
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub allow_host: Vec<String>,

    /// Kill the first worker (SIGKILL) while it answers, to see what a controller sees then
    #[arg(long)]
    pub kill_worker: bool,

    /// What answers the prompts: `stand-in`, which needs no model, or `openai=URL`, a model server that speaks OpenAI's
    /// protocol, for example `openai=http://127.0.0.1:8080/v1`; its key is taken from `OPENAI_API_KEY`
    #[arg(long, value_name = "ENGINE", default_value = "stand-in")]
    pub engine: Choice,

    /// Which way of the model server's to use
    #[arg(long, value_enum, value_name = "API", default_value = "chat")]
    pub engine_api: Api,

    /// Tokens that the stand-in makes in a second
    #[arg(long, value_name = "RATE", default_value_t = 40.0, value_parser = rate)]
    pub tokens_per_second: f64,

    /// Tokens at the most for each prompt
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_tokens: u64,

    /// Log at the configured level instead of warnings only
    #[arg(long, short)]
    pub verbose: bool,

    /// Run as one worker of a cluster whose NATS server the configuration names, and nothing else
    #[arg(long, conflicts_with_all = ["prompts", "workers", "kill_worker", "listen"])]
    pub worker: bool,

    /// As a worker: end when standard input does, which is how a worker notices that its controller is gone
    #[arg(long, requires = "worker", hide = true)]
    pub exit_with_stdin: bool,
}

impl Arguments {
    /// Those of this process, or its end.
    pub fn read() -> Self {
        let arguments = Self::parse();
        if let Err(message) = arguments.engine.check() {
            Self::command().error(ErrorKind::ValueValidation, message).exit();
        }
        if arguments.workers == 0 && arguments.listen.is_none() {
            let needed = "prompts need a worker to answer them: --workers 0 goes with --listen";
            Self::command().error(ErrorKind::ValueValidation, needed).exit();
        }
        // Not clap's `requires`, which is silent where what is required conflicts with what is there.
        if arguments.listen.is_none() && !arguments.allow_host.is_empty() {
            let needed = "hosts are those of requests over HTTP: --allow-host goes with --listen";
            Self::command().error(ErrorKind::MissingRequiredArgument, needed).exit();
        }
        arguments
    }
}

const AFTER_HELP: &str = "\
Examples:
  cluster \"Tell me about NATS\"               one prompt
  cluster --workers 3 < prompts.txt          a prompt a line, over three workers
  cluster --listen 127.0.0.1:8080            serve HTTP: http://127.0.0.1:8080/ and /v1 for OpenAI's clients
  cluster --kill-worker                      lose a worker in the middle of an answer
  MLX_NATS__EMBEDDED__PORT=0 cluster         on a free port

Model servers (docs/model-servers.md has several machines):
  cluster --engine openai=http://127.0.0.1:8080/v1 \"Hello\"     mlx_lm.server, llama.cpp or vLLM on port 8080
  cluster --engine openai=http://127.0.0.1:11434/v1 \"Hello\"    Ollama
  OPENAI_API_KEY=... cluster --engine openai=https://host/v1 \"Hello\"
  cluster --worker --config second.yaml --engine openai=...    one worker, for a bus on another machine

Exit codes:
  0    every prompt was answered; with --listen, interrupted
  1    the cluster could not be run
  2    the command line is wrong
  3    at least one prompt ended in an error (as with --kill-worker)
  130  interrupted";

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && (0.1..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number from 0.1 to 100000 is needed".to_owned()),
    }
}

/// In lower case, without the dot that a name may end in.
fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.split('.').all(is_label) {
        return Ok(name.to_ascii_lowercase());
    }
    Err("one host name is needed, in ASCII, without a scheme, a port or a `*`: gpu.example.org".to_owned())
}
