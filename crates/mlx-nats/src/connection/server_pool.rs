//! Which server to try next, and when the credentials are hopeless: without sockets and without time.

use std::collections::HashMap;

/// Refusals in a row from one server after which it is not asked again. One alone may come from a server that is just
/// reading its settings anew.
const REFUSALS: u32 = 2;

/// A server that could be tried, as the transport knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    /// Its address, without credentials.
    pub(super) address: &'a str,
    /// How often it failed in a row, and how the last time.
    pub(super) failures: usize,
    /// Configured, and not only told of by another server.
    pub(super) configured: bool,
    pub(super) error: Option<&'a str>,
}

/// What came of the last attempt.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) server: String,
    pub(crate) attempt: u32,
    pub(crate) error: String,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try the candidate of this place.
    Try { place: usize, attempt: u32 },
    /// Every server has refused the credentials, each of them twice in a row.
    Refused,
    /// As many attempts failed as were to be made.
    GiveUp { attempts: u32 },
}

/// The attempts since the last connection.
#[derive(Debug)]
pub(super) struct ServerPool {
    limit: u32,
    attempts: u32,
    /// The server of the attempt under way, or of the connection.
    current: Option<Current>,
    failures: HashMap<String, Failures>,
    /// Why the attempt under way was not made.
    nobody: Option<String>,
}

#[derive(Debug)]
struct Current {
    server: String,
    /// What the transport had counted of it before.
    failures: usize,
    connected: bool,
}

#[derive(Debug, Default)]
struct Failures {
    in_all: u32,
    refusals: u32,
}

impl ServerPool {
    /// One that gives up after `limit` failed attempts in a row.
    pub(super) fn new(limit: u32) -> Self {
        Self { limit, attempts: 0, current: None, failures: HashMap::new(), nobody: None }
    }

    /// The server of the attempt under way, or of the connection; and which attempt since the last connection that was.
    pub(super) fn current(&self) -> (&str, u32) {
        (self.current.as_ref().map_or("", |current| &current.server), self.attempts)
    }

    /// A connection to `server` stands, or stood: what counts from here are the attempts after it.
    pub(super) fn connected(&mut self, server: &str) {
        self.attempts = 0;
        self.failures.clear();
        self.current = Some(Current { server: server.to_owned(), failures: 0, connected: true });
    }

    /// The last attempt failed, or the connection dropped.
    pub(super) fn next(&mut self, candidates: &[Candidate<'_>], chance: f64) -> (Option<Failure>, Next) {
        let failure = self.take_failure(candidates);
        let usable = |candidate: &Candidate<'_>| {
            self.failures.get(candidate.address).is_none_or(|failures| failures.refusals < REFUSALS)
        };
        let rank = |candidate: &Candidate<'_>| {
            let failed = self.failures.get(candidate.address).map_or(0, |failures| failures.in_all);
            (failed, !candidate.configured)
        };
        let least = candidates.iter().filter(|candidate| usable(candidate)).map(rank);
        let Some(least) = least.min() else { return (failure, Next::Refused) };
        if self.attempts >= self.limit {
            return (failure, Next::GiveUp { attempts: self.attempts });
        }
        let equals: Vec<usize> = (0..candidates.len())
            .filter(|place| candidates.get(*place).is_some_and(|found| usable(found) && rank(found) == least))
            .collect();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place"
        )]
        let drawn = (chance.clamp(0.0, 1.0) * equals.len() as f64) as usize;
        let Some(place) = equals.get(drawn.min(equals.len().saturating_sub(1))).copied() else {
            return (failure, Next::Refused);
        };
        self.attempts += 1;
        self.current = candidates.get(place).map(|chosen| Current {
            server: chosen.address.to_owned(),
            failures: chosen.failures,
            connected: false,
        });
        (failure, Next::Try { place, attempt: self.attempts })
    }

    /// The attempt under way goes to another server after all.
    pub(super) fn turn_to(&mut self, candidate: Candidate<'_>) {
        self.current =
            Some(Current { server: candidate.address.to_owned(), failures: candidate.failures, connected: false });
    }

    /// Nobody answered: the attempt under way has failed without being made.
    pub(super) fn found_nobody(&mut self, why: String) {
        self.nobody = Some(why);
    }

    /// Whether a server has refused the credentials too often to be asked again.
    pub(super) fn is_hopeless(&self, server: &str) -> bool {
        self.failures.get(server).is_some_and(|failures| failures.refusals >= REFUSALS)
    }

    /// Books the attempt under way as failed, if one is.
    fn take_failure(&mut self, candidates: &[Candidate<'_>]) -> Option<Failure> {
        let current = self.current.take().filter(|current| !current.connected)?;
        let now = candidates.iter().find(|candidate| candidate.address == current.server);
        let said = now.filter(|now| now.failures > current.failures).and_then(|now| now.error);
        // Of what happens before it has an address, the transport keeps nothing.
        let nobody = self.nobody.take();
        let error = nobody.unwrap_or_else(|| said.unwrap_or("its name could not be resolved").to_owned());
        let failures = self.failures.entry(current.server.clone()).or_default();
        failures.in_all += 1;
        failures.refusals = if is_refusal(&error) { failures.refusals + 1 } else { 0 };
        Some(Failure { server: current.server, attempt: self.attempts, error })
    }
}

/// The transport keeps only the text of what went wrong. A file that cannot be read now may be there the next time.
fn is_refusal(error: &str) -> bool {
    error.starts_with(&async_nats::ConnectErrorKind::AuthorizationViolation.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSAL: &str = "authorization violation: nats: authorization violation";
    const DOWN: &str = "IO error: Connection refused (os error 111)";

    /// Servers that fail as they are told, until the pool says something else than to try one.
    fn play(limit: u32, servers: &[(&str, &str)]) -> (Vec<String>, Next) {
        let mut pool = ServerPool::new(limit);
        pool.connected(servers[0].0);
        let mut counts = vec![0; servers.len()];
        let mut tried = Vec::new();
        loop {
            let candidates: Vec<_> = servers
                .iter()
                .zip(&counts)
                .map(|((address, error), failures)| Candidate {
                    address,
                    failures: *failures,
                    configured: true,
                    error: Some(error),
                })
                .collect();
            let (failure, next) = pool.next(&candidates, 0.0);
            assert_eq!(failure.map(|failure| failure.server), tried.last().cloned());
            let Next::Try { place, attempt } = next else { return (tried, next) };
            counts[place] += 1;
            tried.push(servers[place].0.to_owned());
            assert_eq!(attempt as usize, tried.len());
        }
    }

    #[test]
    fn c7_the_only_server_is_asked_twice() {
        assert_eq!(play(10, &[("a", REFUSAL)]), (vec!["a".into(), "a".into()], Next::Refused));
    }

    #[test]
    fn c7_every_server_is_asked_twice_in_turn() {
        let (tried, end) = play(10, &[("a", REFUSAL), ("b", REFUSAL)]);
        assert_eq!((tried.join(""), end), ("abab".to_owned(), Next::Refused));
    }

    #[test]
    fn c7_one_that_refuses_is_left_alone_while_another_may_come_back() {
        let (tried, end) = play(7, &[("a", REFUSAL), ("b", DOWN)]);
        assert_eq!((tried.join(""), end), ("ababbbb".to_owned(), Next::GiveUp { attempts: 7 }));
    }

    #[test]
    fn c7_refusals_count_only_in_a_row_and_only_since_the_last_connection() {
        let mut pool = ServerPool::new(10);
        let attempt = |pool: &mut ServerPool, failures: usize, error: &str| {
            pool.next(&[Candidate { address: "a", failures, configured: true, error: Some(error) }], 0.0).1
        };
        attempt(&mut pool, 0, "");
        attempt(&mut pool, 1, REFUSAL);
        attempt(&mut pool, 2, DOWN);
        assert!(matches!(attempt(&mut pool, 3, REFUSAL), Next::Try { .. }));
        pool.connected("a");
        attempt(&mut pool, 0, "");
        assert!(matches!(attempt(&mut pool, 1, REFUSAL), Next::Try { attempt: 2, .. }));
        assert_eq!(attempt(&mut pool, 2, REFUSAL), Next::Refused);
    }

    #[test]
    fn what_fails_before_there_is_an_address_is_no_refusal_and_its_turn_comes_last() {
        let mut pool = ServerPool::new(10);
        let stale = Candidate { address: "a", failures: 3, configured: true, error: Some(REFUSAL) };
        let other = Candidate { address: "b", failures: 0, configured: true, error: None };
        assert_eq!(pool.next(&[stale, other], 0.0), (None, Next::Try { place: 0, attempt: 1 }));
        let (failure, next) = pool.next(&[stale, other], 0.0);
        assert_eq!(failure.unwrap().error, "its name could not be resolved");
        assert_eq!(next, Next::Try { place: 1, attempt: 2 });
    }

    #[test]
    fn c7_configured_servers_come_before_those_that_are_only_told_of() {
        let told_of = Candidate { address: "a", failures: 0, configured: false, error: None };
        let configured = Candidate { address: "b", configured: true, ..told_of };
        for chance in [0.0, 0.5, 1.0] {
            let next = ServerPool::new(1).next(&[told_of, configured], chance).1;
            assert_eq!(next, Next::Try { place: 1, attempt: 1 });
        }
    }

    #[test]
    fn equals_are_drawn_by_chance() {
        let candidates =
            ["a", "b", "c"].map(|address| Candidate { address, failures: 0, configured: true, error: None });
        for (chance, expected) in [(0.0, 0), (0.4, 1), (0.9, 2), (1.0, 2)] {
            assert_eq!(ServerPool::new(1).next(&candidates, chance).1, Next::Try { place: expected, attempt: 1 });
        }
    }
}
