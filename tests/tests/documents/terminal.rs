//! Terminals in which the commands of a page are typed.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long the commands of a block may take: some compile a crate and much of what it depends on.
const TIMEOUT: Duration = Duration::from_mins(8);

/// How long somebody waits after Ctrl-C.
const GRACE: Duration = Duration::from_secs(20);

/// Commands under way in a process group of their own, as in a terminal. Killed with the value.
#[derive(Debug)]
pub(crate) struct Terminal {
    shell: Child,
    transcript: PathBuf,
}

impl Terminal {
    /// Types `commands` into `shell`, which writes to `transcript` what it prints.
    pub(crate) fn start(mut shell: Command, commands: &str, transcript: &Path) -> Self {
        let file = File::create(transcript).unwrap();
        let shell = shell
            .args(["-eu", "-o", "pipefail", "-c", commands])
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .process_group(0)
            .spawn()
            .expect("bash is there");
        Self { shell, transcript: transcript.to_owned() }
    }

    /// What has been printed so far.
    pub(crate) fn printed(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.transcript).unwrap()).into_owned()
    }

    /// Waits for the end of the commands.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.wait("its end", TIMEOUT, Self::ended)
    }

    /// Waits until `is_there` finds what it looks for in what was printed.
    pub(crate) fn prints(&mut self, is_there: impl Fn(&str) -> bool) {
        self.wait("what it is to print", TIMEOUT, |terminal| {
            let ended = terminal.ended();
            let there = is_there(&terminal.printed());
            assert!(there || ended.is_none(), "it ended ({}) and printed:\n{}", ended.unwrap(), terminal.printed());
            there.then_some(())
        });
    }

    /// Presses Ctrl-C, which reaches every process of the terminal, and waits for the end.
    pub(crate) fn interrupt(&mut self) -> ExitStatus {
        self.signal("-INT");
        self.wait("its end after Ctrl-C", GRACE, Self::ended)
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.shell.try_wait().unwrap()
    }

    fn wait<T>(&mut self, what: &str, limit: Duration, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            assert!(Instant::now() < deadline, "{what} did not come within {limit:?}; printed:\n{}", self.printed());
            std::thread::sleep(Duration::from_millis(20)); // between two looks
        }
    }

    fn signal(&self, signal: &str) {
        let sent: io::Result<_> = Command::new("kill").args([signal, "--", &format!("-{}", self.shell.id())]).output();
        sent.expect("kill is there");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.signal("-KILL");
            let _ = self.shell.wait();
        }
    }
}
