//! What can be said on the command line.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use mlx_types::ClusterConfig;
use reqwest::Url;

use crate::engine::KEY_VARIABLE;
use crate::plan::STAND_IN_RATE;

/// A node of a cluster that answers with language models: a bus, a controller that speaks OpenAI's protocol, workers.
#[derive(Debug, Parser)]
#[command(name = "mlx-node", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The configuration [default: ./cluster.yaml, that of the user, that of the system, or a built-in one]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Log as the configuration says, instead of warnings only (`run` always does)
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run this node, as its configuration says, until interrupted
    Run(RunArguments),
    /// Ask the cluster, and print the answer as it comes
    Ask(AskArguments),
    /// Show the workers, what they have and what they do
    Status(StatusArguments),
    /// Check configuration files, and show what is in force and from where
    Check(CheckArguments),
    /// Run a small cluster on this machine, and ask it: a controller, a NATS server, and workers as processes of their own
    Demo(DemoArguments),
    /// Print a script that completes this command line
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Which engine answers; by default as the configuration says.
#[derive(Clone, Debug, Args)]
pub(crate) struct EngineArguments {
    /// What answers: `stand-in`, which needs no model, or `openai=URL`, a model server that speaks OpenAI's protocol, for
    /// example `openai=http://127.0.0.1:8080/v1`; its key is taken from `OPENAI_API_KEY`. Wins over `worker.engine`
    #[arg(long, value_name = "ENGINE")]
    pub(crate) engine: Option<Choice>,

    /// Which of the model server's APIs is used; wins over `worker.engine.api`
    #[arg(long, value_enum, value_name = "API")]
    pub(crate) engine_api: Option<Api>,

    /// Tokens that the stand-in makes in a second
    #[arg(long, value_name = "RATE", default_value_t = STAND_IN_RATE, value_parser = rate)]
    pub(crate) tokens_per_second: f64,
}

#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
pub(crate) struct RunArguments {
    /// Which parts run here; wins over `mode` of the configuration
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) mode: Option<ModeArgument>,

    /// Where the gateway and its page listen; wins over `controller.bindAddress`, `.port` and `.dashboardPort`
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,

    /// Serve requests for this host name too, as behind a proxy; may be given several times, beside `controller.allowHosts`
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub(crate) allow_host: Vec<String>,

    #[command(flatten)]
    pub(crate) engine: EngineArguments,

    /// End when standard input does, which is how a process notices that the one that started it is gone
    #[arg(long, hide = true)]
    pub(crate) exit_with_stdin: bool,
}

#[derive(Debug, Args)]
#[command(after_help = ASK_HELP)]
pub(crate) struct AskArguments {
    /// The prompt; without one, standard input
    #[arg(value_name = "PROMPT")]
    pub(crate) prompt: Vec<String>,

    /// The model; by default the first one that the cluster has
    #[arg(long, short, value_name = "MODEL")]
    pub(crate) model: Option<String>,

    /// Tokens at the most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_tokens: Option<u64>,

    /// Say on standard error who answered, and how fast
    #[arg(long)]
    pub(crate) stats: bool,
}

#[derive(Debug, Args)]
#[command(after_help = STATUS_HELP)]
pub(crate) struct StatusArguments {
    /// Show it again every second, until interrupted
    #[arg(long, short, conflicts_with = "json")]
    pub(crate) watch: bool,

    /// As JSON, for programs
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = CHECK_HELP)]
pub(crate) struct CheckArguments {
    /// The files, each laid over the ones before it; without any, the configuration that `run` would find
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = DEMO_HELP)]
pub(crate) struct DemoArguments {
    /// Prompts to answer; without any, the lines of standard input; without those either, a built-in pair
    #[arg(value_name = "PROMPT")]
    pub(crate) prompts: Vec<String>,

    /// Worker processes to start; 0, with --listen, where all workers run elsewhere
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) workers: u16,

    /// Serve OpenAI's HTTP protocol here, and a page that shows the cluster, until interrupted
    #[arg(long, value_name = "IP:PORT", conflicts_with_all = ["prompts", "kill_worker", "max_tokens"])]
    pub(crate) listen: Option<SocketAddr>,

    /// With --listen: serve requests for this host name too; may be given several times
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub(crate) allow_host: Vec<String>,

    /// Kill the first worker (SIGKILL) while it answers, to see what a controller sees then
    #[arg(long)]
    pub(crate) kill_worker: bool,

    #[command(flatten)]
    pub(crate) engine: EngineArguments,

    /// Tokens at the most for each prompt
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_tokens: u64,
}

/// `mode` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArgument {
    /// The bus and the gateway, without a worker
    Controller,
    /// A worker, on a bus elsewhere
    Worker,
    /// Both in one
    Both,
}

impl ModeArgument {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Worker => "worker",
            Self::Both => "both",
        }
    }
}

/// `worker.engine.api` of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Api {
    /// `/chat/completions`: the server puts the messages into the model's own chat template
    Chat,
    /// `/completions`: the model goes on from the prompt as it is
    Completions,
}

impl Api {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
        }
    }
}

/// `stand-in`, or `openai=` and the address of a model server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Choice {
    /// No model at all.
    StandIn,
    /// A model server, by the address that its API begins with.
    OpenAi(Url),
}

const STAND_IN: &str = "stand-in";
const OPENAI: &str = "openai=";

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == STAND_IN {
            return Ok(Self::StandIn);
        }
        let Some(address) = text.strip_prefix(OPENAI) else {
            return Err(format!("neither `{STAND_IN}` nor `{OPENAI}http://HOST:PORT/v1`"));
        };
        let url = Url::parse(address).map_err(|error| format!("`{address}` is no address: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("the address of a model server begins with `http://` or `https://`".to_owned());
        }
        Ok(Self::OpenAi(url))
    }
}

impl Choice {
    /// Apart from reading it, because an argument that cannot be read is shown.
    fn check(&self) -> Result<(), String> {
        match self {
            Self::OpenAi(url) if !url.username().is_empty() || url.password().is_some() => Err(format!(
                "everyone on this machine can read a command line: put the key into {KEY_VARIABLE}, not into --engine"
            )),
            Self::OpenAi(_) | Self::StandIn => Ok(()),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandIn => f.write_str(STAND_IN),
            Self::OpenAi(url) => write!(f, "{OPENAI}{url}"),
        }
    }
}

impl Cli {
    /// Ends the process where what was said does not go together.
    pub(crate) fn check(&self) {
        let fault = |kind, message: String| Self::command().error(kind, message).exit();
        let engine = match &self.command {
            Command::Run(arguments) => Some(&arguments.engine),
            Command::Demo(arguments) => Some(&arguments.engine),
            _ => None,
        };
        if let Some(Err(message)) = engine.and_then(|engine| engine.engine.as_ref()).map(Choice::check) {
            fault(ErrorKind::ValueValidation, message);
        }
        if let Command::Demo(arguments) = &self.command {
            if arguments.workers == 0 && arguments.listen.is_none() {
                let needed = "prompts need a worker to answer them: --workers 0 goes with --listen";
                fault(ErrorKind::ValueValidation, needed.to_owned());
            }
            // Not clap's `requires`, which is silent where what is required conflicts with what is there.
            if arguments.listen.is_none() && !arguments.allow_host.is_empty() {
                let needed = "hosts are those of requests over HTTP: --allow-host goes with --listen";
                fault(ErrorKind::MissingRequiredArgument, needed.to_owned());
            }
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && (0.1..=100_000.0).contains(&rate) => Ok(rate),
        _ => Err("a number from 0.1 to 100000 is needed".to_owned()),
    }
}

/// What `controller.allowHosts` takes, refused here so that it is a mistake of the command line.
fn host_name(text: &str) -> Result<String, String> {
    let mut config = ClusterConfig::default();
    config.controller.allow_hosts = vec![text.to_owned()];
    match config.check() {
        Ok(()) => Ok(text.to_owned()),
        Err(_) => {
            Err("one host name is needed, in ASCII, without a scheme, a port or a `*`: gpu.example.org".to_owned())
        }
    }
}

const AFTER_HELP: &str = "\
First steps:
  mlx-node run                                             a bus, a gateway and a worker on this machine
  mlx-node ask \"Tell me about NATS\"                        in a second terminal
  mlx-node status --watch                                  who is there, and what they do
  open http://127.0.0.1:8081/                              the same as a page; OpenAI's protocol is at :8080/v1

With a model server (mlx_lm.server, llama.cpp, Ollama, vLLM):
  mlx-node run --engine openai=http://127.0.0.1:11434/v1

Environment:
  MLX_…              sets a key of the configuration: MLX_CONTROLLER__PORT=9000 is `controller.port`
  OPENAI_API_KEY     the key for the model server
  MLX_NATS_SERVER    the nats-server to start, where it is not found";

const RUN_HELP: &str = "\
`mode` of the configuration says what runs: `both` a bus, a gateway and a worker; `controller` no worker; `worker` nothing else.
A worker waits for its bus, however long that takes. Ctrl-C or SIGTERM ends it in good order: no new requests, up to 30 s for
those under way, a farewell, then the server; a second one ends it at once.

Examples:
  mlx-node run                                             as ./cluster.yaml says, or with everything built in
  mlx-node run --engine openai=http://127.0.0.1:8080/v1    before a model server
  mlx-node run --mode worker --config second.yaml          one worker more, for a bus on another machine

Exit codes:
  0    told to end, and everything under way was finished
  1    it could not run, or not go on; the reason is on standard error
  2    the command line is wrong";

const ASK_HELP: &str = "\
Asks over the bus that the configuration names; `mlx-node run` must be running there. A worker is chosen as a controller does it.

Examples:
  mlx-node ask \"Tell me about NATS\"
  mlx-node ask --model llama-3 --stats < prompt.txt

Exit codes:
  0    answered
  1    the cluster could not be asked
  2    the command line is wrong
  3    the answer ended in an error
  130  interrupted";

const STATUS_HELP: &str = "\
Asks the workers over the bus that the configuration names, and listens to them for a moment.

Exit codes:
  0    shown
  1    the bus could not be reached
  2    the command line is wrong";

const CHECK_HELP: &str = "\
Prints every key with its value and where that comes from, secrets redacted; on standard error everything that is wrong, with its
line, and the keys that are set and change nothing.

Exit codes:
  0    the configuration holds
  1    it does not
  2    the command line is wrong
  3    a file cannot be read";

const DEMO_HELP: &str = "\
Examples:
  mlx-node demo \"Tell me about NATS\"               one prompt
  mlx-node demo --workers 3 < prompts.txt          a prompt a line, over three workers
  mlx-node demo --listen 127.0.0.1:8080            serve HTTP: http://127.0.0.1:8080/ and /v1 for OpenAI's clients
  mlx-node demo --kill-worker                      lose a worker in the middle of an answer
  MLX_NATS__EMBEDDED__PORT=0 mlx-node demo         on a free port

Exit codes:
  0    every prompt was answered; with --listen, interrupted
  1    the cluster could not be run
  2    the command line is wrong
  3    at least one prompt ended in an error (as with --kill-worker)
  130  interrupted";
