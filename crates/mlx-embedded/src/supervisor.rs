//! Keeping one nats-server alive, and ending it.

mod budget;
mod launcher;
mod pulse;
mod storage;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::config::{EmbeddedLogLevel, RestartConfig};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::logs::LastLines;
use crate::ready::Endpoints;
use crate::settings::Settings;
use crate::{diagnosis, http};
use budget::{Budget, Verdict};
pub(crate) use launcher::Launcher;
use pulse::{Condition, Pulse};

/// How long a server that could not write may take to end in good order.
const RELIEF: Duration = Duration::from_secs(5);

/// Lines of the server that go into the error of one that is given up.
const LINES_TOLD: usize = 10;

/// What an embedded server is doing.
///
/// ```no_run
/// # async fn example(server: mlx_embedded::EmbeddedServer) -> mlx_errors::Result<()> {
/// use mlx_embedded::ServerState;
///
/// let mut state = server.watch_state();
/// while state.changed().await.is_ok() {
///     match &*state.borrow_and_update() {
///         ServerState::Degraded(trouble) => eprintln!("{trouble}"),
///         ServerState::Failed(error) => eprintln!("{error}"),
///         state => println!("{state:?}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ServerState {
    /// It has been asked to start, for the first time.
    Starting,
    /// It answers.
    Ready,
    /// It runs, and something is wrong with it; says what. It is ready again as soon as that is over.
    Degraded(String),
    /// It ended by itself, and is started again on the same port.
    Restarting {
        /// Which restart within the window this is, from 1.
        attempt: u32,
        /// How it ended.
        reason: String,
    },
    /// It did not start, or ended more often than the budget allows. Nothing follows.
    Failed(Arc<Error>),
    /// It was stopped. Nothing follows.
    Stopped,
}

/// What the supervisor shares with its handle.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: watch::Sender<ServerState>,
    /// Where it listens, once it has said so: a moment before it is known to answer.
    listening: watch::Sender<Option<Endpoints>>,
    /// 0 while there is no process.
    pub(crate) pid: AtomicU32,
    pub(crate) lines: LastLines,
    /// Why JetStream cannot write, since the last start.
    trouble: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new(ServerState::Starting),
            listening: watch::Sender::new(None),
            pid: AtomicU32::new(0),
            lines: LastLines::default(),
            trouble: Mutex::default(),
        }
    }

    fn trouble(&self) -> MutexGuard<'_, Option<String>> {
        // A text is replaced whole.
        self.trouble.lock()
    }

    /// Where it listens, as soon as it does; never, where it does not come to that.
    pub(crate) async fn listening(&self) -> Endpoints {
        let mut listening = self.listening.subscribe();
        loop {
            if let Some(endpoints) = *listening.borrow_and_update() {
                return endpoints;
            }
            // The sender is in `self`.
            let _ = listening.changed().await;
        }
    }

    fn listening_now(&self) -> Option<Endpoints> {
        *self.listening.borrow()
    }

    fn set(&self, state: ServerState) {
        self.state.send_replace(state);
    }
}

/// What a handle asks of its supervisor. When every handle is gone, so is the server.
pub(crate) enum Command {
    /// End in good order by the deadline.
    Stop { farewell: Farewell, deadline: Instant, done: oneshot::Sender<()> },
    /// End now; the caller is blocked until it is done.
    Kill { done: std::sync::mpsc::SyncSender<()> },
    /// Take on these settings.
    Reload { settings: Box<Settings>, log_level: EmbeddedLogLevel, done: oneshot::Sender<Result<()>> },
    /// Tell the settings in force.
    Settings { done: oneshot::Sender<Settings> },
}

/// What clients hear of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    None,
    /// They are told, and then disconnected one after another.
    LameDuck,
}

/// A command to end, or nobody left to give one.
enum End {
    Stop { farewell: Farewell, deadline: Instant, done: oneshot::Sender<()> },
    Kill { done: std::sync::mpsc::SyncSender<()> },
    Abandoned,
}

impl End {
    fn answer(self) {
        match self {
            Self::Stop { done, .. } => drop(done.send(())),
            Self::Kill { done } => drop(done.try_send(())),
            Self::Abandoned => {}
        }
    }
}

/// Runs a server until it is stopped, or fails for good.
pub(crate) async fn supervise(
    mut launcher: Launcher,
    restart: RestartConfig,
    mut commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    started: oneshot::Sender<Result<Endpoints>>,
) {
    let first = tokio::select! {
        first = launcher.launch() => Ok(first),
        end = until_end(&mut commands) => Err(end),
    };
    let ending = match first {
        Ok(Ok(endpoints)) => {
            shared.set(ServerState::Ready);
            // Nobody waiting means that the handle is gone, which the next command tells.
            let _ = started.send(Ok(endpoints));
            let limit = restart.unresponsive_after_ms.into();
            let budget = Budget::new(&restart);
            Supervisor { launcher: &mut launcher, budget, limit, commands: &mut commands, shared: &shared }.run().await
        }
        Ok(Err(error)) => {
            launcher.kill().await;
            // The folder goes before the answer: a start that failed has left nothing behind when it says so.
            drop(launcher);
            shared.set(ServerState::Failed(Arc::new(Error::new(error.kind().clone()))));
            let _ = started.send(Err(error));
            return;
        }
        Err(end) => Some(end),
    };
    // Failed: the state says why, and there is no process.
    let Some(ending) = ending else { return };
    let killed = match &ending {
        End::Stop { farewell, deadline, .. } => tokio::select! {
            () = launcher.stop(*farewell, *deadline) => None,
            // The caller no longer waits.
            end = until_end(&mut commands) => Some(end),
        },
        End::Kill { .. } | End::Abandoned => None,
    };
    launcher.kill().await;
    // The folder and the lock are gone by the time the caller goes on.
    drop(launcher);
    shared.set(ServerState::Stopped);
    ending.answer();
    killed.into_iter().for_each(End::answer);
}

/// How a server was lost.
enum Lost {
    Ended(Option<ExitStatus>),
    /// It runs, and does not answer.
    Silent,
    /// It could not write, and there is room again: it was ended in good order.
    Relieved,
}

/// What a question to a server came to.
struct HealthAnswer {
    /// It answered a client.
    came: bool,
    /// What is wrong although it answered.
    trouble: Option<String>,
    /// It could not write, and there is room now.
    has_room: bool,
}

/// How a server is, asked a moment from now.
async fn ask(
    question: impl Future<Output = bool>,
    monitoring: Option<SocketAddr>,
    store: Option<PathBuf>,
    trouble: Option<String>,
) -> HealthAnswer {
    tokio::time::sleep(pulse::INTERVAL).await; // the rhythm of the questions
    let came = tokio::time::timeout(pulse::SLOW, question).await.unwrap_or(false);
    let mut answer = HealthAnswer { came, trouble, has_room: false };
    if !came {
        return answer;
    }
    if let Some(store) = store {
        answer.trouble = storage::missing(&store).or(answer.trouble);
        if answer.trouble.is_some() {
            // Writes a few MiB.
            answer.has_room = tokio::task::spawn_blocking(move || storage::has_room(&store)).await.unwrap_or(false);
        }
    }
    if answer.trouble.is_none()
        && let Some(address) = monitoring
        && http::get(address, "/healthz?js-enabled-only=true", pulse::SLOW).await.is_err()
    {
        answer.trouble = Some("its monitoring does not answer".to_owned());
    }
    answer
}

/// A server that has been ready once.
struct Supervisor<'a> {
    launcher: &'a mut Launcher,
    budget: Budget,
    /// How long it may be silent.
    limit: Duration,
    commands: &'a mut mpsc::Receiver<Command>,
    shared: &'a Shared,
}

impl Supervisor<'_> {
    /// Until it has to end; `None` after it failed.
    async fn run(mut self) -> Option<End> {
        loop {
            let reason = match self.watch().await {
                Ok(Lost::Ended(status)) => {
                    let reason = status.map_or_else(|| "it was lost sight of".to_owned(), diagnosis::describe);
                    warn!(reason, "the embedded nats-server ended by itself");
                    reason
                }
                Ok(Lost::Silent) => {
                    self.launcher.kill().await;
                    let reason = format!("it did not answer for {} ms", self.limit.as_millis());
                    warn!(reason, "the embedded nats-server was ended");
                    reason
                }
                Ok(Lost::Relieved) => {
                    let deadline = Instant::now() + RELIEF;
                    self.launcher.stop(Farewell::None, deadline).await;
                    self.launcher.kill().await;
                    let reason = "JetStream could not write, and there is room again".to_owned();
                    info!(reason, "the embedded nats-server is started anew");
                    reason
                }
                Err(end) => return Some(end),
            };
            match self.restart(reason).await {
                Ok(true) => self.shared.set(ServerState::Ready),
                Ok(false) => return None,
                Err(end) => return Some(end),
            }
        }
    }

    /// Until the process ends by itself, or does not answer any more.
    async fn watch(&mut self) -> Result<Lost, End> {
        let mut pulse = Pulse::new(self.limit, Instant::now());
        let mut question = Box::pin(self.question());
        loop {
            tokio::select! {
                status = self.launcher.ended() => return Ok(Lost::Ended(status)),
                answer = &mut question => {
                    match (pulse.look(answer.came, Instant::now()), answer.trouble) {
                        (Condition::Well, None) if answer.came => self.well(),
                        (Condition::Well, None) => {}
                        (Condition::Well, Some(_)) if answer.has_room => return Ok(Lost::Relieved),
                        (Condition::Well, Some(trouble)) => self.degraded(trouble),
                        (Condition::Silent(silent), _) => {
                            self.degraded(format!("it has not answered for {} s", silent.as_secs()));
                        }
                        (Condition::Gone, _) => return Ok(Lost::Silent),
                    }
                    question = Box::pin(self.question());
                }
                command = self.commands.recv() => match command {
                    None => return Err(End::Abandoned),
                    Some(Command::Stop { farewell, deadline, done }) => return Err(End::Stop { farewell, deadline, done }),
                    Some(Command::Kill { done }) => return Err(End::Kill { done }),
                    Some(Command::Settings { done }) => drop(done.send(self.launcher.settings().clone())),
                    Some(Command::Reload { settings, log_level, done }) => tokio::select! {
                        outcome = self.launcher.reload(*settings, log_level) => drop(done.send(outcome)),
                        // Ending a server that does not answer must not wait for its answer.
                        end = until_end(self.commands) => return Err(end),
                    },
                },
            }
        }
    }

    fn question(&self) -> impl Future<Output = HealthAnswer> + use<> {
        let store = self.launcher.settings().jetstream.as_ref().map(|jetstream| jetstream.store_dir.clone());
        let monitoring = self.shared.listening_now().and_then(|endpoints| endpoints.monitoring);
        ask(self.launcher.question(), monitoring, store, self.shared.trouble().clone())
    }

    fn well(&self) {
        if self.shared.state.send_if_modified(|state| {
            let was = matches!(state, ServerState::Degraded(_));
            if was {
                *state = ServerState::Ready;
            }
            was
        }) {
            info!("the embedded nats-server is well again");
        }
    }

    fn degraded(&self, reason: String) {
        if matches!(*self.shared.state.borrow(), ServerState::Ready) {
            warn!(reason, "something is wrong with the embedded nats-server");
        }
        self.shared.set(ServerState::Degraded(reason));
    }

    /// Until it is up again; `false` if it is given up.
    async fn restart(&mut self, mut reason: String) -> Result<bool, End> {
        loop {
            let (after, attempt) = match self.budget.ended(Instant::now()) {
                Verdict::Restart { after, attempt } => (after, attempt),
                Verdict::GiveUp { restarts } => {
                    let last_lines = self.shared.lines.last(LINES_TOLD);
                    let failure = Error::new(ErrorKind::ServerFailed { restarts, reason, last_lines });
                    error!(code = failure.code().as_str(), "{failure}");
                    self.shared.set(ServerState::Failed(Arc::new(failure)));
                    return Ok(false);
                }
            };
            self.shared.set(ServerState::Restarting { attempt, reason: reason.clone() });
            let again = async {
                // The back-off: time for whatever made it crash to pass.
                tokio::time::sleep(after).await;
                self.launcher.launch().await
            };
            let outcome = tokio::select! {
                outcome = again => outcome,
                end = until_end(self.commands) => return Err(end),
            };
            match outcome {
                Ok(_) => {
                    info!(attempt, "the embedded nats-server is up again");
                    return Ok(true);
                }
                Err(error) => {
                    self.launcher.kill().await;
                    reason = match error.kind() {
                        ErrorKind::ServerStart { reason, .. } => reason.clone(),
                        _ => error.to_string(),
                    };
                    warn!(attempt, reason, "the embedded nats-server did not come up again");
                }
            }
        }
    }
}

/// Until it has to end, turning away what needs a running server.
async fn until_end(commands: &mut mpsc::Receiver<Command>) -> End {
    loop {
        match commands.recv().await {
            None => return End::Abandoned,
            Some(Command::Stop { farewell, deadline, done }) => return End::Stop { farewell, deadline, done },
            Some(Command::Kill { done }) => return End::Kill { done },
            Some(Command::Settings { done }) => drop(done),
            Some(Command::Reload { done, .. }) => {
                let reason = "it is not running, so that it cannot reload its settings".to_owned();
                let _ = done.send(Err(Error::new(ErrorKind::EmbeddedServer { reason })));
            }
        }
    }
}
