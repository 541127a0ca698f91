//! Asking a file whether it is a nats-server, and which.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use semver::Version;

/// How long `nats-server --version` may take. It takes 10 ms; a first run off a network drive may take seconds.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// More than any version line.
const OUTPUT_LIMIT: u64 = 4096;

/// Why a file will not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    Missing,
    NotAFile,
    NotExecutable,
    WrongArchitecture,
    MissingLoader,
    Silent(Duration),
    NotNats(String),
    Other(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("not found"),
            Self::NotAFile => f.write_str("not a file"),
            Self::NotExecutable => f.write_str("not executable; `chmod +x` it"),
            Self::WrongArchitecture => {
                write!(f, "not a program for this machine ({}, {})", std::env::consts::OS, std::env::consts::ARCH)
            }
            Self::MissingLoader => f.write_str("its interpreter or loader is not installed"),
            Self::Silent(limit) => write!(f, "`--version` did not end within {} ms", limit.as_millis()),
            Self::NotNats(output) if output.is_empty() => f.write_str("`--version` printed nothing"),
            Self::NotNats(output) => write!(f, "not a nats-server: `--version` printed `{output}`"),
            Self::Other(problem) => f.write_str(problem),
        }
    }
}

/// The version that the file at `path` says it is.
pub(super) fn version(path: &Path) -> Result<Version, Unusable> {
    let stamp = Stamp::of(path)?;
    if let Some(version) = known().get(path).filter(|known| known.0 == stamp) {
        return Ok(version.1.clone());
    }
    let version = ask(path, TIME_LIMIT)?;
    known().insert(path.to_path_buf(), (stamp, version.clone()));
    Ok(version)
}

type Known = HashMap<PathBuf, (Stamp, Version)>;

/// What files answered before: asking again would cost every start as much time as nats-server itself needs.
fn known() -> MutexGuard<'static, Known> {
    static KNOWN: LazyLock<Mutex<Known>> = LazyLock::new(Mutex::default);
    KNOWN.lock()
}

/// What tells that a file is still the one that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
}

impl Stamp {
    fn of(path: &Path) -> Result<Self, Unusable> {
        let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Unusable::Missing,
            io::ErrorKind::PermissionDenied => Unusable::Other("its folder may not be entered by this user".into()),
            _ => Unusable::Other(error.to_string()),
        })?;
        if !metadata.is_file() {
            return Err(Unusable::NotAFile);
        }
        Ok(Self { modified: metadata.modified().ok(), bytes: metadata.len() })
    }
}

/// Runs `path --version`, for at most `timeout`.
fn ask(path: &Path, timeout: Duration) -> Result<Version, Unusable> {
    let mut child = spawn(path)?;
    let answer = read_answer(&mut child, timeout);
    // Whatever it answered, it is not left behind.
    end(&mut child);
    parse(&answer.ok_or(Unusable::Silent(timeout))?)
}

fn spawn(path: &Path) -> Result<Child, Unusable> {
    let mut command = Command::new(path);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().map_err(|error| match (error.kind(), error.raw_os_error()) {
        // `Stamp::of` has just seen the file, so what is missing is what should run it.
        (io::ErrorKind::NotFound, _) => Unusable::MissingLoader,
        (io::ErrorKind::PermissionDenied, _) => Unusable::NotExecutable,
        // ENOEXEC, and on macOS EBADARCH: neither has a kind of its own.
        (_, Some(8 | 86)) => Unusable::WrongArchitecture,
        _ => Unusable::Other(error.to_string()),
    })
}

/// What the child prints until it closes its output; `None` after `timeout`.
fn read_answer(child: &mut Child, timeout: Duration) -> Option<String> {
    let deadline = Instant::now() + timeout;
    let stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = Vec::new();
        // A failed read is told by what is missing from the output.
        let _ = stdout.take(OUTPUT_LIMIT).read_to_end(&mut output);
        let _ = sender.send(String::from_utf8_lossy(&output).into_owned());
    });
    receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
}

/// Kills the child with whatever it started, and reaps it.
fn end(child: &mut Child) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// The version in a line like `nats-server: v2.15.1`.
fn parse(output: &str) -> Result<Version, Unusable> {
    output.trim().strip_prefix("nats-server: v").and_then(|version| Version::parse(version).ok()).ok_or_else(|| {
        let line = output.lines().next().unwrap_or_default();
        Unusable::NotNats(line.chars().filter(|c| !c.is_control()).take(80).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_given_up_and_killed() {
        let limit = Duration::from_millis(50);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nats-server");
        let script = "#!/bin/sh\necho $$ > \"$0.pid\"\nsleep 600\n";
        assert!(
            Command::new("sh")
                .args(["-c", "printf '%s' \"$1\" > \"$0\" && chmod 755 \"$0\""])
                .arg(&path)
                .arg(script)
                .status()
                .unwrap()
                .success()
        );
        let started = Instant::now();
        assert_eq!(ask(&path, limit), Err(Unusable::Silent(limit)));
        assert!(started.elapsed() < Duration::from_secs(5));
        // Killed before its first line, it has left no number; then there is nothing to look for either.
        if let Some(pid) =
            std::fs::read_to_string(path.with_extension("pid")).ok().and_then(|pid| pid.trim().parse().ok())
        {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            assert!(rustix::process::test_kill_process(pid).is_err(), "the program is still there");
        }
    }
}
