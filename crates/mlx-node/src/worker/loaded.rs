//! Which models are known to be in the engine's memory: those that make tokens, and the one that made some last. An engine
//! unloads models without a word, so that more is not known.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How long a model that has answered counts as loaded: less than any engine keeps one by default.
const KEPT: Duration = Duration::from_mins(4);

/// The models that are known to be loaded.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// Answers under way that have had a token.
    running: HashMap<String, usize>,
    last: Option<(String, Instant)>,
}

impl Loaded {
    /// Those that are known to be loaded now.
    pub(super) fn now(&self, now: Instant) -> BTreeSet<String> {
        let known = self.known.lock();
        let last =
            known.last.iter().filter(|(_, at)| now.saturating_duration_since(*at) < KEPT).map(|(model, _)| model);
        known.running.keys().chain(last).cloned().collect()
    }

    /// A model was loaded without a request.
    pub(super) fn loaded(&self, model: String) {
        self.known.lock().last = Some((model, Instant::now()));
        self.changed.notify_one();
    }

    /// An answer begins, by a model that may not be loaded yet.
    pub(super) fn use_of(self: &Arc<Self>, model: String) -> Use {
        Use { loaded: Arc::clone(self), model, answers: std::sync::atomic::AtomicBool::new(false) }
    }

    /// Resolves when others may be loaded.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// An answer under way.
#[derive(Debug)]
pub(super) struct Use {
    loaded: Arc<Loaded>,
    model: String,
    answers: std::sync::atomic::AtomicBool,
}

impl Use {
    /// A token has come.
    pub(super) fn answers(&self) {
        if self.answers.swap(true, std::sync::atomic::Ordering::Relaxed) {
            return;
        }
        *self.loaded.known.lock().running.entry(self.model.clone()).or_default() += 1;
        self.loaded.changed.notify_one();
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if !*self.answers.get_mut() {
            return;
        }
        let mut known = self.loaded.known.lock();
        if let Some(count) = known.running.get_mut(&self.model) {
            *count -= 1;
            if *count == 0 {
                known.running.remove(&self.model);
            }
        }
        known.last = Some((std::mem::take(&mut self.model), Instant::now()));
        drop(known);
        self.loaded.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w1_a_model_is_loaded_while_it_answers_and_a_while_after_unless_another_one_did() {
        let loaded = Arc::new(Loaded::default());
        let now = |after: u64| loaded.now(Instant::now() + Duration::from_secs(after)).into_iter().collect::<Vec<_>>();
        let first = loaded.use_of("a".to_owned());
        assert!(now(0).is_empty(), "it has not answered yet");
        first.answers();
        first.answers();
        assert_eq!(now(3600), ["a"]);
        drop(first);
        assert_eq!(now(0), ["a"]);
        assert!(now(3600).is_empty());
        drop(loaded.use_of("c".to_owned()));
        assert_eq!(now(0), ["a"], "one without a token says nothing");
        let second = loaded.use_of("b".to_owned());
        second.answers();
        assert_eq!(now(0), ["a", "b"]);
        drop(second);
        assert_eq!(now(0), ["b"]);
    }
}
