//! One measurement, in processes of its own: a driver that measures, and a responder where a workload has two ends.
//!
//! So neither side of a row inherits anything from the other: no warm allocator, no connection, no leftover task. Both
//! are this same program; what it is to do comes as arguments, and what it brings home leaves as one line of JSON.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use futures_util::future::OptionFuture;
use mlx_embedded::EmbeddedServer;
use mlx_embedded::binary::BINARY_VARIABLE;
use mlx_nats::{Client, ClientOptions};
use mlx_types::config::{NatsConfig, NatsMode};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use crate::arm::{Arm, Side, Workload};
use crate::control::Control;
use crate::rows;
use crate::sample::Sample;

/// The hidden command of this program that plays a part.
pub const COMMAND: &str = "part";

/// Far longer than any measurement takes, even on a busy machine.
const LIMIT: Duration = Duration::from_mins(3);

/// What a responder says once it listens.
const READY: &str = "ready";

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

/// What a workload needs to know.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) arm: Arm,
    /// Units to be measured.
    pub(crate) work: u64,
    url: String,
    /// The process id of the server.
    pub(crate) server: u32,
}

impl Context {
    /// Units to be done before anything is measured: connections, caches and branch predictors are warm then.
    pub(crate) fn warm_up(&self) -> u64 {
        (self.work / 5).clamp(1, 20_000)
    }

    /// A client of ours.
    pub(crate) async fn ours(&self) -> Result<Client> {
        let options = ClientOptions {
            coalesce: self.arm.side != Side::OursPlain,
            // The worker of these measurements sends no heartbeats.
            offline_timeout: LIMIT,
            ..ClientOptions::default()
        };
        Ok(Client::connect_with(&self.config()?, options).await?)
    }

    /// The settings of a client of ours, all as by default but the URL.
    pub(crate) fn config(&self) -> Result<NatsConfig> {
        Ok(NatsConfig { mode: NatsMode::External, server_url: Some(self.url.parse()?), ..NatsConfig::default() })
    }

    /// A client of async-nats, all as by default.
    pub(crate) async fn raw(&self) -> Result<async_nats::Client> {
        Ok(async_nats::connect(&self.url).await?)
    }

    /// The connection to the other process.
    pub(crate) async fn control(&self) -> Result<Control> {
        Control::connect(&self.url).await
    }

    /// For a responder: says that it listens, and then waits for its end.
    pub(crate) async fn listen(&self, control: &Control) -> Result<()> {
        let _answering = control.answer().await?;
        let mut output = std::io::stdout();
        writeln!(output, "{READY}")?;
        output.flush()?;
        std::future::pending().await
    }
}
