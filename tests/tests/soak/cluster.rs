//! The cluster: a supervised server, a controller, an observer, workers; each of the three behind a network of its own.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use mlx_config::Loader;
use mlx_embedded::{EmbeddedServer, ServerState};
use mlx_errors::Result;
use mlx_nats::{Client, ClientOptions, WorkerEvent, Workers};
use mlx_tests::{FaultProxy, LIMIT, TestWorker, WorkerOptions, within};
use mlx_types::{ClusterConfig, WorkerId};
use tokio::sync::{MutexGuard, watch};

use crate::figures::Figures;
use crate::load;

const WORKERS: usize = 4;

/// Heartbeats as shipped; the rest so that what fails is noticed, and comes back, in little time. The attempts are more than
/// any fault here lasts, and within what a client that ends while disconnected leaves no task behind for.
const CONFIG: &str = "
nats:
  embedded: { port: 0, httpPort: 0, restart: { maxRestarts: 5, windowMs: 60000 } }
  reconnectTimeWait: 50
  maxReconnectAttempts: 1000
  connectTimeoutMs: 2000
  requestTimeoutMs: 3000
  pingIntervalMs: 500
discovery: { heartbeatIntervalMs: 1000, offlineTimeoutMs: 5000 }
streaming: { firstTokenTimeoutMs: 4000, interTokenTimeoutMs: 4000 }
";

/// How much later than the end of a fault a worker may still be missed.
const SETTLING: Duration = Duration::from_secs(7);

pub struct Cluster {
    config: ClusterConfig,
    server: EmbeddedServer,
    controller: Client,
    observer: Client,
    workers: Workers,
    slots: Vec<tokio::sync::Mutex<Slot>>,
    /// Of the controller, the observer, and each worker.
    networks: Vec<FaultProxy>,
    excuses: Mutex<HashMap<WorkerId, Excuse>>,
    figures: Arc<Figures>,
}

/// A worker's place, which one process after another takes.
pub struct Slot {
    pub id: WorkerId,
    client: Option<Client>,
    worker: Option<TestWorker>,
}

/// Why a worker may be found missing.
enum Excuse {
    Gone,
    Disturbed { at: Instant },
}

/// What a cluster without work and without faults looks like.
#[derive(Debug, PartialEq, Eq)]
pub struct Calm {
    subscriptions: u64,
    tasks: usize,
}

impl Cluster {
    pub async fn start(figures: Arc<Figures>) -> Self {
        let loader = Loader::new().text("soak.yaml", CONFIG).without_env();
        let config = loader.load().unwrap_or_else(|error| panic!("{}", loader.draw(&error, false))).into_config();
        let server = EmbeddedServer::start(&config.nats).await.unwrap_or_else(|error| panic!("{error}"));
        let mut networks = Vec::new();
        for _ in 0..2 + WORKERS {
            networks.push(FaultProxy::before(server.client_addr()).await);
        }
        let options = ClientOptions::from(&config);
        let connect = async |network: usize, name: &str| {
            let behind = networks[network].in_front(server.client_config());
            Client::connect_with(&behind, options.clone().name(name)).await.unwrap()
        };
        let (controller, observer) = (connect(0, "controller").await, connect(1, "observer").await);
        let workers = controller.workers().await.unwrap();
        let empty = || tokio::sync::Mutex::new(Slot { id: WorkerId::new(), client: None, worker: None });
        let slots = (0..WORKERS).map(|_| empty()).collect();
        let excuses = Mutex::default();
        let cluster = Self { config, server, controller, observer, workers, slots, networks, excuses, figures };
        for place in 0..WORKERS {
            let mut slot = cluster.slot(place).await;
            cluster.join(place, &mut slot).await;
        }
        cluster
    }

    pub fn controller(&self) -> &Client {
        &self.controller
    }

    /// A client that is not in the way of the others.
    pub fn observer(&self) -> &Client {
        &self.observer
    }

    /// The workers, as the controller sees them.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    pub fn server_pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// Networks to break.
    pub fn networks(&self) -> &[FaultProxy] {
        &self.networks
    }

    /// Places of workers.
    pub fn places(&self) -> usize {
        self.slots.len()
    }

    pub async fn slot(&self, place: usize) -> MutexGuard<'_, Slot> {
        self.slots[place].lock().await
    }

    /// A worker takes the place, however often the network makes it try.
    pub async fn join(&self, place: usize, slot: &mut Slot) {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.try_join(place, slot.id).await {
                Ok((client, worker)) => {
                    self.figures.note(format_args!("worker {} joins at {place}", slot.id));
                    self.excuse(slot.id, Excuse::Disturbed { at: Instant::now() });
                    (slot.client, slot.worker) = (Some(client), Some(worker));
                    return;
                }
                Err(error) => assert!(Instant::now() < deadline, "worker {} cannot join: {error}", slot.id),
            }
        }
    }

    async fn try_join(&self, place: usize, id: WorkerId) -> Result<(Client, TestWorker)> {
        let behind = self.networks[2 + place].in_front(self.server.client_config());
        let options = ClientOptions::from(&self.config).name(format!("worker-{place}"));
        let client = Client::connect_when_ready(&behind, options, LIMIT).await?;
        let worker = TestWorker::start(&client, WorkerOptions::new(id, &self.config)).await?;
        Ok((client, worker))
    }

    /// The worker finishes, says goodbye and goes.
    pub async fn leave(&self, slot: &mut Slot) {
        let (Some(client), Some(worker)) = (slot.client.take(), slot.worker.take()) else { return };
        self.figures.note(format_args!("worker {} leaves", slot.id));
        self.excuse(slot.id, Excuse::Gone); // whether or not its goodbye gets through
        for said in [worker.leave(Duration::from_secs(2)).await, client.shutdown(Duration::from_secs(2)).await] {
            self.figures.note(format_args!("worker {} leaves: {said:?}", slot.id));
            self.figures.ended("goodbyes", said.map_or_else(|error| error.code().as_str(), |()| "well"));
        }
    }

    /// The worker is gone from one moment to the next.
    pub fn die(&self, slot: &mut Slot) {
        self.figures.note(format_args!("worker {} dies", slot.id));
        self.excuse(slot.id, Excuse::Gone);
        (slot.worker, slot.client) = (None, None);
    }

    /// The worker at this network cannot be blamed for a silence up to now. One that is just coming or going need not be.
    pub fn disturbed(&self, network: usize) {
        if let Some(Ok(slot)) = network.checked_sub(2).map(|place| self.slots[place].try_lock()) {
            let id = slot.id;
            let mut excuses = self.excuses.lock().unwrap();
            if !matches!(excuses.get(&id), Some(Excuse::Gone)) {
                excuses.insert(id, Excuse::Disturbed { at: Instant::now() });
            }
        }
    }

    /// Kills the server, and returns when it is up again.
    pub async fn kill_server(&self) {
        let mut state = self.server.watch_state();
        let pid = self.server.pid().expect("the server is up");
        state.mark_unchanged();
        self.figures.note("the server is killed");
        kill(pid);
        let restarting = |state: &ServerState| matches!(state, ServerState::Restarting { .. });
        within("the notice of the server's death", state.wait_for(restarting)).await.unwrap();
        let settled = |state: &ServerState| matches!(state, ServerState::Ready | ServerState::Failed(_));
        let settled = within("the server's return", state.wait_for(settled)).await.unwrap().clone();
        assert!(matches!(settled, ServerState::Ready), "{settled:?}");
        self.figures.note("the server is back");
    }

    /// Everybody is connected and known, and everybody answers.
    pub async fn works_again(&self) {
        for client in [&self.controller, &self.observer] {
            client.wait_connected(LIMIT).await.unwrap();
        }
        let mut expected = BTreeSet::new();
        for place in 0..self.places() {
            expected.insert(self.slot(place).await.id);
        }
        let all = |known: &[mlx_nats::WorkerInfo]| {
            known.iter().map(|worker| worker.worker_id).collect::<BTreeSet<_>>() == expected
        };
        self.workers.wait_until(LIMIT, all).await.unwrap();
        for id in expected {
            load::calm_stream(self, id).await;
        }
    }

    pub async fn measure(&self) -> Calm {
        // A moment for what has just been started; a number that is still moving would be met again only by chance.
        let mut calm = self.look().await;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await; // between two looks that have to agree
            let now = self.look().await;
            if now == calm {
                return calm;
            }
            calm = now;
        }
    }

    /// Waits until no handler, no subscription and no task is left of the work.
    pub async fn returns_to(&self, calm: &Calm) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let mut answering = 0;
            for place in 0..self.places() {
                answering += self.slot(place).await.worker.as_ref().map_or(0, TestWorker::answering);
            }
            let now = self.look().await;
            if answering == 0 && now == *calm {
                return;
            }
            assert!(Instant::now() < deadline, "{answering} handlers, {now:?} instead of {calm:?}");
            tokio::time::sleep(Duration::from_millis(50)).await; // between two looks at the server
        }
    }

    async fn look(&self) -> Calm {
        let subscriptions = self.server.subsz().await.unwrap().num_subscriptions;
        Calm { subscriptions, tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks() }
    }

    pub async fn stop(self) {
        for slot in self.slots {
            let slot = slot.into_inner();
            slot.worker.expect("every place is taken").leave(LIMIT).await.unwrap();
            slot.client.expect("every place is taken").shutdown(LIMIT).await.unwrap();
        }
        self.controller.shutdown(LIMIT).await.unwrap();
        self.observer.shutdown(LIMIT).await.unwrap();
        self.server.stop(LIMIT).await.unwrap();
    }

    fn excuse(&self, id: WorkerId, excuse: Excuse) {
        self.excuses.lock().unwrap().insert(id, excuse);
    }
}

/// Holds what the controller says of its workers against what happened to them.
pub async fn watch_events(cluster: Arc<Cluster>, mut over: watch::Receiver<bool>) {
    let mut events = cluster.workers.events();
    loop {
        let event = tokio::select! {
            event = events.next() => event.expect("the client lives"),
            _ = over.wait_for(|over| *over) => return,
        };
        cluster.figures.note(format_args!("the controller says: {event:?}"));
        let excuses = cluster.excuses.lock().unwrap();
        match event {
            WorkerEvent::Online(_) => cluster.figures.count("workers online"),
            WorkerEvent::Replaced(_) => cluster.figures.count("workers replaced"),
            WorkerEvent::Left(_) => cluster.figures.count("workers left"),
            WorkerEvent::Lost(id) => {
                match excuses.get(&id) {
                    Some(Excuse::Gone) => {}
                    Some(Excuse::Disturbed { at }) if at.elapsed() < SETTLING => {}
                    _ => panic!("worker {id} was declared dead, and nothing had happened to it"),
                }
                cluster.figures.count("workers lost");
            }
            other => panic!("an unknown event: {other:?}"),
        }
    }
}

/// SIGKILL.
fn kill(pid: u32) {
    let status = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap();
    assert!(status.success());
}
