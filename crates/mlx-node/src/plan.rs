//! What a node is going to do, from its configuration: pure, so that it can be shown and tested. Nothing else reads the
//! configuration, so what is not in here has no effect; [`unused`] names those keys.

#[cfg(test)]
mod keys;
mod unused;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use mlx_log::LogConfig;
pub(crate) use mlx_nats::KnownWorkers;
use mlx_nats::{ClientOptions, DispatchOptions};
use mlx_types::config::{
    ClusterConfig, EngineKind, Mode, NatsConfig, NatsMode, PreWarmModel, PreWarmPriority, RegisterWhen,
};
use mlx_types::{NatsUrl, Secret, WorkerId};

pub(crate) use self::unused::unused;
use crate::engine::EngineSettings;

/// Tokens that the stand-in makes in a second, unless set otherwise.
pub(crate) const STAND_IN_RATE: f64 = 40.0;

/// What a node is going to do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The server to start, or the one to connect to.
    pub(crate) bus: NatsConfig,
    pub(crate) logging: LogConfig,
    /// What the client does beyond its connection.
    pub(crate) client: ClientOptions,
    pub(crate) controller: Option<ControllerPlan>,
    pub(crate) worker: Option<WorkerPlan>,
}

/// A controller.
#[derive(Clone, Debug)]
pub(crate) struct ControllerPlan {
    pub(crate) dispatch: DispatchOptions,
    pub(crate) gateway: GatewayPlan,
}

/// A gateway.
#[derive(Clone, Debug)]
pub(crate) struct GatewayPlan {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What says where it listens, where that is not the configuration.
    pub(crate) said_by: Option<&'static str>,
    /// Where the page has a port of its own.
    pub(crate) page_port: Option<u16>,
    /// In lower case, without the dot that a name may end in.
    pub(crate) allow_hosts: Vec<String>,
    pub(crate) allow_origins: Vec<String>,
    pub(crate) api_keys: Vec<Secret<String>>,
}

/// A worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) id: Identity,
    pub(crate) port: u16,
    pub(crate) max_concurrent: usize,
    pub(crate) max_queued: usize,
    pub(crate) engine: EngineSettings,
    pub(crate) warming: Option<Warming>,
    pub(crate) memory: Option<MemoryLimits>,
}

/// Where a worker's id comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The configuration.
    Given(WorkerId),
    /// A file in this folder, where it is made at the first start.
    KeptIn(PathBuf),
}

/// Models that are loaded before the first request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Warming {
    /// Those of one group before those of the next.
    pub(crate) groups: Vec<Vec<String>>,
    /// Those of one group at the same time.
    pub(crate) parallel: bool,
    pub(crate) timeout: Duration,
    /// Whether the worker registers only when all are loaded.
    pub(crate) before_registration: bool,
}

/// How much memory of the machine may be in use, in GB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct MemoryLimits {
    /// From here on the worker is degraded.
    pub(crate) soft: f64,
    /// From here on it refuses requests.
    pub(crate) hard: f64,
    pub(crate) interval: Duration,
}

/// What the command line adds to a configuration, which has no key for it.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// Where what a node keeps is kept: beside the configuration.
    pub(crate) folder: PathBuf,
    /// Whether the configuration itself says how often a lost bus is tried again.
    pub(crate) reconnects_are_set: bool,
    /// `OPENAI_API_KEY` of the environment.
    pub(crate) engine_key: Option<Secret<String>>,
    pub(crate) tokens_per_second: f64,
    /// One address for all of the gateway, as `--listen` gives it.
    pub(crate) listen: Option<(IpAddr, u16)>,
}

impl Plan {
    /// What a configuration means.
    pub(crate) fn new(config: &ClusterConfig, around: &Surroundings) -> Self {
        let serves = match config.mode {
            Mode::Controller => true,
            Mode::Both => config.controller.enabled || around.listen.is_some(),
            Mode::Worker => false,
        };
        let works = config.mode != Mode::Controller;
        let client = ClientOptions::from(config).name(match config.mode {
            Mode::Worker => "mlx-node worker",
            Mode::Controller => "mlx-node controller",
            Mode::Both => "mlx-node",
        });
        Self {
            bus: bus(config, around),
            logging: config.logging.clone(),
            client,
            controller: serves
                .then(|| ControllerPlan { dispatch: DispatchOptions::from(config), gateway: gateway(config, around) }),
            worker: works.then(|| worker(config, around)),
        }
    }
}

/// A node does not give its bus up, unless the configuration says when.
fn bus(config: &ClusterConfig, around: &Surroundings) -> NatsConfig {
    let mut bus = config.nats.clone();
    if !around.reconnects_are_set {
        bus.max_reconnect_attempts = u32::MAX;
    }
    match config.discovery.controller_ip {
        Some(controller) if config.mode == Mode::Worker && bus.mode == NatsMode::Embedded => {
            at(bus, &controller.to_string(), config.nats.embedded.port)
        }
        _ => bus,
    }
}

/// The configuration of a client of the bus that a node with this configuration has.
pub(crate) fn bus_of_others(config: &NatsConfig) -> NatsConfig {
    match config.mode {
        NatsMode::External => config.clone(),
        NatsMode::Embedded => {
            let host = config.embedded.host.as_str();
            let anywhere = host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
            at(config.clone(), if anywhere { "127.0.0.1" } else { host }, config.embedded.port)
        }
    }
}

fn at(mut bus: NatsConfig, host: &str, port: u16) -> NatsConfig {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    bus.mode = NatsMode::External;
    // A host and a port that were checked make an address.
    bus.server_url = format!("nats://{host}:{port}").parse::<NatsUrl>().ok();
    bus.servers = None;
    bus
}

fn gateway(config: &ClusterConfig, around: &Surroundings) -> GatewayPlan {
    let controller = &config.controller;
    let (host, port, page_port) = if let Some((address, port)) = around.listen {
        (address.to_string(), port, None)
    } else {
        let page = Some(controller.dashboard_port).filter(|page| *page != controller.port);
        (controller.bind_address.clone(), controller.port, page)
    };
    let lower = |name: &String| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    GatewayPlan {
        host,
        port,
        said_by: around.listen.map(|_| "--listen"),
        page_port,
        allow_hosts: controller.allow_hosts.iter().map(lower).collect(),
        allow_origins: controller.allow_origins.clone(),
        api_keys: controller.api_keys.clone(),
    }
}

fn worker(config: &ClusterConfig, around: &Surroundings) -> WorkerPlan {
    let worker = &config.worker;
    let engine = match (worker.engine.kind, &worker.engine.url) {
        (EngineKind::Openai, Some(url)) => EngineSettings::OpenAi {
            url: url.clone(),
            api: worker.engine.api,
            key: worker.engine.api_key.clone().or_else(|| around.engine_key.clone()),
            streaming: config.streaming.clone(),
        },
        _ => EngineSettings::StandIn { tokens_per_second: around.tokens_per_second },
    };
    // What an engine computes together is what it takes at a time.
    let batching = &worker.continuous_batching;
    let max_concurrent = if batching.enabled { batching.max_batch_size } else { worker.max_concurrent };
    let queue = &worker.request_queue;
    let limits = &worker.resource_limits;
    WorkerPlan {
        id: worker.worker_id.map_or_else(|| Identity::KeptIn(around.folder.clone()), Identity::Given),
        port: worker.port,
        max_concurrent: usize::try_from(max_concurrent).unwrap_or(usize::MAX),
        max_queued: if queue.enabled { usize::try_from(queue.max_depth).unwrap_or(usize::MAX) } else { 0 },
        engine,
        warming: warming(config),
        memory: limits.enabled.then(|| MemoryLimits {
            soft: limits.soft_memory_limit_gb,
            hard: limits.hard_memory_limit_gb,
            interval: limits.check_interval_ms.as_duration(),
        }),
    }
}

fn warming(config: &ClusterConfig) -> Option<Warming> {
    let warming = &config.worker.pre_warming;
    if !warming.enabled || warming.models.is_empty() {
        return None;
    }
    let of = |priority: PreWarmPriority| {
        let wanted = |model: &&PreWarmModel| model.priority == priority;
        warming.models.iter().filter(wanted).map(|model| model.model.clone()).collect::<Vec<_>>()
    };
    let groups = [PreWarmPriority::High, PreWarmPriority::Medium, PreWarmPriority::Low].map(of);
    Some(Warming {
        groups: groups.into_iter().filter(|group| !group.is_empty()).collect(),
        parallel: warming.parallel,
        timeout: warming.timeout_per_model_ms.as_duration(),
        before_registration: warming.register_when == RegisterWhen::Complete,
    })
}
