//! The configuration: where it is found, what the command line changes about it, and what of it has no effect.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mlx_config::{Loaded, Loader, Origin};
use mlx_types::Secret;
use mlx_types::config::{ClusterConfig, NatsMode};

use super::EXIT_FAILED;
use super::arguments::{Choice, Cli, Command, Common, EngineArguments};
use crate::engine::KEY_VARIABLE;
use crate::plan::{STAND_IN_RATE, Surroundings, unused};
use crate::terminal::note;

/// The name of the file, wherever it is.
const FILE: &str = "cluster.yaml";

/// Where nothing is found: one machine that nobody else can reach, and a dead worker noticed within 5 s.
pub(crate) const BUILT_IN: &str = "\
controller: { enabled: true, bindAddress: 127.0.0.1 }
discovery: { heartbeatIntervalMs: 1000, offlineTimeoutMs: 5000 }
";

/// A configuration that holds.
pub(crate) struct Settings {
    loaded: Loaded,
    pub(crate) around: Surroundings,
    /// As it was found: what is given to processes that are started.
    pub(crate) file: Option<PathBuf>,
}

impl Settings {
    /// Finds, reads and checks it; on standard error, what is wrong with it.
    pub(crate) fn load(cli: &Cli) -> Result<Self, ExitCode> {
        let (sources, file) = found(&cli.common);
        let sources = overridden(sources, &cli.command);
        let loaded = match sources.load() {
            Ok(loaded) => loaded,
            Err(error) => {
                let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
                note(sources.draw(&error, colour).trim_end());
                return Err(ExitCode::from(EXIT_FAILED));
            }
        };
        let listen = match &cli.command {
            Command::Run(arguments) => arguments.listen,
            Command::Demo(arguments) => arguments.listen,
            _ => None,
        };
        let around = Surroundings {
            folder: state_folder(file.as_deref()),
            reconnects_are_set: loaded.origin("nats.maxReconnectAttempts") != Origin::Default,
            engine_key: key_of_environment().map_err(|message| {
                note(&message);
                ExitCode::from(EXIT_FAILED)
            })?,
            tokens_per_second: engine(&cli.command).map_or(STAND_IN_RATE, |engine| engine.tokens_per_second),
            listen: listen.map(|address| (address.ip(), address.port())),
        };
        Ok(Self { loaded, around, file })
    }

    pub(crate) fn config(&self) -> &ClusterConfig {
        self.loaded.config()
    }

    /// Whether a key was given at all.
    pub(crate) fn is_set(&self, key: &str) -> bool {
        self.loaded.origin(key) != Origin::Default
    }

    /// Whether the bus has a port that only the node that started it knows.
    pub(super) fn has_hidden_port(&self) -> bool {
        let nats = &self.config().nats;
        nats.mode == NatsMode::Embedded && nats.embedded.port == 0
    }

    /// Logs what was hardly meant: one line for each key.
    pub(crate) fn warn(&self) {
        for warning in self.loaded.warnings() {
            tracing::warn!("{warning}");
        }
    }

    /// Logs the keys that change nothing about a node with this configuration: one line for each.
    pub(crate) fn warn_of_unused(&self) {
        for unused in unused(self.config()) {
            tracing::warn!(key = unused.key, "`{}` {}", unused.key, unused.reason);
        }
    }
}

/// The loader of the configuration, and its file.
pub(super) fn found(common: &Common) -> (Loader, Option<PathBuf>) {
    if let Some(file) = &common.config {
        return (Loader::new().file(file), Some(file.clone()));
    }
    match places().into_iter().find(|file| file.exists()) {
        Some(file) => (Loader::new().file(&file), Some(file)),
        None => (Loader::new().text("the built-in configuration", BUILT_IN), None),
    }
}

/// Where a configuration is looked for, the first one that is there wins.
fn places() -> Vec<PathBuf> {
    let here = PathBuf::from(FILE);
    let of_user = user_folder().map(|folder| folder.join(FILE));
    let of_system = Path::new("/etc/mlx-node").join(FILE);
    [Some(here), of_user, Some(of_system)].into_iter().flatten().collect()
}

fn user_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CONFIG_HOME").filter(|folder| folder.is_absolute());
    base.or_else(|| Some(variable("HOME")?.join(".config"))).map(|folder| folder.join("mlx-node"))
}

/// Where what a node keeps is kept: beside its configuration, or in the user's folder where that is built in.
fn state_folder(file: Option<&Path>) -> PathBuf {
    let beside = |file: &Path| file.parent().map(|folder| folder.join(".mlx-node"));
    file.and_then(beside).or_else(user_folder).unwrap_or_else(|| PathBuf::from(".mlx-node"))
}

/// With what the command line says, which wins.
fn overridden(loader: Loader, command: &Command) -> Loader {
    let loader = match command {
        Command::Run(arguments) => {
            let loader = arguments.mode.iter().fold(loader, |loader, mode| loader.set("mode", mode.as_str()));
            allowed(loader, &arguments.allow_host)
        }
        Command::Demo(arguments) => allowed(loader, &arguments.allow_host),
        _ => loader,
    };
    let Some(engine) = engine(command) else { return loader };
    let loader = match &engine.engine {
        None => loader,
        Some(Choice::StandIn) => {
            loader.set("worker.engine.kind", "stand-in").set("worker.engine.url", serde_json::Value::Null)
        }
        Some(Choice::OpenAi(url)) => loader.set("worker.engine.kind", "openai").set("worker.engine.url", url.as_str()),
    };
    engine.engine_api.iter().fold(loader, |loader, api| loader.set("worker.engine.api", api.as_str()))
}

fn allowed(loader: Loader, hosts: &[String]) -> Loader {
    if hosts.is_empty() { loader } else { loader.set("controller.allowHosts", hosts.to_vec()) }
}

fn engine(command: &Command) -> Option<&EngineArguments> {
    match command {
        Command::Run(arguments) => Some(&arguments.engine),
        Command::Demo(arguments) => Some(&arguments.engine),
        _ => None,
    }
}

fn key_of_environment() -> Result<Option<Secret<String>>, String> {
    match std::env::var(KEY_VARIABLE) {
        Ok(key) => Ok(Some(key).filter(|key| !key.is_empty()).map(Secret::new)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(format!("{KEY_VARIABLE}: a key has no spaces, and ASCII characters only"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_the_built_in_configuration_is_the_one_that_is_shipped() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/cluster.yaml");
        let shipped = Loader::new().without_env().file(shipped).load().unwrap();
        let built_in = Loader::new().without_env().text("built in", BUILT_IN).load().unwrap();
        assert_eq!(shipped.config(), built_in.config());
    }
}
