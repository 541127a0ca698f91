//! The queue between the threads that log and the one that writes.

use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};
use std::{io, mem};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::Output;

/// How long lines gather before they are written, so that a steady load wakes the writer a hundred times a second
/// and not once a line. An error is written at once.
const LINGER: Duration = Duration::from_millis(10);
/// How long until a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The same where the output is only full for the moment.
const RETRY_FULL: Duration = Duration::from_millis(10);
/// A burst's memory is given back once it is written.
const KEEP: usize = 1024 * 1024;

/// Renders the line that says what was lost.
pub(crate) type Announce = Box<dyn Fn(&mut Vec<u8>, Loss) + Send>;

/// Lines that were dropped because the output was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// Since the last line written.
    pub(crate) lines: u64,
    /// Since the start.
    pub(crate) total: u64,
}

/// Why lines are not written yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unwritten {
    /// The output took no more within the time.
    Blocked {
        /// Lines still queued.
        lines: u64,
    },
    /// The output failed.
    Failed {
        /// Lines still queued, or given up at the end.
        lines: u64,
        /// What it said.
        failure: String,
    },
}

/// Lines on their way to the output.
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Signalled to the writer.
    work: Condvar,
    /// Signalled to those who wait for it.
    progress: Condvar,
    /// Bytes held at the most.
    capacity: usize,
    linger: Duration,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    /// Lines accepted and lines written, since the start.
    accepted: u64,
    written: u64,
    /// Lines lost and not yet in a batch, lost since the start, and said since the start.
    unsaid: u64,
    lost: u64,
    said: u64,
    writer: Writer,
    thread: Option<ThreadId>,
    /// Somebody waits: no lingering, and no waiting before the next attempt.
    hurry: bool,
    closing: bool,
    /// Attempts that failed since the start, and what the output says while it fails.
    failures: u64,
    failure: Option<String>,
    /// The output, once the writer has ended.
    direct: Option<Output>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Writer {
    /// Writes, or is about to: needs no waking.
    #[default]
    Busy,
    /// Waits a moment for more lines: woken for a hurry, or when the queue is half full.
    Lingers,
    /// Waits for a first line.
    Sleeps,
    Ended,
}

impl Queue {
    /// A queue of `capacity` bytes, and the thread that empties it into `output`.
    pub(crate) fn start(capacity: usize, output: Output, announce: Announce) -> io::Result<Arc<Self>> {
        Self::with_linger(LINGER, capacity, output, announce)
    }

    fn with_linger(linger: Duration, capacity: usize, output: Output, announce: Announce) -> io::Result<Arc<Self>> {
        let queue = Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            progress: Condvar::new(),
            capacity,
            linger,
        });
        let shared = Arc::clone(&queue);
        let thread = thread::Builder::new().name("mlx-log".to_owned()).spawn(move || shared.run(output, &announce))?;
        queue.state.lock().thread = Some(thread.thread().id());
        Ok(queue)
    }

    /// Queues a line, or counts it as lost where there is no room; never waits for the output.
    ///
    /// After a loss every line is lost until the writer has caught up, so that the line that says so stands exactly
    /// where lines are missing. A line longer than the whole queue is taken when the queue is empty.
    pub(crate) fn push(&self, line: &[u8], urgent: bool) {
        let mut state = self.state.lock();
        if let Some(output) = &mut state.direct {
            // After the end there is no writer to wait for, and nobody left to tell of a failure.
            let _ = output.write_all(line);
            return;
        }
        let room = state.pending.is_empty() || state.pending.len().saturating_add(line.len()) <= self.capacity;
        if state.unsaid > 0 || !room {
            state.unsaid += 1;
            state.lost += 1;
            return;
        }
        state.pending.extend_from_slice(line);
        state.accepted += 1;
        state.hurry |= urgent;
        let wake = match state.writer {
            Writer::Sleeps => true,
            Writer::Lingers => state.hurry || state.pending.len() > self.capacity / 2,
            Writer::Busy | Writer::Ended => false,
        };
        if wake {
            // Busy from here on, so that the next line does not wake it again.
            state.writer = Writer::Busy;
            drop(state);
            self.work.notify_one();
        }
    }

    /// Lines lost since the start.
    pub(crate) fn lost(&self) -> u64 {
        self.state.lock().lost
    }

    /// Waits until every line queued so far is written, and every loss so far is said.
    pub(crate) fn flush(&self, timeout: Duration) -> Result<(), Unwritten> {
        let mut state = self.state.lock();
        let (accepted, lost, failures) = (state.accepted, state.lost, state.failures);
        state.hurry = true;
        self.work.notify_one();
        // The writer cannot wait for itself, which a panic in a writer handed in by a user would make it do.
        let timeout = if state.thread == Some(thread::current().id()) { Duration::ZERO } else { timeout };
        self.wait(state, timeout, |state| {
            if state.written >= accepted && state.said >= lost {
                Some(Ok(()))
            } else if state.failures > failures || state.writer == Writer::Ended {
                Some(Err(state.failed()))
            } else {
                None
            }
        })
    }

    /// Ends the writer once it has written everything. Later lines are written by the thread that logs them.
    pub(crate) fn close(&self, timeout: Duration) -> Result<(), Unwritten> {
        let mut state = self.state.lock();
        state.closing = true;
        self.work.notify_one();
        self.wait(state, timeout, |state| {
            let ended = state.writer == Writer::Ended;
            ended.then(|| if state.written < state.accepted { Err(state.failed()) } else { Ok(()) })
        })
    }

    fn wait(
        &self,
        mut state: MutexGuard<'_, State>,
        timeout: Duration,
        done: impl Fn(&State) -> Option<Result<(), Unwritten>>,
    ) -> Result<(), Unwritten> {
        let start = Instant::now();
        loop {
            if let Some(result) = done(&state) {
                return result;
            }
            let Some(left) = timeout.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
                return Err(Unwritten::Blocked { lines: state.accepted - state.written });
            };
            self.progress.wait_for(&mut state, left);
        }
    }

    fn run(&self, mut output: Output, announce: &Announce) {
        let mut batch = Vec::new();
        let mut state = self.state.lock();
        loop {
            self.wait_for_work(&mut state);
            if state.pending.is_empty() && state.unsaid == 0 {
                break;
            }
            mem::swap(&mut batch, &mut state.pending);
            let (accepted, lost) = (state.accepted, state.lost);
            let unsaid = mem::take(&mut state.unsaid);
            state.hurry = false;
            drop(state);

            if unsaid > 0 {
                announce(&mut batch, Loss { lines: unsaid, total: lost });
            }
            let complete = self.write(&mut output, &batch);
            batch.clear();
            if batch.capacity() > KEEP {
                batch = Vec::new();
            }

            state = self.state.lock();
            if !complete {
                break;
            }
            state.written = accepted;
            state.said = lost;
            state.failure = None;
            self.progress.notify_all();
        }
        state.writer = Writer::Ended;
        state.direct = Some(output);
        self.progress.notify_all();
    }

    /// Returns when there is something to write, or nothing left to wait for.
    fn wait_for_work(&self, state: &mut MutexGuard<'_, State>) {
        if state.pending.is_empty() && state.unsaid == 0 && !state.closing {
            state.writer = Writer::Sleeps;
            let nothing = |state: &mut State| state.pending.is_empty() && state.unsaid == 0 && !state.closing;
            self.work.wait_while(state, nothing);
        }
        if !state.hurry && !state.closing && state.pending.len() <= self.capacity / 2 {
            state.writer = Writer::Lingers;
            let idle = |state: &mut State| state.writer == Writer::Lingers && !state.hurry && !state.closing;
            self.work.wait_while_for(state, idle, self.linger);
        }
        state.writer = Writer::Busy;
    }

    /// Writes the whole batch, trying again while the output fails; false when that was given up at the end.
    fn write(&self, output: &mut Output, batch: &[u8]) -> bool {
        let mut rest = batch;
        loop {
            let attempt = if rest.is_empty() { output.flush().map(|()| None) } else { output.write(rest).map(Some) };
            match attempt {
                Ok(Some(count)) => rest = rest.get(count..).unwrap_or_default(),
                Ok(None) => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let mut state = self.state.lock();
                    state.failures += 1;
                    if state.failure.replace(error.to_string()).is_none() {
                        output.complain(&error);
                    }
                    self.progress.notify_all();
                    if state.closing {
                        return false;
                    }
                    let delay = if error.kind() == io::ErrorKind::WouldBlock { RETRY_FULL } else { RETRY };
                    let patient = |state: &mut State| !state.hurry && !state.closing;
                    self.work.wait_while_for(&mut state, patient, delay);
                    state.hurry = false;
                }
            }
        }
    }
}

impl State {
    fn failed(&self) -> Unwritten {
        let failure = self.failure.clone().unwrap_or_default();
        Unwritten::Failed { lines: self.accepted - self.written, failure }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Longer than anything here takes.
    const DEADLINE: Duration = Duration::from_secs(20);
    const FOREVER: Duration = Duration::from_hours(24);

    struct Batches(Sender<Vec<u8>>);

    impl io::Write for Batches {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A queue whose writer lingers for ever, so that what wakes it is seen.
    fn lingering(capacity: usize) -> (Arc<Queue>, Receiver<Vec<u8>>) {
        let (sender, batches) = channel();
        let output = Output::Writer(Box::new(Batches(sender)));
        let announce = Box::new(|out: &mut Vec<u8>, loss: Loss| {
            out.extend_from_slice(format!("lost {} of {}\n", loss.lines, loss.total).as_bytes());
        });
        (Queue::with_linger(FOREVER, capacity, output, announce).unwrap(), batches)
    }

    #[test]
    fn l4_an_urgent_line_takes_along_what_lingers() {
        let (queue, batches) = lingering(1000);
        queue.push(b"info\n", false);
        queue.push(b"error\n", true);
        let mut all = batches.recv_timeout(DEADLINE).unwrap();
        // The writer may have been on its way to linger when the second line came.
        while !all.ends_with(b"error\n") {
            all.extend(batches.recv_timeout(DEADLINE).unwrap());
        }
        assert_eq!(all, b"info\nerror\n");
    }

    #[test]
    fn l4_a_queue_half_full_is_emptied_at_once() {
        let (queue, batches) = lingering(8);
        queue.push(b"1\n", false);
        let start = Instant::now();
        while queue.state.lock().writer != Writer::Lingers {
            assert!(start.elapsed() < DEADLINE);
            thread::yield_now();
        }
        queue.push(b"23\n", false);
        assert_eq!(batches.recv_timeout(DEADLINE).unwrap(), b"1\n23\n");
    }

    #[test]
    fn l4_a_flush_and_the_end_wait_for_nobody() {
        let (queue, batches) = lingering(1000);
        queue.push(b"1\n", false);
        queue.flush(DEADLINE).unwrap();
        assert_eq!(batches.try_recv().unwrap(), b"1\n");
        queue.push(b"2\n", false);
        queue.close(DEADLINE).unwrap();
        assert_eq!(batches.try_recv().unwrap(), b"2\n");
        queue.push(b"3\n", false);
        assert_eq!(batches.try_recv().unwrap(), b"3\n");
    }
}
