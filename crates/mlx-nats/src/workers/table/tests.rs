//! What the table makes of what it hears.

use mlx_types::Epoch;
use mlx_types::messages::{WorkerHeartbeat, WorkerMetrics};
use proptest::prelude::*;

use super::*;
use crate::workers::probe::Outcome;

const OFFLINE: Duration = Duration::from_secs(15);

fn wall() -> Timestamp {
    Timestamp::now()
}
const INTERVAL: Duration = Duration::from_secs(5);

fn beat(id: WorkerId, epoch: u64) -> WorkerHeartbeat {
    let epoch = Some(Epoch::from_millis(epoch));
    WorkerHeartbeat::new(id, WorkerStatus::Online, WorkerMetrics::default()).epoch(epoch)
}

fn online(id: WorkerId) -> Change {
    Change::Event(WorkerEvent::Online(id))
}

fn left(id: WorkerId) -> Change {
    Change::Event(WorkerEvent::Left(id))
}

fn farewell(id: WorkerId, epoch: u64) -> WorkerDeregistration {
    WorkerDeregistration::new(id).epoch(Epoch::from_millis(epoch))
}

fn lost(id: WorkerId) -> Change {
    Change::Event(WorkerEvent::Lost(id))
}

#[test]
fn s4_silence_beyond_the_timeout_loses_a_worker_and_not_before() {
    let (id, start) = (WorkerId::new(), Instant::now());
    let mut table = Table::new(OFFLINE, INTERVAL);
    assert_eq!(table.beat(beat(id, 1), start, wall()), Some(online(id)));
    assert_eq!(table.expire(start + OFFLINE), []);
    assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [lost(id)]);
    assert!(table.list().is_empty());
}

#[test]
fn s6_a_ghost_of_an_older_incarnation_is_ignored() {
    let (id, start) = (WorkerId::new(), Instant::now());
    let mut table = Table::new(OFFLINE, INTERVAL);
    table.beat(beat(id, 5), start, wall());
    assert_eq!(table.beat(beat(id, 4), start + OFFLINE, wall()), None);
    assert_eq!(table.left(&farewell(id, 4), start, wall()), None);
    assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [lost(id)]);
}

#[test]
fn s6_a_message_without_an_epoch_does_not_make_a_known_one_forgotten() {
    let (id, start) = (WorkerId::new(), Instant::now());
    let registration = serde_json::from_value(serde_json::json!({
        "workerId": id, "hostname": "h", "ip": "127.0.0.1", "port": 8080, "status": "online", "timestamp": wall(),
        "skills": { "availableModels": [], "modelPaths": {}, "totalModelSize": 0, "lastScanned": 1 },
    }));
    let unmarked = WorkerHeartbeat::new(id, WorkerStatus::Online, WorkerMetrics::default());
    let mut table = Table::new(OFFLINE, INTERVAL);
    table.beat(beat(id, 5), start, wall());
    assert_eq!(table.registered(registration.unwrap(), start, wall()), None);
    assert_eq!(table.beat(unmarked, start, wall()), None);
    let known = Some(Epoch::from_millis(5));
    assert_eq!(table.get(id).unwrap().epoch, known);
    assert_eq!(table.get(id).unwrap().registration.as_ref().unwrap().epoch, known);
    assert_eq!(table.left(&farewell(id, 4), start, wall()), None);
}

#[test]
fn s4_a_new_incarnation_ends_what_the_former_one_did() {
    let (id, start) = (WorkerId::new(), Instant::now());
    let mut table = Table::new(OFFLINE, INTERVAL);
    table.beat(beat(id, 5), start, wall());
    assert_eq!(table.beat(beat(id, 6), start, wall()), Some(Change::Event(WorkerEvent::Replaced(id))));
    assert_eq!(table.beat(beat(id, 6), start, wall()), None);
}

#[test]
fn a_bus_wide_outage_marks_nobody_dead() {
    let (id, start) = (WorkerId::new(), Instant::now());
    let mut table = Table::new(OFFLINE, INTERVAL);
    table.beat(beat(id, 1), start, wall());
    table.bus(false, start);
    let after = start + 4 * OFFLINE;
    assert_eq!(table.expire(after), []);
    table.bus(true, after);
    // A worker that has backed off for so long may wait for 45 s yet, and needs a heartbeat's time then.
    let all_back = after + Duration::from_secs(45);
    assert_eq!(table.expire(all_back + OFFLINE), []);
    assert_eq!(table.expire(all_back + OFFLINE + Duration::from_millis(1)), [lost(id)]);
}

#[test]
fn who_is_heard_again_after_an_outage_has_the_usual_timeout() {
    let (id, start) = (WorkerId::new(), Instant::now());
    let mut table = Table::new(OFFLINE, INTERVAL);
    table.beat(beat(id, 1), start, wall());
    table.bus(false, start);
    table.bus(false, start + OFFLINE); // from disconnected to reconnecting
    let after = start + 2 * OFFLINE;
    table.bus(true, after);
    table.beat(beat(id, 1), after, wall());
    assert_eq!(table.expire(after + OFFLINE), []);
    assert_eq!(table.expire(after + OFFLINE + Duration::from_millis(1)), [lost(id)]);
}

#[test]
fn an_expected_worker_is_not_shown_but_its_silence_counts() {
    let (id, start) = (WorkerId::new(), Instant::now());
    let mut table = Table::new(OFFLINE, INTERVAL);
    table.expect(id, start);
    assert!(table.list().is_empty() && table.get(id).is_none());
    assert_eq!(table.expire(start + OFFLINE + Duration::from_millis(1)), [Change::Gone(id)]);
}

#[test]
fn the_farewell_of_an_expected_worker_is_told_to_those_who_wait_for_it_alone() {
    let (id, start) = (WorkerId::new(), Instant::now());
    let mut table = Table::new(OFFLINE, INTERVAL);
    table.expect(id, start);
    assert_eq!(table.left(&WorkerDeregistration::new(id), start, wall()), Some(Change::Gone(id)));
}

#[test]
fn a_timeout_without_end_loses_nobody() {
    let (id, start) = (WorkerId::new(), Instant::now());
    let mut table = Table::new(Duration::MAX, INTERVAL);
    table.beat(beat(id, 1), start, wall());
    assert_eq!(table.next_expiry(), None);
    assert_eq!(table.expire(start + 1000 * OFFLINE), []);
}

#[test]
fn d2_a_suspicion_of_a_worker_that_went_says_nothing_of_the_one_that_came() {
    let (id, start) = (WorkerId::new(), Instant::now());
    let mut table = Table::new(OFFLINE, INTERVAL);
    table.beat(beat(id, 1), start, wall());
    let former = table.suspected(id, start).unwrap();
    assert_eq!(table.left(&farewell(id, 1), start, wall()), Some(left(id)));
    assert_eq!(table.suspected(id, start), None);
    table.beat(beat(id, 2), start, wall());
    let own = table.suspected(id, start).unwrap();
    assert_ne!(former, own);
    table.trusted(id, former, true, start);
    assert_eq!(table.workers[&id].suspicions, 1);
    table.trusted(id, own, true, start);
    assert_eq!(table.workers[&id].suspicions, 0);
}

#[test]
fn d2_what_a_question_to_a_former_incarnation_came_to_is_not_booked_to_the_next() {
    let (id, start) = (WorkerId::new(), Instant::now());
    let mut table = Table::new(OFFLINE, INTERVAL);
    let ask = |table: &mut Table, now| table.probe(now, 1).0.first().map(|(_, number)| *number);
    table.beat(beat(id, 1), start, wall());
    let former = ask(&mut table, start).unwrap();
    table.beat(beat(id, 2), start, wall());
    let own = ask(&mut table, start).unwrap();
    table.probed(id, former, Outcome::Answered, start);
    assert!(!table.workers[&id].probe.serves());
    table.probed(id, own, Outcome::Answered, start);
    assert!(table.workers[&id].probe.serves());
    assert!(table.next_probe().is_some(), "it is seen about again");
}

#[test]
fn ten_thousand_workers_beat_and_no_beat_looks_at_all_of_them() {
    const WORKERS: usize = 10_000;
    let (start, wall) = (Instant::now(), wall());
    let mut table = Table::new(OFFLINE, INTERVAL);
    let mut beats: Vec<_> = (0..WORKERS).map(|_| beat(WorkerId::new(), 1)).collect();
    for round in 0..20_u64 {
        for (index, beat) in (0..).zip(&mut beats) {
            let now = start + Duration::from_secs(5 * round) + Duration::from_micros(index);
            beat.timestamp = wall;
            table.beat(beat.clone(), now, wall);
            assert!(table.next_expiry().is_some_and(|expiry| expiry > now));
            assert_eq!(table.expire(now), []);
        }
    }
    assert_eq!(table.list().len(), WORKERS);
    // Looking at each worker at each beat would be two thousand million looks.
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

proptest! {
    #[test]
    fn a_worker_is_lost_only_after_a_full_timeout_of_silence(gaps in prop::collection::vec(0u64..40_000, 1..40)) {
        let id = WorkerId::new();
        let mut now = Instant::now();
        let mut table = Table::new(OFFLINE, INTERVAL);
        table.beat(beat(id, 1), now, wall());
        for gap in gaps {
            now += Duration::from_millis(gap);
            let lost = !table.expire(now).is_empty();
            prop_assert_eq!(lost, Duration::from_millis(gap) > OFFLINE);
            table.beat(beat(id, 1), now, wall());
        }
    }
}
