//! What a workload needs to know.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;
use mlx_nats::{Client, ClientOptions};
use mlx_types::config::{NatsConfig, NatsMode};

use crate::arm::{Arm, Side};
use crate::control::Control;

/// Far longer than any measurement takes, even on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_mins(3);

/// What a responder says once it listens.
pub(crate) const READY: &str = "ready";

/// What a workload needs to know.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) arm: Arm,
    /// Units to be measured.
    pub(crate) work: u64,
    pub(crate) url: String,
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
        // The worker of these measurements sends no heartbeats.
        let options = ClientOptions::default().coalesce(self.arm.side != Side::OursPlain).offline_timeout(LIMIT);
        Ok(Client::connect_with(&self.config()?, options).await?)
    }

    /// The settings of a client of ours, all as by default but the URL.
    pub(crate) fn config(&self) -> Result<NatsConfig> {
        Ok(NatsConfig::default().mode(NatsMode::External).server_url(self.url.parse()?))
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
