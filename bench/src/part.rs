//! One measurement, in processes of its own: a driver that measures, and a responder where a workload has two ends.
//!
//! So neither side of a row inherits anything from the other: no warm allocator, no connection, no leftover task. Both
//! are this same program; what it is to do comes as arguments, and what it brings home leaves as one line of JSON.

use std::io::Read as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use futures_util::future::OptionFuture;
use mlx_embedded::EmbeddedServer;
use mlx_embedded::binary::BINARY_VARIABLE;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::arm::{Arm, Side, Workload};
use crate::context::{Context, LIMIT, READY};
use crate::rows;
use crate::sample::Sample;

/// The hidden command of this program that plays a part.
pub const COMMAND: &str = "part";

/// Measures `arm` once, with so many units of work, by processes of `program`.
///
/// # Errors
/// When a process cannot be started, fails (what it says comes with the error), or takes far too long.
pub async fn measure(program: &Path, server: &EmbeddedServer, arm: Arm, work: u64) -> Result<Sample> {
    let pid = server.pid().context("the server is gone")?;
    let url = server.client_url().to_string();
    let start = |role: Role| {
        let name = |value: Option<clap::builder::PossibleValue>| value.map(|name| name.get_name().to_owned());
        let words = [arm.workload.to_string(), arm.side.to_string(), arm.count.to_string(), work.to_string()];
        let mut command = Command::new(program);
        command.arg(COMMAND).args(words).args(name(role.to_possible_value())).arg(&url).arg(pid.to_string());
        command.env(BINARY_VARIABLE, &server.binary().path);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command.spawn().with_context(|| format!("cannot run {}", program.display()))
    };
    let measured = async {
        let mut responder = None;
        if arm.workload.has_responder() {
            responder = Some(Process::new(start(Role::Responder)?)?.ready().await?);
        }
        let driver = Process::new(start(Role::Driver)?)?;
        tokio::select! {
            line = driver.ended() => serde_json::from_slice(&line?).context("its result cannot be read"),
            Some(ended) = OptionFuture::from(responder.map(Process::ended)) => {
                ended.context("the responder")?;
                bail!("the responder ended before the driver")
            }
        }
    };
    timeout(LIMIT, measured)
        .await
        .with_context(|| format!("it took longer than {LIMIT:?}"))
        .flatten()
        .with_context(|| format!("measuring {arm}"))
}

/// A process, and the pipe with whose end it ends.
struct Process {
    child: Child,
    lifeline: ChildStdin,
}

impl Process {
    fn new(mut child: Child) -> Result<Self> {
        // Taken, because waiting for a child would close it.
        let lifeline = child.stdin.take().context("no standard input")?;
        Ok(Self { child, lifeline })
    }

    /// A responder once it listens.
    async fn ready(mut self) -> Result<Self> {
        let output = self.child.stdout.take().context("no standard output")?;
        if BufReader::new(output).lines().next_line().await?.as_deref() == Some(READY) {
            return Ok(self);
        }
        self.ended().await.context("the responder")?;
        bail!("the responder ended before it was asked anything");
    }

    /// What it said in the end.
    async fn ended(self) -> Result<Vec<u8>> {
        let output = self.child.wait_with_output().await?;
        drop(self.lifeline);
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output.stdout)
    }
}

/// What a part is to do.
#[derive(Clone, Debug, Args)]
pub struct Part {
    workload: Workload,
    side: Side,
    count: u64,
    work: u64,
    role: Role,
    url: String,
    server: u32,
}

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Role {
    /// Measures.
    Driver,
    /// Answers.
    Responder,
}

impl Part {
    /// Plays the part: in a process that was started for it, and ends with the one that started it.
    pub async fn play(self) -> Result<()> {
        std::thread::spawn(|| {
            // Nothing ever comes. The end means that the parent is done with us, or dead.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            std::process::exit(0);
        });
        let role = self.role;
        let Self { workload, side, count, work, url, server, .. } = self;
        let context = Context { arm: Arm::new(workload, side, count), work, url, server };
        match role {
            Role::Responder => rows::respond(&context).await,
            Role::Driver => {
                let sample = rows::drive(&context).await?;
                anstream::println!("{}", serde_json::to_string(&sample)?);
                Ok(())
            }
        }
    }
}
