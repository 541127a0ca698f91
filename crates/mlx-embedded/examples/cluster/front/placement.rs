//! Which worker gets a request: the least loaded one that has the model, by what it says and by what we have sent it.

use std::collections::HashMap;
use std::sync::Arc;

use mlx_nats::WorkerInfo;
use mlx_types::WorkerId;
use mlx_types::messages::WorkerStatus;
use parking_lot::Mutex;

/// The requests that each worker has, as far as can be known here.
#[derive(Debug, Default)]
pub struct Placement {
    seats: Mutex<Assignments>,
}

#[derive(Debug, Default)]
struct Assignments {
    by_worker: HashMap<WorkerId, Seat>,
    /// Counts the requests placed, so that equals take turns.
    placed: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    /// Requests of ours under way.
    ours: u64,
    /// Requests of others, at the last heartbeat.
    others: u64,
    /// When it was last chosen.
    last: u64,
}

impl Placement {
    /// Chooses one of `workers` for a request, and counts the request until what is returned is dropped.
    pub fn choose<'a>(self: &Arc<Self>, workers: impl Iterator<Item = &'a WorkerInfo>) -> Option<Assignment> {
        let mut seats = self.seats.lock();
        let best = workers
            .filter(|worker| worker.status != WorkerStatus::Offline)
            .min_by_key(|worker| seats.rank(worker))?
            .worker_id;
        seats.placed += 1;
        let placed = seats.placed;
        let seat = seats.by_worker.entry(best).or_default();
        seat.ours += 1;
        seat.last = placed;
        Some(Assignment { worker: best, placement: Arc::clone(self) })
    }

    /// Notes a heartbeat. It counts our own requests too, which are known better here: only the others' are kept.
    pub fn heard(&self, worker: WorkerId, active: u64) {
        let mut seats = self.seats.lock();
        let seat = seats.by_worker.entry(worker).or_default();
        seat.others = active.saturating_sub(seat.ours);
    }

    /// Forgets a worker that is gone.
    pub fn forget(&self, worker: WorkerId) {
        self.seats.lock().by_worker.retain(|id, seat| *id != worker || seat.ours > 0);
    }

    /// Requests of ours that a worker has now.
    pub fn ours(&self, worker: WorkerId) -> u64 {
        self.seats.lock().by_worker.get(&worker).map_or(0, |seat| seat.ours)
    }

    /// Requests of anybody that a worker has, as far as is known.
    pub fn all(&self, worker: WorkerId) -> u64 {
        self.seats.lock().by_worker.get(&worker).map_or(0, |seat| seat.ours + seat.others)
    }
}

impl Assignments {
    /// The lower, the better.
    fn rank(&self, worker: &WorkerInfo) -> impl Ord + use<> {
        let seat = self.by_worker.get(&worker.worker_id).copied().unwrap_or_default();
        let load = seat.ours + seat.others;
        let room = worker.registration.as_ref().and_then(|registration| registration.capabilities.as_ref());
        let is_full = room.is_some_and(|room| load >= room.max_concurrent);
        // A full one is asked last, but asked: its own word is fresher than its last heartbeat.
        (is_full, worker.status == WorkerStatus::Degraded, load, seat.last, worker.worker_id)
    }
}

/// A request's seat at a worker.
#[derive(Debug)]
pub struct Assignment {
    /// The worker.
    pub worker: WorkerId,
    placement: Arc<Placement>,
}

impl Drop for Assignment {
    fn drop(&mut self) {
        if let Some(seat) = self.placement.seats.lock().by_worker.get_mut(&self.worker) {
            seat.ours -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(status: WorkerStatus) -> WorkerInfo {
        WorkerInfo::new(WorkerId::new(), status)
    }

    #[test]
    fn equals_take_turns_and_the_idle_come_before_the_busy() {
        let placement = Arc::new(Placement::default());
        let workers = [worker(WorkerStatus::Online), worker(WorkerStatus::Online)];
        let first = placement.choose(workers.iter()).unwrap();
        let second = placement.choose(workers.iter()).unwrap();
        assert_ne!(first.worker, second.worker);
        drop(second);
        for _ in 0..3 {
            assert_ne!(placement.choose(workers.iter()).unwrap().worker, first.worker, "one has a request already");
        }
        drop(first);
        let turns: Vec<_> = (0..4).map(|_| placement.choose(workers.iter()).unwrap().worker).collect();
        assert!(turns[0] != turns[1] && turns[0] == turns[2] && turns[1] == turns[3], "{turns:?}");
    }

    #[test]
    fn a_heartbeat_counts_what_others_have_sent_and_not_ours_twice() {
        let placement = Arc::new(Placement::default());
        let workers = [worker(WorkerStatus::Online), worker(WorkerStatus::Online)];
        placement.heard(workers[0].worker_id, 2);
        let ours: Vec<_> = (0..2).map(|_| placement.choose(workers.iter()).unwrap()).collect();
        assert!(ours.iter().all(|place| place.worker == workers[1].worker_id));
        placement.heard(workers[1].worker_id, 2);
        placement.heard(workers[0].worker_id, 0);
        assert_eq!(placement.choose(workers.iter()).unwrap().worker, workers[0].worker_id);
        drop(ours);
        placement.heard(workers[0].worker_id, 1);
        assert_eq!(placement.choose(workers.iter()).unwrap().worker, workers[1].worker_id);
    }

    #[test]
    fn the_degraded_come_last_and_who_is_offline_not_at_all() {
        let placement = Arc::new(Placement::default());
        let workers = [WorkerStatus::Offline, WorkerStatus::Degraded, WorkerStatus::Online].map(worker);
        let _busy = [(); 3].map(|()| {
            let place = placement.choose(workers.iter()).unwrap();
            assert_eq!(place.worker, workers[2].worker_id);
            place
        });
        assert_eq!(placement.choose(workers[..2].iter()).unwrap().worker, workers[1].worker_id);
        assert!(placement.choose(workers[..1].iter()).is_none());
    }

    #[test]
    fn a_worker_that_left_is_forgotten_once_nothing_of_ours_is_there() {
        let placement = Arc::new(Placement::default());
        let gone = worker(WorkerStatus::Online);
        let place = placement.choose([&gone].into_iter()).unwrap();
        placement.forget(gone.worker_id);
        assert_eq!(placement.ours(gone.worker_id), 1);
        drop(place);
        placement.forget(gone.worker_id);
        assert!(placement.seats.lock().by_worker.is_empty());
    }
}
