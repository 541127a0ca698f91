//! What the pure part of a dispatcher promises, whatever happens in which order; and a large cluster, simulated.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use mlx_types::config::Strategy;
use mlx_types::messages::{Feature, ModelSkills, WorkerCapabilities, WorkerMetrics, WorkerRegistration, WorkerStatus};
use mlx_types::{SessionId, WorkerId};
use proptest::prelude::{Just, Strategy as _, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::affinity::{Key, bounded_load};
use super::breaker::{BreakerSettings, Outcome};
use super::candidates::Candidates;
use super::core::{Core, Decision, Wanted};
use super::known::KnownWorkers;
use crate::workers::WorkerInfo;

const LIFE: Duration = Duration::from_mins(10);

fn core(strategy: Strategy, max_waiting: usize) -> Core {
    let breaker = BreakerSettings { failures: 3, successes: 2, timeout: Duration::from_secs(5) };
    Core::new(Candidates::new(strategy, Some(breaker), KnownWorkers::default()), LIFE, max_waiting, Instant::now())
}

fn info(id: WorkerId, models: &[&str], limit: Option<u64>, active: u64) -> WorkerInfo {
    let skills = ModelSkills::new(models.iter().copied());
    let registration = WorkerRegistration::new(id, "h", Ipv4Addr::LOCALHOST.into(), 8080, skills)
        .capabilities(limit.map(WorkerCapabilities::new));
    WorkerInfo::new(id, WorkerStatus::Online)
        .registration(registration)
        .metrics(WorkerMetrics::default().active_requests(active))
}

fn wanted(model: &str, key: Option<Key>) -> Wanted {
    Wanted { model: model.to_owned(), needs: Vec::new(), key, tried: HashSet::new() }
}

#[derive(Clone, Debug)]
enum Step {
    Request { model: usize, session: Option<usize>, tried: Vec<usize>, params: bool },
    End { of: usize, outcome: Outcome },
    Heard { worker: usize, limit: Option<u64>, active: u64 },
    Refused { of: usize },
    Gone { worker: usize },
    Leave { of: usize },
    Passes { millis: u64 },
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    let outcome = prop_oneof![Just(Outcome::Succeeded), Just(Outcome::Failed), Just(Outcome::Neutral)];
    prop_oneof![
        6 => (0..3_usize, prop::option::of(0..4_usize), prop::collection::vec(0..5_usize, 0..3), any::<bool>())
            .prop_map(|(model, session, tried, params)| Step::Request { model, session, tried, params }),
        4 => (any::<prop::sample::Index>(), outcome).prop_map(|(of, outcome)| Step::End { of: of.index(1000), outcome }),
        3 => (0..5_usize, prop::option::of(1..4_u64), 0..5_u64)
            .prop_map(|(worker, limit, active)| Step::Heard { worker, limit, active }),
        1 => any::<prop::sample::Index>().prop_map(|of| Step::Refused { of: of.index(1000) }),
        1 => (0..5_usize).prop_map(|worker| Step::Gone { worker }),
        1 => any::<prop::sample::Index>().prop_map(|of| Step::Leave { of: of.index(1000) }),
        2 => (0..7_000_u64).prop_map(|millis| Step::Passes { millis }),
    ]
}

const MODELS: [&str; 3] = ["a", "b", "a and b"];

fn models_of(worker: usize) -> &'static [&'static str] {
    [&["a"][..], &["b"], &["a", "b"], &["a"], &[]][worker]
}

/// One of those that have only the model `a` does not accept `params`.
fn accepts(worker: usize) -> bool {
    worker != 3
}

fn accepting(mut info: WorkerInfo, accepts: bool) -> WorkerInfo {
    if let Some(registration) = info.registration.take() {
        let capabilities = registration.capabilities.clone().unwrap_or_else(|| WorkerCapabilities::new(1_000));
        let features = accepts.then(|| vec![Feature::Params]);
        info.registration = Some(registration.capabilities(capabilities.accepts(features)));
    }
    info
}

/// What the test knows of a dispatcher's requests.
#[derive(Default)]
struct Book {
    running: Vec<WorkerId>,
    waiting: HashMap<u64, Wanted>,
    limits: HashMap<WorkerId, (Option<u64>, u64)>,
    accepting: HashSet<WorkerId>,
}

impl Book {
    fn assigned(&mut self, worker: WorkerId, wanted: &Wanted) {
        assert!(!wanted.tried.contains(&worker), "no request twice at one worker");
        assert!(
            wanted.needs.is_empty() || self.accepting.contains(&worker),
            "none at a worker that does not accept it"
        );
        self.running.push(worker);
    }

    fn take(&mut self, told: Vec<(u64, Decision)>) {
        let mut last = None;
        for (ticket, decision) in told {
            assert!(last.is_none_or(|last| last < ticket), "in the order in which they came");
            last = Some(ticket);
            let wanted = self.waiting.remove(&ticket).expect("one that waits");
            if let Decision::Assigned(worker) = decision {
                self.assigned(worker, &wanted);
            }
        }
    }
}

proptest! {
    /// Whatever happens: no request comes twice to one worker, none waits while a place is free that it could have, no worker gets
    /// more than it takes, every request is counted, and those who wait are served in order.
    #[test]
    fn w3_w6_requests_are_placed_once_in_order_and_wherever_there_is_room(
        steps in prop::collection::vec(step(), 1..120),
        strategy in prop_oneof![Just(Strategy::Smart), Just(Strategy::LeastLoaded), Just(Strategy::RoundRobin)],
    ) {
        let ids: Vec<WorkerId> = (0..5).map(|_| WorkerId::new()).collect();
        let sessions: Vec<SessionId> = (0..4).map(|_| SessionId::new()).collect();
        let (mut core, mut now, mut book) = (core(strategy, 8), Instant::now(), Book::default());
        for step in steps {
            match step {
                Step::Request { model, session, tried, params } => {
                    let mut wanted = wanted(MODELS[model], session.map(|at| Key::Session(sessions[at])));
                    wanted.needs = params.then_some(Feature::Params).into_iter().collect();
                    wanted.tried = tried.into_iter().map(|at| ids[at]).collect();
                    book.take(core.admit(now));
                    let before: HashMap<_, _> = ids.iter().map(|id| (*id, core.candidates.load(*id).1)).collect();
                    match core.request(wanted.clone(), false, now) {
                        Decision::Assigned(worker) => {
                            let (limit, _) = book.limits[&worker];
                            prop_assert!(limit.is_none_or(|limit| before[&worker] < limit), "no more than it takes");
                            book.assigned(worker, &wanted);
                        }
                        Decision::Waits(ticket) => drop(book.waiting.insert(ticket, wanted)),
                        Decision::Refused => prop_assert_eq!(core.waiting(), 8),
                        Decision::Lacks(features) => prop_assert_eq!(features, wanted.needs),
                        Decision::Exhausted | Decision::Nobody => {}
                    }
                }
                Step::End { of, outcome } if !book.running.is_empty() => {
                    let worker = book.running.swap_remove(of % book.running.len());
                    core.end(worker, outcome, Some(10.0), now);
                }
                Step::Heard { worker, limit, active } => {
                    book.limits.insert(ids[worker], (limit, active));
                    book.accepting.extend(accepts(worker).then_some(ids[worker]));
                    core.heard(&accepting(info(ids[worker], models_of(worker), limit, active), accepts(worker)));
                }
                Step::Refused { of } if !book.running.is_empty() => {
                    let worker = book.running.swap_remove(of % book.running.len());
                    core.candidates.refused(worker, now);
                }
                Step::Gone { worker } => core.gone(ids[worker]),
                Step::Leave { of } if !book.waiting.is_empty() => {
                    let ticket = *book.waiting.keys().nth(of % book.waiting.len()).unwrap();
                    book.waiting.remove(&ticket);
                    core.leave(ticket);
                }
                Step::Passes { millis } => now += Duration::from_millis(millis),
                Step::End { .. } | Step::Refused { .. } | Step::Leave { .. } => {}
            }
            book.take(core.admit(now));
            prop_assert_eq!(core.waiting(), book.waiting.len());
            for (ticket, waiting) in &book.waiting {
                let able = core.candidates.able(&waiting.model, &waiting.needs).expect("somebody who could serve it");
                prop_assert_eq!(able.first(&waiting.tried, now), None, "nobody waits while a place is free");
                prop_assert!(core.place(*ticket).is_some_and(|place| place <= book.waiting.len()));
            }
            for id in &ids {
                let ours = book.running.iter().filter(|running| *running == id).count() as u64;
                prop_assert_eq!(core.candidates.load(*id).0, ours, "every request is counted");
            }
        }
    }
}

#[test]
fn r1_what_no_worker_of_the_model_accepts_is_refused_by_its_name() {
    let mut core = core(Strategy::Smart, 8);
    let (plain, able, now) = (WorkerId::new(), WorkerId::new(), Instant::now());
    core.heard(&info(plain, &["m"], Some(4), 0));
    let mut whole = wanted("m", None);
    whole.needs = vec![Feature::Params, Feature::Messages];
    assert_eq!(core.request(whole.clone(), false, now), Decision::Lacks(whole.needs.clone()));
    core.heard(&accepting(info(able, &["m"], Some(4), 0), true));
    assert_eq!(core.request(whole.clone(), false, now), Decision::Lacks(vec![Feature::Messages]));
    whole.needs = vec![Feature::Params];
    for _ in 0..4 {
        assert_eq!(core.request(whole.clone(), false, now), Decision::Assigned(able));
    }
    // It is full: waiting helps, and the other one is of no use.
    assert!(matches!(core.request(whole.clone(), false, now), Decision::Waits(_)));
    whole.tried = HashSet::from([able]);
    assert_eq!(core.request(whole, false, now), Decision::Exhausted);
}

/// A cluster of workers with four places each, all idle.
fn cluster(size: usize, strategy: Strategy) -> (Core, Vec<WorkerId>) {
    let mut core = core(strategy, 100);
    let ids: Vec<WorkerId> = (0..size).map(|_| WorkerId::new()).collect();
    for id in &ids {
        core.heard(&info(*id, &["m"], Some(4), 0));
    }
    (core, ids)
}

fn ask(core: &mut Core, key: Option<Key>, now: Instant) -> WorkerId {
    match core.request(wanted("m", key), false, now) {
        Decision::Assigned(worker) => worker,
        other => panic!("{other:?}"),
    }
}

#[test]
fn w4_a_session_stays_where_it_is_and_only_those_of_a_worker_that_leaves_move() {
    let (mut core, ids) = cluster(50, Strategy::Smart);
    let now = Instant::now();
    let sessions: Vec<SessionId> = (0..1_000).map(|_| SessionId::new()).collect();
    let homes = |core: &mut Core, now| -> Vec<WorkerId> {
        let homes = sessions.iter().map(|session| {
            let worker = ask(core, Some(Key::Session(*session)), now);
            core.end(worker, Outcome::Succeeded, None, now);
            worker
        });
        homes.collect()
    };
    let before = homes(&mut core, now);
    assert_eq!(homes(&mut core, now), before, "every request of a session goes to the same worker");
    core.heard(&info(WorkerId::new(), &["m"], Some(4), 0));
    assert_eq!(homes(&mut core, now), before, "a worker that comes takes none away");
    core.gone(ids[0]);
    let after = homes(&mut core, now);
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert_eq!(moved, before.iter().filter(|home| **home == ids[0]).count(), "only those of the worker that left");
    // Silent for longer than its life, a session is any request: the worker that came last may get it.
    core.clean(now + LIFE);
    let later = homes(&mut core, now + LIFE);
    assert!(later != after, "forgotten");
}

#[test]
fn w4_a_session_whose_worker_has_more_than_its_share_goes_elsewhere_once_and_comes_back() {
    let (mut core, _) = cluster(10, Strategy::Smart);
    let now = Instant::now();
    let key = Some(Key::Session(SessionId::new()));
    let home = ask(&mut core, key, now);
    let mut at_home = 1;
    let mut elsewhere = Vec::new();
    for _ in 0..10 {
        let worker = ask(&mut core, key, now);
        if worker == home {
            at_home += 1;
        } else {
            elsewhere.push(worker);
        }
        let total = 1 + at_home + elsewhere.len() as u64;
        assert!(core.candidates.load(home).1 <= bounded_load(total, 10), "bounded load");
    }
    assert!(!elsewhere.is_empty());
    for worker in elsewhere {
        core.end(worker, Outcome::Succeeded, None, now);
    }
    for _ in 0..at_home {
        core.end(home, Outcome::Succeeded, None, now);
    }
    assert_eq!(ask(&mut core, key, now), home);
}

#[test]
fn w4_prompts_that_begin_alike_share_a_worker_as_long_as_its_load_is_bounded() {
    let (mut core, _) = cluster(20, Strategy::Smart);
    let now = Instant::now();
    let mut most = 0;
    let mut taken = HashMap::<WorkerId, u64>::new();
    for request in 0..60_u64 {
        // Half of all requests are of one key, the others of their own.
        let key = Some(Key::Prefix(if request % 2 == 0 { 7 } else { request }));
        let worker = ask(&mut core, key, now);
        let has = taken.entry(worker).or_default();
        *has += 1;
        most = most.max(*has);
        assert!(*has <= bounded_load(request, 20), "worker {worker} has {has} of {}", request + 1);
    }
    assert_eq!(most, 4, "the favourite is full, and the others have the rest");
}

#[test]
fn weights_decide_over_shares_and_a_worker_that_has_the_model_loaded_comes_first() {
    let (heavy, light) = (WorkerId::new(), WorkerId::new());
    for strategy in [Strategy::RoundRobin, Strategy::LeastLoaded] {
        let known = KnownWorkers::default().prefer(heavy, 75).prefer(light, 25);
        let mut core = Core::new(Candidates::new(strategy, None, known), LIFE, 0, Instant::now());
        let now = Instant::now();
        for id in [heavy, light] {
            core.heard(&info(id, &["m"], None, 0));
        }
        let mut shares = HashMap::<WorkerId, u64>::new();
        for _ in 0..400 {
            *shares.entry(ask(&mut core, None, now)).or_default() += 1;
        }
        assert!((295..=305).contains(&shares[&heavy]), "{strategy:?}: three quarters, not {shares:?}");
    }
    let (mut core, ids) = cluster(3, Strategy::Smart);
    let mut loaded = info(ids[2], &["m"], Some(4), 2);
    loaded.metrics.as_mut().unwrap().models_loaded = vec!["m".to_owned()];
    core.heard(&loaded);
    assert_eq!(ask(&mut core, None, Instant::now()), ids[2], "loaded, although busier");
}

/// With `--no-capture` it prints what each worker got, what moved, and how long a decision takes.
#[test]
fn w4_a_thousand_workers_share_a_hundred_thousand_requests() {
    let (mut core, ids) = cluster(1_000, Strategy::Smart);
    let now = Instant::now();
    let sessions: Vec<SessionId> = (0..20_000).map(|_| SessionId::new()).collect();
    let (mut shares, mut running) = (HashMap::<WorkerId, u64>::new(), std::collections::VecDeque::new());
    for request in 0..100_000_usize {
        // A fifth of the sessions make four fifths of the requests.
        let session = if request % 5 == 0 { request % sessions.len() } else { (request * 7) % (sessions.len() / 5) };
        let worker = ask(&mut core, Some(Key::Session(sessions[session])), now);
        *shares.entry(worker).or_default() += 1;
        running.push_back(worker);
        if running.len() > 2_000 {
            core.end(running.pop_front().unwrap(), Outcome::Succeeded, None, now);
        }
    }
    let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
    println!("100,000 requests of 20,000 sessions: {} workers had {least} to {most}, 100 on average", shares.len());
    assert!(shares.len() == 1_000 && *most <= 300, "{least} to {most}");
    for worker in running {
        core.end(worker, Outcome::Succeeded, None, now);
    }
    let home = |core: &mut Core, session| {
        let worker = ask(core, Some(Key::Session(session)), now);
        core.end(worker, Outcome::Succeeded, None, now);
        worker
    };
    let before: Vec<_> = sessions.iter().map(|session| home(&mut core, *session)).collect();
    let leavers: HashSet<WorkerId> = ids[..10].iter().copied().collect();
    for id in &leavers {
        core.gone(*id);
    }
    let after: Vec<_> = sessions.iter().map(|session| home(&mut core, *session)).collect();
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    let theirs = before.iter().filter(|home| leavers.contains(home)).count();
    println!("ten of them leave: {moved} sessions move, theirs were {theirs}");
    assert_eq!(moved, theirs);

    for size in [10, 100, 1_000, 10_000] {
        let (mut core, _) = cluster(size, Strategy::Smart);
        let session = Key::Session(SessionId::new());
        let mut time = |key: &dyn Fn(u64) -> Option<Key>, rounds: u32| {
            let began = Instant::now();
            for round in 0..rounds {
                let worker = ask(&mut core, key(u64::from(round)), now);
                core.end(worker, Outcome::Succeeded, None, now);
            }
            began.elapsed().as_secs_f64() * 1e6 / f64::from(rounds)
        };
        let (by_load, known, new) =
            (time(&|_| None, 20_000), time(&|_| Some(session), 20_000), time(&|round| Some(Key::Prefix(round)), 200));
        println!(
            "{size:>6} workers: {by_load:.2} µs by load, {known:.2} µs of a known session, {new:.2} µs of a new one"
        );
    }
}
