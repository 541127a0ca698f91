//! Running a child so that what ends us ends it too.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout};

/// The exit code of a command that a signal asked to end.
pub(crate) const INTERRUPTED: u8 = 130;

/// How long a child may take to end once asked to. Longer than the 10 s that nextest gives its tests: killed before it has
/// killed them, it would leave them behind.
const GRACE: Duration = Duration::from_secs(20);

/// How long output is waited for once the child that writes it is gone: one of its own children may hold the pipe.
const DRAIN: Duration = Duration::from_secs(2);

/// The person, or the system, asked us to end. The child is gone.
#[derive(Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Runs a child to its end, without input.
///
/// It gets a process group of its own, so that one Ctrl-C reaches it once, through us, with all that it started.
///
/// # Errors
/// [`Interrupted`] after SIGINT, SIGTERM, SIGQUIT, or the end of the terminal (SIGHUP), also where it came since the last child ended; that the child cannot be started.
pub(crate) fn run(command: Command) -> Result<ExitStatus> {
    with_listener(|listener| listener.supervise(command, None))
}

/// Like [`run`], with every line of standard output given to `line` as it comes.
pub(crate) fn run_with_lines(mut command: Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    command.stdout(Stdio::piped());
    with_listener(|listener| listener.supervise(command, Some(&mut line)))
}

/// What a child says, however long it takes.
///
/// # Errors
/// As [`run`].
pub(crate) fn output(command: Command) -> Result<Output> {
    with_listener(|listener| listener.listen_to(command, Child::wait_with_output))
}

/// What a child says, where it ends within `limit`; else it is killed with all that it started, and the answer is `None`.
///
/// # Errors
/// As [`run`].
pub(crate) fn output_within(command: Command, limit: Duration) -> Result<Option<Output>> {
    let wait = async |child: Child| {
        let group = group_of(&child);
        let output = timeout(limit, child.wait_with_output()).await.ok();
        if output.is_none() {
            send(group, Signal::KILL);
        }
        output.transpose()
    };
    with_listener(|listener| listener.listen_to(command, wait))
}

thread_local! {
    static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
}

/// One listener for all children of a command: a signal that comes between two of them is not lost.
fn with_listener<T>(work: impl FnOnce(&mut Listener) -> Result<T>) -> Result<T> {
    LISTENER.with_borrow_mut(|listener| {
        let listener = match listener {
            Some(listener) => listener,
            None => listener.insert(Listener::new()?),
        };
        work(listener)
    })
}

struct Listener {
    runtime: Runtime,
    signals: Signals,
}

/// What asks us to end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
    /// None where it is ignored, as below `nohup`: listening would end what is to outlive its terminal.
    hangup: Option<tokio::signal::unix::Signal>,
}

impl Listener {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start an event loop")?;
        let entered = runtime.enter();
        let signals = Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            hangup: if hangups_are_ignored() { None } else { Some(signal(SignalKind::hangup())?) },
        };
        drop(entered);
        Ok(Self { runtime, signals })
    }

    fn supervise(&mut self, command: Command, line: Option<&mut dyn FnMut(&str)>) -> Result<ExitStatus> {
        self.runtime.block_on(supervise(command, line, &mut self.signals))
    }

    fn listen_to<T>(&mut self, mut command: Command, wait: impl AsyncFnOnce(Child) -> io::Result<T>) -> Result<T> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let signals = &mut self.signals;
        self.runtime.block_on(async {
            let child = spawn(command)?;
            let group = group_of(&child);
            tokio::select! {
                output = wait(child) => Ok(output?),
                _ = signals.next() => {
                    send(group, Signal::KILL);
                    Err(Interrupted.into())
                }
            }
        })
    }
}

impl Signals {
    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::INT,
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.quit.recv() => Signal::QUIT,
            Some(()) = async { self.hangup.as_mut()?.recv().await } => Signal::HUP,
        }
    }
}

/// Asked of a shell, which inherits that from us: no safe function says it.
fn hangups_are_ignored() -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap 'exit 1' HUP; kill -s HUP $$; exit 0"]);
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().is_ok_and(|status| status.success())
}

fn spawn(mut command: Command) -> Result<Child> {
    let program = command.get_program().to_owned();
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    tokio::process::Command::from(command)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))
}

fn group_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
}

async fn supervise(
    command: Command,
    mut line: Option<&mut dyn FnMut(&str)>,
    signals: &mut Signals,
) -> Result<ExitStatus> {
    let mut child = spawn(command)?;
    let group = group_of(&child);
    let mut output = child.stdout.take().map(|stdout| BufReader::new(stdout).split(b'\n'));

    let mut signalled = false;
    let mut ended: Option<ExitStatus> = None;
    let mut deadline: Option<Instant> = None;
    while ended.is_none() || output.is_some() {
        tokio::select! {
            Some(next) = next_line(&mut output) => match next {
                Ok(Some(bytes)) => {
                    if let Some(line) = &mut line {
                        line(&String::from_utf8_lossy(&bytes));
                    }
                }
                Ok(None) | Err(_) => output = None,
            },
            status = wait(&mut child), if ended.is_none() => {
                ended = Some(status?);
                deadline = Some(Instant::now() + DRAIN);
            }
            signal = signals.next() => ask_to_end(group, &mut signalled, &mut deadline, signal),
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                send(group, Signal::KILL);
                if ended.is_some() {
                    break;
                }
                deadline = None;
            }
        }
    }
    if signalled {
        // Who is left in its group would not be asked.
        send(group, Signal::KILL);
        return Err(Interrupted.into());
    }
    ended.context("the child was not waited for")
}

type Lines = tokio::io::Split<BufReader<ChildStdout>>;

/// The next line; `None` where there is no output to read, which disables the branch.
async fn next_line(output: &mut Option<Lines>) -> Option<io::Result<Option<Vec<u8>>>> {
    Some(output.as_mut()?.next_segment().await)
}

async fn wait(child: &mut Child) -> Result<ExitStatus> {
    child.wait().await.context("cannot wait for a child")
}

/// The first time politely; a person who asks again wants it now. A terminal that ends may say so twice.
fn ask_to_end(group: Option<Pid>, signalled: &mut bool, deadline: &mut Option<Instant>, signal: Signal) {
    if *signalled && signal == Signal::HUP {
        return;
    }
    send(group, if *signalled { Signal::KILL } else { signal });
    *signalled = true;
    *deadline = Some(Instant::now() + GRACE);
}

fn send(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // It fails when nobody of the group is left, which is what is wanted.
        let _ = kill_process_group(group, signal);
    }
}
