//! Whether Docker answers, and what a run left in it.

use std::fmt;
use std::io;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process::{self, Interrupted};

/// Where the tests, and the `docker` command itself, look for the daemon's address.
pub(super) const HOST_VARIABLE: &str = "DOCKER_HOST";

/// On every container, network and volume of a test: the run that it belongs to.
const RUN_LABEL: &str = "mlx-serving.test-run";

/// Where a daemon is looked for that nobody named.
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// How long a daemon may take to say that it is there. One that hangs must not hang us.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// How long any other question may take: removing a container includes killing what runs in it.
const LIMIT: Duration = Duration::from_mins(1);

/// What was found where Docker should be.
#[derive(Debug)]
pub(super) enum Docker {
    /// A daemon of this version, and its address where the tests would not find it by themselves.
    Answers { version: String, host: Option<String> },
    /// None, and why.
    Missing(String),
}

impl Docker {
    /// # Errors
    /// Only that we were interrupted.
    pub(super) fn find() -> Result<Self> {
        match say(&["version", "--format", "{{.Server.Version}}"], PROBE_LIMIT) {
            Ok(version) => Ok(Self::Answers { version: version.trim().to_owned(), host: host_of_context()? }),
            Err(error) if error.is::<Interrupted>() => Err(error),
            Err(error) => Ok(Self::Missing(format!("Docker does not answer: {}", reason(&error)))),
        }
    }

    pub(super) fn missing(&self) -> Option<&str> {
        match self {
            Self::Answers { .. } => None,
            Self::Missing(reason) => Some(reason),
        }
    }
}

/// The daemon that the `docker` command would ask by its settings ("context"), which our tests do not read.
fn host_of_context() -> Result<Option<String>> {
    let set = std::env::var_os(HOST_VARIABLE);
    if set.as_ref().is_some_and(|host| !host.is_empty()) {
        return Ok(None);
    }
    // To the `docker` command an empty one is as good as none, and to the tests an error.
    let is_empty = set.is_some();
    match say(&["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"], PROBE_LIMIT) {
        Ok(host) => {
            let host = Some(host.trim().to_owned()).filter(|host| !host.is_empty());
            Ok(host.filter(|host| is_empty || host != DEFAULT_HOST))
        }
        Err(error) if error.is::<Interrupted>() => Err(error),
        // A `docker` too old for contexts has no other daemon than the one that has just answered.
        Err(_) => Ok(is_empty.then(|| DEFAULT_HOST.to_owned())),
    }
}

fn reason(error: &anyhow::Error) -> String {
    let missing = error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound);
    if missing { "there is no `docker` command here".to_owned() } else { format!("{error:#}") }
}

/// Something of a run that its tests did not remove.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    kind: &'static Kind,
    id: String,
    name: String,
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name, self.name)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Kind {
    name: &'static str,
    list: &'static [&'static str],
    remove: &'static [&'static str],
}

/// In the order in which they can be removed.
static KINDS: [Kind; 3] = [
    Kind {
        name: "container",
        list: &["ps", "--all", "--no-trunc", "--format", "{{.ID}}\t{{.Names}} ({{.Image}}, {{.Status}})"],
        remove: &["rm", "--force", "--volumes"],
    },
    Kind {
        name: "network",
        list: &["network", "ls", "--no-trunc", "--format", "{{.ID}}\t{{.Name}}"],
        remove: &["network", "rm"],
    },
    Kind {
        name: "volume",
        list: &["volume", "ls", "--format", "{{.Name}}\t{{.Name}}"],
        remove: &["volume", "rm", "--force"],
    },
];

/// What carries the label of the run.
pub(super) fn leftovers(run: &str) -> Result<Vec<Leftover>> {
    let filter = format!("label={RUN_LABEL}={run}");
    let mut found = Vec::new();
    for kind in &KINDS {
        let said = say(&[kind.list, &["--filter", &filter]].concat(), LIMIT)?;
        let of_line = |line: &str| {
            let (id, name) = line.split_once('\t')?;
            Some(Leftover { kind, id: id.to_owned(), name: name.to_owned() })
        };
        found.extend(said.lines().filter_map(of_line));
    }
    Ok(found)
}

/// Removes what carries the label of the run, and returns all that was there.
///
/// `after_interruption` it looks twice: a daemon still carries out what a killed test has asked it for.
///
/// # Errors
/// That something is still there in the end.
pub(super) fn sweep(run: &str, after_interruption: bool) -> Result<Vec<Leftover>> {
    let (mut removed, mut clean) = (Vec::<Leftover>::new(), 0);
    let mut problem = None;
    for _ in 0..10 {
        let found = leftovers(run)?;
        if found.is_empty() {
            clean += 1;
            if clean == if after_interruption { 2 } else { 1 } {
                return Ok(removed);
            }
        }
        for leftover in found {
            // Something else may remove it at the same time; what counts is what the next look finds.
            problem = say(&[leftover.kind.remove, &[&leftover.id]].concat(), LIMIT).err().or(problem);
            if !removed.iter().any(|other| other.id == leftover.id) {
                removed.push(leftover);
            }
        }
        // The daemon has no way to say that it has nothing more to do for a client that is gone.
        thread::sleep(Duration::from_millis(300));
    }
    let what = format!("something of the test run {run} cannot be removed");
    match problem {
        Some(problem) => Err(problem).context(what),
        None => bail!(what),
    }
}

/// What a person types to remove what `--keep` kept.
pub(super) fn removal_of(run: &str) -> String {
    let filter = format!("--filter label={RUN_LABEL}={run}");
    // Not by pruning volumes: older daemons prune only those without a name, newer ones need to be told of the others.
    format!(
        "docker ps -aq {filter} | xargs -r docker rm -fv; docker network prune -f {filter}; \
         docker volume ls -q {filter} | xargs -r docker volume rm"
    )
}

/// The standard output of the `docker` command.
fn say(words: &[&str], limit: Duration) -> Result<String> {
    let mut command = Command::new("docker");
    command.args(words);
    let Some(output) = process::output_within(command, limit)? else {
        bail!("`docker {}` has not ended after {} s", words.first().unwrap_or(&""), limit.as_secs());
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("and does not say why");
        bail!("`docker {}` failed: {line}", words.first().unwrap_or(&""));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
