//! Workers that are known beforehand: how much each is preferred, and what it is called.

use std::collections::HashMap;
use std::net::IpAddr;

use mlx_types::WorkerId;
use mlx_types::config::{ClusterConfig, StaticWorker};

use crate::workers::WorkerInfo;

/// The workers that a configuration lists (`workers.static`), and whether others are asked too (`discovery.enabled`).
///
/// An entry means the worker of its `workerId`; where it has none, the one that registered from its address: `ip` and `port`, or
/// host and port of its `url`.
///
/// ```
/// use mlx_nats::KnownWorkers;
/// use mlx_types::WorkerId;
///
/// let (fast, slow) = (WorkerId::new(), WorkerId::new());
/// let known = KnownWorkers::default().prefer(fast, 80).prefer(slow, 20);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KnownWorkers {
    by_id: HashMap<WorkerId, Known>,
    by_address: HashMap<(String, u16), Known>,
    only: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Known {
    priority: u8,
    name: Option<String>,
}

impl KnownWorkers {
    /// Sets how much a worker is preferred, 0 to 100; the weight of others is 50.
    #[must_use]
    pub fn prefer(mut self, worker: WorkerId, priority: u8) -> Self {
        self.by_id.insert(worker, Known { priority, name: None });
        self
    }

    /// Asks none but these.
    #[must_use]
    pub fn only(mut self) -> Self {
        self.only = true;
        self
    }

    /// Whether a worker may be asked.
    pub fn may_be_asked(&self, worker: &WorkerInfo) -> bool {
        !self.only || self.find(worker).is_some()
    }

    /// What a worker is called in the configuration.
    pub fn name_of(&self, worker: &WorkerInfo) -> Option<&str> {
        self.find(worker)?.name.as_deref()
    }

    pub(super) fn priority_of(&self, worker: &WorkerInfo) -> Option<u8> {
        self.find(worker).map(|known| known.priority)
    }

    fn find(&self, worker: &WorkerInfo) -> Option<&Known> {
        if let Some(known) = self.by_id.get(&worker.worker_id) {
            return Some(known);
        }
        if self.by_address.is_empty() {
            return None;
        }
        let registration = worker.registration.as_ref()?;
        let named = (registration.hostname.to_ascii_lowercase(), registration.port);
        let at = |host: String| self.by_address.get(&(host, registration.port));
        at(registration.ip.to_canonical().to_string()).or_else(|| self.by_address.get(&named))
    }
}

impl From<&ClusterConfig> for KnownWorkers {
    fn from(config: &ClusterConfig) -> Self {
        let mut workers = Self { only: !config.discovery.enabled, ..Self::default() };
        for entry in &config.workers.static_ {
            let known = Known { priority: entry.priority, name: entry.name.clone() };
            match (entry.worker_id, address_of(entry)) {
                (Some(id), _) => drop(workers.by_id.insert(id, known)),
                (None, Some(address)) => drop(workers.by_address.insert(address, known)),
                (None, None) => {}
            }
        }
        workers
    }
}

/// Host and port, the host in the one way in which it is compared.
fn address_of(entry: &StaticWorker) -> Option<(String, u16)> {
    if let (Some(ip), Some(port)) = (entry.ip, entry.port) {
        return Some((ip.to_canonical().to_string(), port));
    }
    let (scheme, rest) = entry.url.as_ref()?.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (authority, if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 }),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    Some((host.parse::<IpAddr>().map_or(host, |ip| ip.to_canonical().to_string()), port))
}

#[cfg(test)]
mod tests {
    use mlx_types::messages::{ModelSkills, WorkerRegistration, WorkerStatus};

    use super::*;

    fn worker(id: WorkerId, host: &str, ip: &str, port: u16) -> WorkerInfo {
        let skills = ModelSkills::new(["m"]);
        let registration = WorkerRegistration::new(id, host, ip.parse::<IpAddr>().unwrap(), port, skills);
        let mut info = WorkerInfo::new(id, WorkerStatus::Online);
        info.registration = Some(registration);
        info
    }

    #[test]
    fn p3_an_entry_means_a_worker_by_its_id_or_by_where_it_is() {
        let id = WorkerId::new();
        let mut config = ClusterConfig::default();
        let mut by_id = StaticWorker::default();
        (by_id.url, by_id.worker_id, by_id.name) = (Some("http://h:1".into()), Some(id), Some("first".into()));
        let mut at_address = StaticWorker::default();
        (at_address.ip, at_address.port, at_address.priority) = (Some("10.0.0.2".parse().unwrap()), Some(9000), 90);
        let mut by_url = StaticWorker::default();
        (by_url.url, by_url.priority) = (Some("https://[::1]:9001/v1".into()), 10);
        let mut by_host = StaticWorker::default();
        (by_host.url, by_host.priority) = (Some("http://Studio:9000".into()), 20);
        config.workers.static_ = vec![by_id, at_address, by_url, by_host];
        let known = KnownWorkers::from(&config);

        assert_eq!(known.name_of(&worker(id, "x", "10.9.9.9", 1)), Some("first"));
        let priority = |host, ip, port| known.priority_of(&worker(WorkerId::new(), host, ip, port));
        assert_eq!(priority("x", "10.0.0.2", 9000), Some(90));
        assert_eq!(priority("x", "::ffff:10.0.0.2", 9000), Some(90), "the same address, written in IPv6");
        assert_eq!(priority("x", "::1", 9001), Some(10));
        assert_eq!(priority("studio", "10.0.0.9", 9000), Some(20));
        assert_eq!(priority("x", "10.0.0.2", 9009), None);
        assert!(known.may_be_asked(&worker(WorkerId::new(), "x", "10.0.0.7", 1)), "discovery is on");

        config.discovery.enabled = false;
        let known = KnownWorkers::from(&config);
        assert!(!known.may_be_asked(&worker(WorkerId::new(), "x", "10.0.0.7", 1)));
        assert!(known.may_be_asked(&worker(id, "x", "10.0.0.7", 1)));
    }
}
