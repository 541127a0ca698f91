//! One server: started, watched, told to reload and ended, as often as need be, always on the same ports.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::config::EmbeddedLogLevel;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::instrument::WithSubscriber as _;
use tracing::{debug, info, warn};

use super::{Farewell, ServerState, Shared, storage};
use crate::folder::PrivateFolder;
use crate::lock::FolderLock;
use crate::logs::{self, Line, Threshold};
use crate::process::{OrphanGuard, Process};
use crate::ready::{self, Announced, Endpoints};
use crate::settings::{Listen, Settings};
use crate::{diagnosis, http};

/// How long the last lines of a server that has ended may take to be read.
const LAST_LINES: Duration = Duration::from_millis(100);

/// How long a reload may take to be confirmed.
const RELOAD: Duration = Duration::from_secs(5);

/// How long a SIGKILL may take; part of every deadline is kept back for it.
const KILL: Duration = Duration::from_millis(50);

/// What a server is started with.
pub(crate) struct Launcher {
    binary: PathBuf,
    settings: Settings,
    /// What the running server was asked to listen on for monitoring.
    asked_monitoring: Option<Listen>,
    guard: OrphanGuard,
    start_timeout: Duration,
    threshold: Arc<Threshold>,
    shared: Arc<Shared>,
    folder: PrivateFolder,
    running: Option<Running>,
    _store: Option<FolderLock>,
}

struct Running {
    process: Process,
    log: JoinHandle<()>,
    reloads: mpsc::UnboundedReceiver<Result<(), String>>,
}

impl Launcher {
    /// Takes the folders that the server needs.
    pub(crate) fn prepare(
        binary: PathBuf,
        settings: Settings,
        guard: OrphanGuard,
        start_timeout: Duration,
        log_level: EmbeddedLogLevel,
        shared: Arc<Shared>,
    ) -> Result<Self> {
        let store = settings.jetstream.as_ref().map(|jetstream| FolderLock::take(&jetstream.store_dir)).transpose()?;
        let folder = PrivateFolder::create().map_err(|error| {
            let place = std::env::temp_dir();
            diagnosis::not_started(&format!("create a private folder in {} (see TMPDIR)", place.display()), error)
        })?;
        let threshold = Arc::new(Threshold::new(log_level));
        Ok(Self {
            binary,
            settings,
            asked_monitoring: None,
            guard,
            start_timeout,
            threshold,
            shared,
            folder,
            running: None,
            _store: store,
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether the server that runs answers a client of ours.
    pub(crate) fn question(&self) -> impl Future<Output = bool> + use<> {
        let (address, access) = (self.shared.listening_now(), self.settings.access.clone());
        async move {
            let Some(endpoints) = address else { return true };
            // What it says does not matter here: a server that is just reloading its users has answered.
            match ready::round_trip(endpoints.client, &access).await {
                Ok(()) => true,
                Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
            }
        }
    }

    /// Starts the server and waits until it answers. From then on its ports are settled.
    ///
    /// After an error, or if this is dropped half-way, [`Launcher::kill`] ends what may be left of it.
    pub(crate) async fn launch(&mut self) -> Result<Endpoints> {
        let begun = Instant::now();
        self.folder.forget_ports();
        self.write_settings(&self.settings)?;
        self.asked_monitoring.clone_from(&self.settings.monitoring);
        let (process, stderr) = Process::spawn(&self.binary, &self.folder.settings(), self.guard)
            .map_err(|error| diagnosis::not_started(&format!("run {}", self.binary.display()), error))?;
        self.shared.pid.store(process.id(), Ordering::Relaxed);
        let (outcomes, reloads) = mpsc::unbounded_channel();
        let (announcing, announced) = watch::channel(Announced::default());
        *self.shared.trouble() = None;
        let (shared, noting) = (Arc::clone(&self.shared), Arc::clone(&self.shared));
        let ready = move || matches!(*shared.state.borrow(), ServerState::Ready | ServerState::Degraded(_));
        let log = logs::follow(stderr, Arc::clone(&self.threshold), self.shared.lines.clone(), ready, move |line| {
            if let Some(outcome) = reload_outcome(line) {
                // Nobody waits for one that was not asked for.
                let _ = outcomes.send(outcome);
            }
            if let Some(trouble) = storage::trouble(line.message) {
                *noting.trouble() = Some(trouble);
            }
            announcing.send_if_modified(|announced| announced.note(line));
        });
        let log = tokio::spawn(log.with_current_subscriber());
        let running = self.running.insert(Running { process, log, reloads });

        let mut progress = Progress::Ports;
        let ready = until_ready(&self.folder, &self.settings, announced, &self.shared, &mut progress);
        let endpoints = tokio::select! {
            // An end says more about what went wrong than what the end did to a connection.
            biased;
            status = running.process.wait() => return Err(self.ended_early(status.ok()).await),
            ready = tokio::time::timeout(self.start_timeout, ready) => match ready {
                Ok(Ok(endpoints)) => endpoints,
                Ok(Err(error)) => return Err(diagnosis::not_started("connect to it", error)),
                Err(_) => {
                    self.kill().await;
                    return Err(diagnosis::too_slow(self.start_timeout, progress.text(), &self.shared.lines));
                }
            },
        };
        self.settle(endpoints);
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(address = %endpoints.client, pid = self.shared.pid.load(Ordering::Relaxed), took_ms = took, "the embedded nats-server is ready");
        Ok(endpoints)
    }

    /// Waits until the process ends by itself; at once where there is none. Cancel safe.
    pub(crate) async fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.running.as_mut()?.process.wait().await.ok();
        self.bury().await;
        status
    }

    /// Has the running server take on `settings`; after an error it runs on with those it had.
    pub(crate) async fn reload(&mut self, settings: Settings, log_level: EmbeddedLogLevel) -> Result<()> {
        let before = std::mem::replace(&mut self.settings, settings);
        let outcome = self.try_reload().await;
        if outcome.is_ok() {
            self.threshold.set(log_level);
        } else {
            self.settings = before;
            // One that is only slow reads its settings yet, and finds those of before.
            let undone = self.write_settings(&self.settings_to_reload()).is_ok();
            if let Some(running) = self.running.as_ref().filter(|_| undone) {
                let _ = running.process.reload();
            }
        }
        outcome
    }

    /// Asks the process to end, and kills it shortly before `deadline` if it has not.
    pub(crate) async fn stop(&mut self, farewell: Farewell, deadline: Instant) {
        let Some(running) = &mut self.running else { return };
        let asked = match farewell {
            Farewell::None => running.process.terminate(),
            Farewell::LameDuck => running.process.warn_clients(),
        };
        if let Err(error) = asked {
            debug!(%error, "the embedded nats-server could not be asked to end");
        }
        let patience = deadline.saturating_duration_since(Instant::now()).saturating_sub(KILL);
        if tokio::time::timeout(patience, running.process.wait()).await.is_err() {
            warn!("the embedded nats-server did not end in time and is killed");
        }
        self.kill().await;
    }

    /// Ends the process at once, if there is one.
    pub(crate) async fn kill(&mut self) {
        if let Some(running) = &mut self.running
            && let Err(error) = running.process.kill().await
        {
            debug!(%error, "the embedded nats-server was gone before it was killed");
        }
        self.bury().await;
    }

    /// Reads what a process that has ended wrote last, and forgets it.
    async fn bury(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        self.shared.pid.store(0, Ordering::Relaxed);
        // Bounded, since whatever inherited its standard error keeps that open.
        if tokio::time::timeout(LAST_LINES, &mut running.log).await.is_err() {
            running.log.abort();
        }
    }

    async fn ended_early(&mut self, status: Option<ExitStatus>) -> Error {
        self.bury().await;
        diagnosis::ended(&self.settings, status, &self.shared.lines).await
    }

    /// Makes the ports taken those of every later start.
    fn settle(&mut self, endpoints: Endpoints) {
        self.settings.port = endpoints.client.port();
        if let (Some(listen), Some(address)) = (&mut self.settings.monitoring, endpoints.monitoring) {
            listen.port = address.port();
        }
    }

    fn write_settings(&self, settings: &Settings) -> Result<()> {
        let text = settings.render(self.folder.path());
        self.folder.write_settings(&text).map_err(|error| diagnosis::not_started("write its settings file", error))
    }

    /// To a server that was asked for a free port, the number of the one it took would be a change, which it refuses.
    fn settings_to_reload(&self) -> Settings {
        Settings { monitoring: self.asked_monitoring.clone(), ..self.settings.clone() }
    }

    async fn try_reload(&mut self) -> Result<()> {
        let failed = |reason: String| Error::new(ErrorKind::EmbeddedServer { reason });
        self.write_settings(&self.settings_to_reload())?;
        let Some(running) = &mut self.running else { return Err(failed("it is not running".to_owned())) };
        while running.reloads.try_recv().is_ok() {}
        running.process.reload().map_err(|error| failed(format!("it cannot be told to reload: {error}")))?;
        match tokio::time::timeout(RELOAD, running.reloads.recv()).await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(reason))) => Err(failed(format!("it did not take on the new settings: {reason}"))),
            Ok(None) => Err(failed("it ended while it reloaded its settings".to_owned())),
            Err(_) => Err(failed(format!("it did not confirm a reload within {} ms", RELOAD.as_millis()))),
        }
    }
}

/// How far a start has got.
#[derive(Clone, Copy)]
enum Progress {
    Ports,
    Answer,
    JetStream,
}

impl Progress {
    fn text(self) -> &'static str {
        match self {
            Self::Ports => "it has not said which ports it listens on",
            Self::Answer => "it listens, but does not answer",
            Self::JetStream => "it answers, but JetStream is not ready",
        }
    }
}

async fn until_ready(
    folder: &PrivateFolder,
    settings: &Settings,
    announced: watch::Receiver<Announced>,
    shared: &Shared,
    progress: &mut Progress,
) -> io::Result<Endpoints> {
    // Between two attempts: a server that does not answer yet cannot say when it will.
    const AGAIN: Duration = Duration::from_millis(5);
    let endpoints = ready::endpoints(folder, announced, settings.monitoring.is_some()).await;
    shared.listening.send_replace(Some(endpoints));
    *progress = Progress::Answer;
    loop {
        match ready::round_trip(endpoints.client, &settings.access).await {
            Ok(()) => break,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
    if let (Some(_), Some(monitoring)) = (&settings.jetstream, endpoints.monitoring) {
        *progress = Progress::JetStream;
        while !http::get(monitoring, "/healthz", Duration::from_secs(1)).await.is_ok_and(|answer| answer.status == 200)
        {
            tokio::time::sleep(AGAIN).await;
        }
    }
    Ok(endpoints)
}

fn reload_outcome(line: &Line<'_>) -> Option<Result<(), String>> {
    if line.message.starts_with("Reloaded server configuration") {
        return Some(Ok(()));
    }
    let reason = line.message.strip_prefix("Failed to reload server configuration")?;
    Some(Err(reason.trim_start_matches(':').trim().to_owned()))
}
