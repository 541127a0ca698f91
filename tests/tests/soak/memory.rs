//! The memory of this process and of the server, and whether it stays what it was.

use std::time::{Duration, Instant};

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// A shorter run says nothing about growth, and is only reported.
const WORTH_CHECKING: Duration = Duration::from_mins(5);

/// What the least-squares line through the samples after the warm-up may rise by from the first to the last, in MB.
/// One forgotten entry a request would be several times that in half an hour.
const LARGEST_RISE: f64 = 4.0;

/// What any sample after the warm-up may be above the first one, in MB: room for the allocator and for a burst.
const LARGEST_EXCESS: f64 = 12.0;

/// What the server may have, in MB. It is a new process after every kill, so that a line through its samples means little.
const SERVER_CEILING: f64 = 64.0;

/// Samples from the beginning of a run.
pub struct Memory {
    system: System,
    own: Pid,
    began: Instant,
    length: Duration,
    /// Processor time, in ms, that this process had used before.
    used_before: u64,
    samples: Vec<Sample>,
}

/// In MB.
#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    own: f64,
    server: Option<f64>,
}

impl Memory {
    pub fn new(length: Duration) -> Self {
        let own = sysinfo::get_current_pid().unwrap();
        let (system, began) = (System::new().unwrap(), Instant::now());
        let mut memory = Self { system, own, began, length, used_before: 0, samples: Vec::new() };
        memory.look(None);
        memory.used_before = memory.used();
        memory
    }

    /// Takes a sample, and says what it is.
    pub fn sample(&mut self, server: Option<u32>) -> String {
        let server = server.map(Pid::from_u32);
        self.look(server);
        let megabytes = |pid| self.system.process(pid).map(|process| process.memory() as f64 / 1e6);
        let sample =
            Sample { at: self.began.elapsed(), own: megabytes(self.own).unwrap(), server: server.and_then(megabytes) };
        self.samples.push(sample);
        let server = sample.server.map_or_else(|| "no".to_owned(), |server| format!("{server:.1}"));
        let load = (self.used() - self.used_before) as f64 / sample.at.as_secs_f64() / 10.0;
        format!("{:.1} MB, server {server} MB, {load:.0} % of a core", sample.own)
    }

    /// What there is to say at the end.
    pub fn report(&self) -> String {
        let warm = self.warm();
        let span = |values: Vec<f64>| {
            let (low, high) = values.iter().fold((f64::MAX, 0.0), |(low, high), v| (v.min(low), v.max(high)));
            format!("{low:.1} to {high:.1} MB")
        };
        format!(
            "memory over {} samples after the warm-up: {}, rising by {:.2} MB on the line through them; server {}",
            warm.len(),
            span(warm.iter().map(|sample| sample.own).collect()),
            rise(warm),
            span(self.samples.iter().filter_map(|sample| sample.server).collect()),
        )
    }

    /// Holds when the memory stayed what it was.
    pub fn check(&self) {
        if self.length < WORTH_CHECKING {
            return;
        }
        let warm = self.warm();
        let highest = warm.iter().map(|sample| sample.own).fold(0.0, f64::max);
        assert!(rise(warm) < LARGEST_RISE, "{}", self.report());
        assert!(highest - warm[0].own < LARGEST_EXCESS, "{}", self.report());
        for server in self.samples.iter().filter_map(|sample| sample.server) {
            assert!(server < SERVER_CEILING, "{}", self.report());
        }
    }

    /// The samples after the first fifth, in which caches fill and the allocator takes what it needs at once.
    fn warm(&self) -> &[Sample] {
        let warm_up = self.samples.partition_point(|sample| sample.at < self.length / 5);
        &self.samples[warm_up..]
    }

    fn look(&mut self, server: Option<Pid>) {
        let pids: Vec<Pid> = server.into_iter().chain([self.own]).collect();
        let kind = ProcessRefreshKind::nothing().with_memory().with_cpu();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&pids), true, kind);
    }

    /// Processor time of this process so far, in ms.
    fn used(&self) -> u64 {
        self.system.process(self.own).unwrap().accumulated_cpu_time()
    }
}

/// What the least-squares line rises by over the samples, in MB.
fn rise(samples: &[Sample]) -> f64 {
    let points: Vec<(f64, f64)> = samples.iter().map(|sample| (sample.at.as_secs_f64(), sample.own)).collect();
    let count = points.len() as f64;
    let mean = |value: fn(&(f64, f64)) -> f64| points.iter().map(value).sum::<f64>() / count;
    let (middle, level) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|(at, _)| (at - middle).powi(2)).sum();
    let together: f64 = points.iter().map(|(at, value)| (at - middle) * (value - level)).sum();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return 0.0 };
    if spread == 0.0 { 0.0 } else { together / spread * (last.0 - first.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Half an hour in which each second adds `per_second` MB, to a noise of half a MB.
    fn half_an_hour(per_second: f64) -> Memory {
        let mut memory = Memory::new(Duration::from_mins(30));
        memory.samples = (0..180)
            .map(|number| {
                let second = f64::from(number) * 10.0;
                let own = 30.0 + second * per_second + f64::from(number % 2) / 2.0;
                Sample { at: Duration::from_secs_f64(second), own, server: Some(20.0) }
            })
            .collect();
        memory
    }

    #[test]
    fn memory_that_stays_passes() {
        half_an_hour(0.0).check();
        assert!((rise(half_an_hour(0.01).warm()) - 14.3).abs() < 0.1);
    }

    #[test]
    #[should_panic(expected = "rising by 5.7")]
    fn four_kilobytes_a_second_are_found() {
        half_an_hour(0.004).check();
    }
}
