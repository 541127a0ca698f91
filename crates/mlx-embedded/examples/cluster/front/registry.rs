//! What the workers say of themselves, as the front door needs it.

use std::collections::BTreeMap;

use mlx_nats::WorkerInfo;
use mlx_types::messages::WorkerStatus;

use super::Gateway;

impl Gateway {
    /// The models of the workers that take requests, each with when it was last seen on a disk, in seconds since 1970.
    pub fn models(&self) -> BTreeMap<String, u64> {
        let workers = self.registry.list();
        let able = workers.iter().filter(|worker| worker.status != WorkerStatus::Offline);
        let mut models = BTreeMap::new();
        for worker in able {
            let seen = worker.registration.as_ref().map_or(0, |known| known.skills.last_scanned.as_millis() / 1000);
            for model in models_of(worker) {
                models.entry(model.to_owned()).and_modify(|known: &mut u64| *known = seen.max(*known)).or_insert(seen);
            }
        }
        models
    }
}

/// The models that a worker can load, and those that it has loaded.
pub fn models_of(worker: &WorkerInfo) -> impl Iterator<Item = &str> {
    let available = worker.registration.iter().flat_map(|registration| &registration.skills.available_models);
    let loaded = worker.metrics.iter().flat_map(|metrics| &metrics.models_loaded);
    available.chain(loaded).map(String::as_str)
}

/// What people call a worker: the name of its host, once it has told.
pub fn name_of(worker: &WorkerInfo) -> &str {
    worker.registration.as_ref().map_or("(not registered yet)", |registration| &registration.hostname)
}
