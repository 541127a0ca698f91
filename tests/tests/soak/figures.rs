//! What was counted, and what has to come out even.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Instant;

use mlx_errors::{Error, ErrorCode};

/// Counts of one run.
#[derive(Debug, Default)]
pub struct Figures {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    endings: Mutex<BTreeMap<(&'static str, String), u64>>,
    tokens: AtomicU64,
    began: OnceLock<Instant>,
    journal: Mutex<VecDeque<String>>,
}

/// What is told of the time before a failure.
const JOURNAL: usize = 100;

impl Figures {
    /// Keeps a line for the case that something fails.
    pub fn note(&self, what: impl fmt::Display) {
        let at = self.began.get_or_init(Instant::now).elapsed().as_secs_f64();
        let mut journal = lock(&self.journal);
        if journal.len() == JOURNAL {
            journal.pop_front();
        }
        journal.push_back(format!("{at:9.3} s  {what}"));
    }

    /// What happened last, the oldest first.
    pub fn journal(&self) -> String {
        Vec::from(lock(&self.journal).clone()).join("\n")
    }

    /// One more of something, for example of `cuts`.
    pub fn count(&self, what: &'static str) {
        self.add(what, 1);
    }

    pub fn add(&self, what: &'static str, number: u64) {
        *lock(&self.counts).entry(what).or_default() += number;
    }

    /// So many of something.
    pub fn of(&self, what: &str) -> u64 {
        lock(&self.counts).get(what).copied().unwrap_or_default()
    }

    pub fn tokens(&self, number: u64) {
        self.tokens.fetch_add(number, Ordering::Relaxed);
    }

    /// How one of `what` came out: well, or with an error that has to be one of `possible`.
    pub fn outcome(&self, what: &'static str, error: Option<&Error>, possible: &[ErrorCode]) {
        if let Some(error) = error {
            assert!(possible.contains(&error.code()), "no {what} should end as {}: {error}", error.code());
        }
        self.ended(what, error.map_or("well", |error| error.code().as_str()));
    }

    pub fn ended(&self, what: &'static str, how: &str) {
        *lock(&self.endings).entry((what, how.to_owned())).or_default() += 1;
    }

    /// A few words for a line of progress.
    pub fn brief(&self) -> String {
        let counts = ["streams", "requests", "batches", "cuts", "stalls", "kills", "departures"];
        let counts = counts.map(|what| format!("{} {what}", self.of(what)));
        format!("{} tokens, {}", self.tokens.load(Ordering::Relaxed), counts.join(", "))
    }

    /// Everything that was begun has ended, and everything that can be lost was put to the test.
    pub fn check(&self) {
        for what in ["streams", "requests", "gatherings", "batches"] {
            let endings = lock(&self.endings);
            let ended: u64 = endings.iter().filter(|((of, _), _)| *of == what).map(|(_, number)| number).sum();
            assert_eq!(ended, self.of(what), "{what}: begun and ended");
            assert!(endings.contains_key(&(what, "well".to_owned())), "none of the {what} ended well");
        }
        for what in ["cuts", "kills", "departures"] {
            assert!(self.of(what) > 0, "no {what} at all");
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} tokens", self.tokens.load(Ordering::Relaxed))?;
        for (what, number) in lock(&self.counts).iter() {
            writeln!(f, "{number} {what}")?;
        }
        for ((what, how), number) in lock(&self.endings).iter() {
            writeln!(f, "  {what} ended {how}: {number}")?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
