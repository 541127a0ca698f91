//! `cargo xtask demo`: provides what `mlx-node` needs, builds it, and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use mlx_embedded::binary::BINARY_VARIABLE;
use mlx_embedded::binary::Origin;

use crate::cli::DemoArguments;
use crate::nats;
use crate::workspace::Workspace;

const PACKAGE: &str = "mlx-node";
const PROGRAM: &str = "mlx-node";

/// Returns only where the demo could not be started: one process less means one less to stop.
pub(crate) fn run(workspace: &Workspace, arguments: &DemoArguments) -> Result<ExitCode> {
    let server = nats::provide(workspace)?;
    let mut demo = Command::new(workspace.build(PACKAGE, &["--bin", PROGRAM], PROGRAM)?);
    demo.args(words(workspace, arguments));
    if server.origin == Origin::Tools {
        demo.env(BINARY_VARIABLE, &server.path);
    }
    let error = demo.exec();
    Err(error).with_context(|| format!("cannot run {}", demo.get_program().display()))
}

/// The program's command line.
fn words(workspace: &Workspace, arguments: &DemoArguments) -> Vec<OsString> {
    let config = arguments.config.clone().unwrap_or_else(|| workspace.root().join("config").join("cluster.yaml"));
    let command: &[&str] = if arguments.worker { &["run", "--mode", "worker"] } else { &["demo"] };
    let mut words: Vec<OsString> = command.iter().map(Into::into).collect();
    words.extend(["--config".into(), config.into()]);
    let mut option = |name: &str, value: Option<String>| {
        words.extend(value.into_iter().flat_map(|value| [name.into(), value.into()]));
    };
    option("--workers", arguments.workers.map(|number| number.to_string()));
    option("--engine", arguments.engine.clone());
    option("--engine-api", arguments.engine_api.clone());
    option("--listen", arguments.listen.clone());
    arguments.allow_host.iter().for_each(|name| option("--allow-host", Some(name.clone())));
    option("--tokens-per-second", arguments.tokens_per_second.map(|rate| rate.to_string()));
    option("--max-tokens", arguments.max_tokens.map(|number| number.to_string()));
    words.extend(arguments.kill_worker.then(|| "--kill-worker".into()));
    if !arguments.worker {
        // A prompt may look like an option.
        words.push("--".into());
        words.extend(arguments.prompts.iter().cloned());
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn without_arguments_the_program_gets_the_workspaces_configuration() {
        let words = words_of(&[]);
        assert_eq!(words[..2], ["demo", "--config"]);
        assert!(words[2].ends_with("/config/cluster.yaml") && words[2].starts_with('/'), "{words:?}");
        assert_eq!(words[3..], ["--"]);
    }

    #[test]
    fn every_argument_reaches_the_program() {
        let line = "one --workers 3 --kill-worker --config c.yaml --tokens-per-second 2.5 --max-tokens 9 two";
        let wanted = "demo --config c.yaml --workers 3 --tokens-per-second 2.5 --max-tokens 9 --kill-worker -- one two";
        assert_eq!(words_of(&line.split(' ').collect::<Vec<_>>()).join(" "), wanted);
    }

    #[test]
    fn engines_and_roles_reach_the_program() {
        let line = "--worker --engine-api completions --engine openai=http://h/v1 --config c.yaml";
        let wanted = "run --mode worker --config c.yaml --engine openai=http://h/v1 --engine-api completions";
        assert_eq!(words_of(&line.split(' ').collect::<Vec<_>>()).join(" "), wanted);
        let front = "--workers 0 --listen 127.0.0.1:8000 --allow-host a --allow-host b --config c.yaml";
        let wanted = "demo --config c.yaml --workers 0 --listen 127.0.0.1:8000 --allow-host a --allow-host b --";
        assert_eq!(words_of(&front.split(' ').collect::<Vec<_>>()).join(" "), wanted);
    }

    #[test]
    fn a_prompt_that_looks_like_an_option_stays_a_prompt() {
        assert_eq!(words_of(&["--config", "c", "--", "--workers"]), ["demo", "--config", "c", "--", "--workers"]);
    }

    fn words_of(line: &[&str]) -> Vec<String> {
        let cli = Cli::try_parse_from([&["xtask", "demo"], line].concat()).unwrap();
        let Command::Demo(arguments) = cli.command else { panic!("not the demo") };
        let workspace = Workspace::locate(None).unwrap();
        words(&workspace, &arguments).into_iter().map(|word| word.into_string().unwrap()).collect()
    }
}
