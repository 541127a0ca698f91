//! How requests are dispatched.

use std::time::Duration;

use mlx_types::config::{ClusterConfig, Strategy};

use super::breaker::BreakerSettings;
use super::known::KnownWorkers;

/// Requests that wait for a place at most, unless set otherwise.
const MAX_WAITING: usize = 100;

/// How long a request may wait for its answer to begin, unless set otherwise.
const BEGIN_TIMEOUT: Duration = Duration::from_mins(1);

/// How often forgotten sessions are cleared away, unless set otherwise.
const CLEANUP_INTERVAL: Duration = Duration::from_mins(1);

/// How a [`Dispatcher`](super::Dispatcher) chooses workers, and what it does when one fails. From a whole configuration:
/// `loadBalancing`, `requestRouting`, `workers.static` and `discovery.enabled`.
///
/// ```
/// use std::time::Duration;
/// use mlx_nats::DispatchOptions;
/// use mlx_types::config::Strategy;
///
/// let options = DispatchOptions::default()
///     .strategy(Strategy::LeastLoaded)
///     .session_life(Duration::from_secs(600)) // requests of one session go to one worker
///     .max_waiting(10);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DispatchOptions {
    /// The rule by which a worker is chosen; `smart` by default.
    pub strategy: Strategy,
    /// Requests of one session go to one worker, for so long after the last of them; unset by default, which leaves that off.
    pub session_life: Option<Duration>,
    /// How often forgotten sessions are cleared away. 60 s.
    pub cleanup_interval: Duration,
    /// How long a streamed answer may take to begin, over all workers that are asked, waiting included. 60 s.
    pub begin_timeout: Duration,
    /// The same of an answer that is wanted whole (`stream: false`). 60 s.
    pub whole_begin_timeout: Duration,
    /// Requests that wait for a place at most, while all workers are full; further ones are refused at once. 100.
    pub max_waiting: usize,
    /// How often a request is asked of another worker at most; unset by default: of each that can serve it.
    pub max_retries: Option<u32>,
    /// How long to wait before another worker is asked. None at all by default.
    pub retry_delay: Duration,
    /// Error codes that are worth asking another worker, beside those that say so themselves.
    pub retry_on: Vec<String>,
    /// Failures in a row after which a worker is left alone; unset by default, which leaves that off.
    pub breaker_failures: Option<u32>,
    /// Successes in a row after which it is trusted again. 2.
    pub breaker_successes: u32,
    /// How long it is left alone. 30 s.
    pub breaker_timeout: Duration,
    /// How much each worker is preferred, and whether others are asked at all; by default all are, and equally.
    pub known: KnownWorkers,
}

impl Default for DispatchOptions {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            session_life: None,
            cleanup_interval: CLEANUP_INTERVAL,
            begin_timeout: BEGIN_TIMEOUT,
            whole_begin_timeout: BEGIN_TIMEOUT,
            max_waiting: MAX_WAITING,
            max_retries: None,
            retry_delay: Duration::ZERO,
            retry_on: Vec::new(),
            breaker_failures: None,
            breaker_successes: 2,
            breaker_timeout: Duration::from_secs(30),
            known: KnownWorkers::default(),
        }
    }
}

mlx_errors::setters! {
    DispatchOptions {
        strategy: set Strategy,
        session_life: option Duration,
        cleanup_interval: set Duration,
        begin_timeout: set Duration,
        whole_begin_timeout: set Duration,
        max_waiting: set usize,
        max_retries: option u32,
        retry_delay: set Duration,
        retry_on: into Vec<String>,
        breaker_failures: option u32,
        breaker_successes: set u32,
        breaker_timeout: set Duration,
        known: set KnownWorkers,
    }
}

impl From<&ClusterConfig> for DispatchOptions {
    fn from(config: &ClusterConfig) -> Self {
        let (balancing, routing) = (&config.load_balancing, &config.request_routing);
        let sticky = balancing.session_affinity.enabled || balancing.sticky_session;
        let (retry, breaker) = (&routing.retry, &routing.circuit_breaker);
        let options = Self::default()
            .strategy(balancing.strategy)
            .cleanup_interval(balancing.session_affinity.cleanup_interval_ms.as_duration())
            .session_life(sticky.then(|| balancing.session_affinity.ttl_ms.as_duration()))
            .begin_timeout(routing.streaming_timeout_ms.as_duration())
            .whole_begin_timeout(routing.timeout_ms.as_duration())
            .known(KnownWorkers::from(config));
        let options = if retry.enabled {
            options
                .max_retries(retry.max_retries)
                .retry_delay(retry.retry_delay_ms.as_duration())
                .retry_on(retry.retry_on_errors.clone())
        } else {
            options
        };
        if breaker.enabled {
            options
                .breaker_failures(breaker.failure_threshold)
                .breaker_successes(breaker.success_threshold)
                .breaker_timeout(breaker.timeout_ms.as_duration())
        } else {
            options
        }
    }
}

impl DispatchOptions {
    pub(super) fn breaker(&self) -> Option<BreakerSettings> {
        self.breaker_failures.map(|failures| BreakerSettings {
            failures: failures.max(1),
            successes: self.breaker_successes.max(1),
            timeout: self.breaker_timeout,
        })
    }
}
