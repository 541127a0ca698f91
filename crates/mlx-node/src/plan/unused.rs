//! Keys that are set, and change nothing about this node.

use mlx_types::config::{ClusterConfig, EngineKind, Mode, NatsMode};

/// A key that changes nothing, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unused {
    /// The path of the key, or of the section.
    pub(crate) key: &'static str,
    /// Why it changes nothing, in words that follow the key.
    pub(crate) reason: &'static str,
}

const WORKER_ALONE: &str = "belongs to a controller, and this node is a worker: `mode` says so";
const CONTROLLER_ALONE: &str = "belongs to a worker, and this node is a controller: `mode` says so";
const NO_GATEWAY: &str =
    "belongs to the gateway, which this node does not serve: `controller.enabled: true` has it do so";

/// The keys that differ from their defaults and change nothing.
pub(crate) fn unused(config: &ClusterConfig) -> Vec<Unused> {
    let default = ClusterConfig::default();
    let mut found = Vec::new();
    let mut check = |differs: bool, key, reason| {
        if differs {
            found.push(Unused { key, reason });
        }
    };
    controller(config, &default, &mut check);
    bus(config, &default, &mut check);
    if config.mode == Mode::Controller {
        check(config.worker != default.worker, "worker", CONTROLLER_ALONE);
    } else {
        worker(config, &default, &mut check);
    }
    found
}

fn controller(
    config: &ClusterConfig,
    default: &ClusterConfig,
    check: &mut impl FnMut(bool, &'static str, &'static str),
) {
    check(
        config.request_routing.durable != default.request_routing.durable,
        "requestRouting.durable",
        "is for programs built on `mlx-nats`: this one neither hands requests over that way nor takes them",
    );
    let reason = match config.mode {
        Mode::Controller => return,
        Mode::Both if config.controller.enabled => return,
        Mode::Both => NO_GATEWAY,
        Mode::Worker => WORKER_ALONE,
    };
    check(config.controller != default.controller, "controller", reason);
    check(config.load_balancing != default.load_balancing, "loadBalancing", reason);
    check(config.workers != default.workers, "workers", reason);
    check(config.discovery.enabled != default.discovery.enabled, "discovery.enabled", reason);
    let mut routing = config.request_routing.clone();
    routing.durable = default.request_routing.durable.clone();
    check(routing != default.request_routing, "requestRouting", reason);
}

fn bus(config: &ClusterConfig, default: &ClusterConfig, check: &mut impl FnMut(bool, &'static str, &'static str)) {
    let by_address = config.mode == Mode::Worker && config.nats.mode == NatsMode::Embedded;
    check(
        config.discovery.controller_ip.is_some() && !by_address,
        "discovery.controllerIp",
        "tells a worker with `nats.mode: embedded` where the bus is; this node starts one, or `nats.serverUrl` names it",
    );
    if config.nats.mode == NatsMode::External {
        let server = config.nats.embedded != default.nats.embedded;
        check(server, "nats.embedded", "is about a server that this node does not start: `nats.mode` is `external`");
    }
}

fn worker(config: &ClusterConfig, default: &ClusterConfig, check: &mut impl FnMut(bool, &'static str, &'static str)) {
    let (worker, usual) = (&config.worker, &default.worker);
    if worker.engine.kind == EngineKind::StandIn {
        let about = "is about a model server, and `worker.engine.kind` is `stand-in`";
        check(worker.engine.api != usual.engine.api, "worker.engine.api", about);
        check(worker.engine.api_key.is_some(), "worker.engine.apiKey", about);
    }
    let (warming, usual_warming) = (&worker.pre_warming, &usual.pre_warming);
    check(
        warming != usual_warming && (!warming.enabled || warming.models.is_empty()),
        "worker.preWarming",
        "loads nothing: it takes `enabled: true` and a list of `models`",
    );
    let (limits, usual_limits) = (&worker.resource_limits, &usual.resource_limits);
    check(limits != usual_limits && !limits.enabled, "worker.resourceLimits", "limits nothing without `enabled: true`");
    let (queue, usual_queue) = (&worker.request_queue, &usual.request_queue);
    check(queue != usual_queue && !queue.enabled, "worker.requestQueue", "has nobody wait without `enabled: true`");
    if queue.enabled {
        check(
            queue.priority_levels != usual_queue.priority_levels,
            "worker.requestQueue.priorityLevels",
            "changes nothing: requests have no priority, and wait in the order in which they came",
        );
        check(
            !queue.reject_when_full,
            "worker.requestQueue.rejectWhenFull",
            "changes nothing: a request that finds the queue full is refused, so that another worker is asked",
        );
    }
    let (batching, usual_batching) = (&worker.continuous_batching, &usual.continuous_batching);
    if batching.enabled {
        check(
            worker.max_concurrent != usual.max_concurrent,
            "worker.maxConcurrent",
            "gives way to `worker.continuousBatching.maxBatchSize`, which is how many requests the engine takes at a time",
        );
        let engines_own =
            "changes nothing: how requests are computed together is the model server's business, set it there";
        let adaptive = batching.adaptive_timeout != usual_batching.adaptive_timeout;
        check(adaptive, "worker.continuousBatching.adaptiveTimeout", engines_own);
        let least = batching.min_batch_size != usual_batching.min_batch_size;
        check(least, "worker.continuousBatching.minBatchSize", engines_own);
        let time = batching.batch_timeout_ms != usual_batching.batch_timeout_ms;
        check(time, "worker.continuousBatching.batchTimeoutMs", engines_own);
    } else {
        let differs = batching != usual_batching;
        check(differs, "worker.continuousBatching", "changes nothing without `enabled: true`");
    }
}
