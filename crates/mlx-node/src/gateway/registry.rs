//! What the workers say of themselves, as the gateway needs it: bounded, whatever they call themselves.

use std::borrow::Cow;
use std::collections::BTreeMap;

use mlx_nats::WorkerInfo;
use mlx_types::messages::WorkerStatus;

use super::Gateway;

/// Models that are listed at the most.
const MODELS: usize = 10_000;

/// How much of a name people are shown, in characters.
const NAME: usize = 120;

impl Gateway {
    /// The models of the workers that take requests, each with when it was last seen on a disk, in seconds since 1970.
    pub(super) fn models(&self) -> BTreeMap<String, u64> {
        let workers = self.registry.list();
        let able =
            workers.iter().filter(|worker| worker.status != WorkerStatus::Offline && self.known.may_be_asked(worker));
        let mut models = BTreeMap::new();
        for worker in able {
            let seen = worker.registration.as_ref().map_or(0, |known| known.skills.last_scanned.as_millis() / 1000);
            for model in models_of(worker) {
                if models.len() < MODELS || models.contains_key(model) {
                    let known = models.entry(model.to_owned()).or_insert(seen);
                    *known = seen.max(*known);
                }
            }
        }
        models
    }

    /// What people call a worker: its name in the configuration, or that of its host once it has told.
    pub(super) fn name_of(&self, worker: &WorkerInfo) -> String {
        let named = self.known.name_of(worker);
        let told = worker.registration.as_ref().map(|registration| registration.hostname.as_str());
        shown(named.or(told).unwrap_or("(not registered yet)")).into_owned()
    }
}

/// The models that a worker can load, and those that it has loaded.
pub(super) fn models_of(worker: &WorkerInfo) -> impl Iterator<Item = &str> {
    let available = worker.registration.iter().flat_map(|registration| &registration.skills.available_models);
    let loaded = worker.metrics.iter().flat_map(|metrics| &metrics.models_loaded);
    available.chain(loaded).map(String::as_str)
}

/// As much of a name as people are shown.
pub(super) fn shown(name: &str) -> Cow<'_, str> {
    match name.char_indices().nth(NAME) {
        None => Cow::Borrowed(name),
        Some((end, _)) => Cow::Owned(format!("{}…", name.get(..end).unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_megabytes_is_shown_as_far_as_people_read() {
        assert_eq!(shown("studio"), "studio");
        let long = "ä".repeat(4 << 20);
        assert_eq!(shown(&long).chars().count(), NAME + 1);
    }
}
