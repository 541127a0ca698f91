//! A nats-server process that does not outlive this one.

mod parent_death;
mod watcher;

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal};
use tokio::process::{Child, ChildStderr, Command};

use watcher::Watcher;

/// What ends a nats-server when this process dies without having stopped it, by SIGKILL for example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OrphanGuard {
    /// The kernel's parent-death signal. Needs no other process. The kernel forgets it for a binary with file
    /// capabilities or the set-user-ID bit; use [`OrphanGuard::Watcher`] for such a one.
    #[cfg(target_os = "linux")]
    ParentDeathSignal,
    /// A shell that waits for the end of a pipe held by this process, and then kills nats-server. Needs `/bin/sh`.
    Watcher,
}

impl Default for OrphanGuard {
    /// The parent-death signal on Linux, the watcher elsewhere.
    fn default() -> Self {
        #[cfg(target_os = "linux")]
        return Self::ParentDeathSignal;
        #[cfg(not(target_os = "linux"))]
        return Self::Watcher;
    }
}

/// A running nats-server. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    pid: Pid,
    /// Ended after the child, by the order of the fields.
    _watcher: Option<Watcher>,
}

impl Process {
    /// Starts `binary` with the settings file `settings`. What it writes to standard error comes back beside it.
    ///
    /// Must be called on the supervising thread: the parent-death signal tells of the end of a thread, not of a process.
    pub(crate) fn spawn(binary: &Path, settings: &Path, guard: OrphanGuard) -> io::Result<(Self, ChildStderr)> {
        let mut command = Command::new(binary);
        command.arg("-c").arg(settings);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let watcher = match guard {
            #[cfg(target_os = "linux")]
            OrphanGuard::ParentDeathSignal => {
                parent_death::kill_with_parent(&mut command);
                None
            }
            OrphanGuard::Watcher => Some(Watcher::start()?),
        };
        // A process group of its own, so that Ctrl-C on a terminal reaches the parent alone, which then decides.
        command.process_group(watcher.as_ref().map_or(0, Watcher::group));
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let stderr = child.stderr.take();
        let (Some(pid), Some(stderr)) = (pid, stderr) else { return Err(io::ErrorKind::NotFound.into()) };
        Ok((Self { child, pid, _watcher: watcher }, stderr))
    }

    /// The process id. Another process may have it once [`Process::wait`] has returned.
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits for its end. Cancel safe.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks it to end in good order.
    pub(crate) fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Asks it to turn new clients away, to tell the others that it is about to end, and then to end.
    pub(crate) fn warn_clients(&self) -> io::Result<()> {
        self.signal(Signal::USR2)
    }

    /// Asks it to read its settings file again.
    pub(crate) fn reload(&self) -> io::Result<()> {
        self.signal(Signal::HUP)
    }

    /// Ends it at once and waits until it is gone.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        // `id` is `None` once the child has been waited for, and its number free for others.
        match self.child.id() {
            Some(_) => Ok(rustix::process::kill_process(self.pid, signal)?),
            None => Ok(()),
        }
    }
}
