//! What a worker is.

use std::net::IpAddr;
use std::time::Duration;

use mlx_types::WorkerId;
use mlx_types::messages::{Feature, HardwareProfile, ModelTier, WorkerStatus};

/// The port of a worker's own interface, unless set otherwise.
const PORT: u16 = 8080;

/// A worker registers at least so often: a controller that was not there, and does not ask, learns of it by then.
const REGISTER_INTERVAL: Duration = Duration::from_mins(1);

/// The least time between two heartbeats, or two registrations that nothing asked for.
pub(super) const LEAST_INTERVAL: Duration = Duration::from_millis(10);

/// Requests answered at once, unless set otherwise.
const MAX_CONCURRENT: usize = 4;

/// What a worker is, for its registration. Only the id is needed; what is not known is left out.
///
/// ```
/// use mlx_nats::WorkerProfile;
/// use mlx_types::WorkerId;
///
/// let profile = WorkerProfile::new(WorkerId::new())
///     .hostname("studio-1")
///     .models(["llama-3", "qwen-3"])
///     .max_concurrent(8) // further requests are refused, and controllers see it coming
///     .available_memory_gb(96.0);
/// ```
#[derive(Clone, Debug)]
pub struct WorkerProfile {
    pub(super) id: WorkerId,
    pub(super) hostname: Option<String>,
    pub(super) ip: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) models: Vec<String>,
    pub(super) max_concurrent: usize,
    pub(super) max_queued: usize,
    pub(super) accepts: Vec<Feature>,
    pub(super) model_tiers: Vec<ModelTier>,
    pub(super) available_memory_gb: Option<f64>,
    pub(super) hardware: Option<HardwareProfile>,
    pub(super) status: WorkerStatus,
    pub(super) reason: Option<String>,
    pub(super) register_interval: Duration,
}

impl WorkerProfile {
    /// A worker with this id, without models yet.
    pub fn new(id: WorkerId) -> Self {
        Self {
            id,
            hostname: None,
            ip: None,
            port: PORT,
            models: Vec::new(),
            max_concurrent: MAX_CONCURRENT,
            max_queued: 0,
            accepts: Vec::new(),
            model_tiers: Vec::new(),
            available_memory_gb: None,
            hardware: None,
            status: WorkerStatus::Online,
            reason: None,
            register_interval: REGISTER_INTERVAL,
        }
    }

    /// Sets the name of its host; its address by default.
    #[must_use]
    pub fn hostname(mut self, hostname: impl Into<String>) -> Self {
        self.hostname = Some(hostname.into());
        self
    }

    /// Sets its address; by default the one that the NATS server sees it connect from.
    #[must_use]
    pub fn ip(mut self, ip: IpAddr) -> Self {
        self.ip = Some(ip);
        self
    }

    /// Sets the port of its own interface, 1024 to 65535; 8080 by default. Nothing listens there for requests, which come by
    /// the bus.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets the ids of the models that it can serve.
    #[must_use]
    pub fn models(mut self, models: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.models = models.into_iter().map(Into::into).collect();
        self
    }

    /// Sets how many requests it answers at once, at least 1; 4 by default. Further ones are refused as `OVERLOADED`.
    #[must_use]
    pub fn max_concurrent(mut self, max_concurrent: usize) -> Self {
        self.max_concurrent = max_concurrent;
        self
    }

    /// Sets how many requests beyond those wait at the worker for their turn, in the order in which they came, instead of being
    /// refused; none by default. Controllers are told of [`max_concurrent`](Self::max_concurrent) alone.
    #[must_use]
    pub fn max_queued(mut self, max_queued: usize) -> Self {
        self.max_queued = max_queued;
        self
    }

    /// Sets what it accepts in a request beyond a prompt and a chat of texts; nothing by default. Requests that have it come only to
    /// workers that say so.
    #[must_use]
    pub fn accepts(mut self, features: impl Into<Vec<Feature>>) -> Self {
        self.accepts = features.into();
        self
    }

    /// Sets the sizes of model that it can hold.
    #[must_use]
    pub fn model_tiers(mut self, tiers: impl Into<Vec<ModelTier>>) -> Self {
        self.model_tiers = tiers.into();
        self
    }

    /// Sets the memory that is free for models, in GB.
    #[must_use]
    pub fn available_memory_gb(mut self, memory: f64) -> Self {
        self.available_memory_gb = Some(memory);
        self
    }

    /// Sets how it feels at its start; online by default. [`WorkerControl::set_status`](crate::WorkerControl::set_status) says
    /// what comes later.
    #[must_use]
    pub fn status(mut self, status: WorkerStatus) -> Self {
        self.status = status;
        self.reason = None;
        self
    }

    /// Has it start degraded, and says why.
    #[must_use]
    pub fn degraded(mut self, reason: impl Into<String>) -> Self {
        (self.status, self.reason) = (WorkerStatus::Degraded, Some(reason.into()));
        self
    }

    /// Sets how often it registers again although nothing has changed, for controllers that were not there and do not ask; one
    /// minute by default, 10 ms at the least.
    #[must_use]
    pub fn register_interval(mut self, interval: Duration) -> Self {
        self.register_interval = interval.max(LEAST_INTERVAL);
        self
    }

    /// Sets what it runs on.
    #[must_use]
    pub fn hardware(mut self, hardware: HardwareProfile) -> Self {
        self.hardware = Some(hardware);
        self
    }
}
