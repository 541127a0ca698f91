//! A shell that kills a process group when this process is gone.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// The shell, waiting on a pipe that only this process can write to and never does. Dropping it ends it.
///
/// It leads the process group that it kills, which settles two races. It is there before nats-server is, so there is no
/// moment without a guard. And its group exists as long as the shell does, so that it can never kill a stranger that got
/// the number of a nats-server long gone.
pub(super) struct Watcher {
    shell: Child,
}

impl Watcher {
    pub(super) fn start() -> io::Result<Self> {
        let shell = Command::new("/bin/sh")
            .args(["-c", "read -r _; kill -KILL 0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self { shell })
    }

    /// The process group for the process to be watched.
    pub(super) fn group(&self) -> i32 {
        // Process numbers are positive `pid_t`s, which std hands out as `u32`.
        self.shell.id().cast_signed()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // It holds nothing, so the abrupt end is a clean one. A failure means that it is gone already.
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
