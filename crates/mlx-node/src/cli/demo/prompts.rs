//! The controller: hands out the prompts, and shows what comes back.

use std::collections::VecDeque;
use std::io::{BufRead, IsTerminal, Stdout, Write};

use futures_util::StreamExt;
use futures_util::future::join_all;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_nats::{Client, StreamSummary};
use mlx_types::WorkerId;
use mlx_types::messages::InferenceRequest;
use parking_lot::Mutex;

use super::super::{DemoArguments, EXIT_DONE, EXIT_INTERRUPTED, EXIT_PROMPT_FAILED};
use super::cluster::Cluster;
use super::outcome::{self, Outcome};
use super::printer::Printer;
use super::process::{Starting, WorkerProcess};
use crate::signals::Interrupts;
use crate::terminal::{note, unprintable};

/// Tokens that the worker to be killed sends before.
const TOKENS_BEFORE_KILL: u64 = 3;
/// What is asked when nothing else is.
const BUILT_IN: [&str; 2] = ["Tell me about NATS", "What does a controller do all day?"];

/// Runs the cluster until every prompt has come to an end, or until interrupted.
pub(super) async fn run(starting: &Starting<'_>) -> Result<u8> {
    let arguments = starting.arguments;
    let prompts = prompts(arguments)?;
    let mut cluster = Cluster::start(starting).await?;
    let mut interrupts = Interrupts::catch();
    let result = tokio::select! {
        result = answer_all(&mut cluster, prompts, arguments) => result,
        () = interrupts.next() => Ok(EXIT_INTERRUPTED),
    };
    if matches!(result, Ok(EXIT_INTERRUPTED)) {
        note("\ninterrupted: stopping the workers and the server");
    }
    let stopped = cluster.stop().await;
    let code = result?;
    stopped?;
    Ok(code)
}

/// The prompts of the command line, or of standard input, or the built-in ones.
fn prompts(arguments: &DemoArguments) -> Result<Vec<String>> {
    if !arguments.prompts.is_empty() {
        return Ok(arguments.prompts.clone());
    }
    let stdin = std::io::stdin().lock();
    let mut prompts = Vec::new();
    if !stdin.is_terminal() {
        note("reading prompts from standard input, one a line");
        for line in stdin.lines() {
            let line = line.map_err(|error| {
                let reason = "cannot read prompts from standard input".to_owned();
                Error::with_source(ErrorKind::Internal { reason }, error)
            })?;
            if !line.trim().is_empty() {
                prompts.push(line);
            }
        }
    }
    if prompts.is_empty() {
        prompts.extend(BUILT_IN.map(str::to_owned));
    }
    Ok(prompts)
}

async fn answer_all(cluster: &mut Cluster, prompts: Vec<String>, arguments: &DemoArguments) -> Result<u8> {
    cluster.all_registered().await?;
    let models = cluster.first_models().await?;
    let Cluster { node, processes: workers, .. } = cluster;
    let client = node.client();
    let lanes: Vec<Lane> = workers
        .iter()
        .zip(models)
        .enumerate()
        .map(|(number, (worker, model))| Lane {
            number,
            id: worker.id,
            model,
            label: format!("{} (pid {})", number + 1, worker.pid),
        })
        .collect();
    // From here on a worker that ends is noticed the way it would be on another machine: by its silence.
    let victim = if arguments.kill_worker { workers.first_mut() } else { None };
    let job = Job {
        client,
        max_tokens: arguments.max_tokens,
        board: Mutex::new(Board::deal(&prompts, lanes.len())),
        prompts,
        printer: Mutex::new(Printer::new(std::io::stdout())),
        victim: Mutex::new(victim),
    };
    job.run(lanes).await?;

    let outcomes = job.into_outcomes();
    let failed = outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
    let table = outcome::table(&outcomes);
    writeln!(std::io::stdout(), "\n{table}\n{} of {} prompts answered", outcomes.len() - failed, outcomes.len())
        .map_err(unprintable)?;
    Ok(if failed == 0 { EXIT_DONE } else { EXIT_PROMPT_FAILED })
}

/// One worker, which answers one prompt at a time.
struct Lane {
    number: usize,
    id: WorkerId,
    /// The first of its models.
    model: String,
    label: String,
}

/// Which prompts are whose, and how they went.
struct Board {
    /// Dealt out in turn: prompt 1 to the first worker, prompt 2 to the second, and so on.
    queues: Vec<VecDeque<usize>>,
    /// Prompts whose worker is gone; whoever has time takes them.
    orphans: VecDeque<usize>,
    outcomes: Vec<Option<Outcome>>,
}

impl Board {
    fn deal(prompts: &[String], lanes: usize) -> Self {
        let mut queues = vec![VecDeque::new(); lanes];
        for (prompt, lane) in (0..prompts.len()).zip((0..lanes).cycle()) {
            if let Some(queue) = queues.get_mut(lane) {
                queue.push_back(prompt);
            }
        }
        Self { queues, orphans: VecDeque::new(), outcomes: prompts.iter().map(|_| None).collect() }
    }

    fn next(&mut self, lane: usize) -> Option<usize> {
        self.queues.get_mut(lane).and_then(VecDeque::pop_front).or_else(|| self.orphans.pop_front())
    }

    fn abandon(&mut self, lane: usize) {
        if let Some(queue) = self.queues.get_mut(lane) {
            self.orphans.append(queue);
        }
    }

    fn close(&mut self, prompt: usize, outcome: Outcome) {
        if let Some(place) = self.outcomes.get_mut(prompt) {
            *place = Some(outcome);
        }
    }
}

struct Job<'a> {
    client: &'a Client,
    max_tokens: u64,
    prompts: Vec<String>,
    board: Mutex<Board>,
    printer: Mutex<Printer<Stdout>>,
    /// The worker to kill, until it is.
    victim: Mutex<Option<&'a mut WorkerProcess>>,
}

/// How a lane's prompt ended for the lane.
enum Verdict {
    Next,
    WorkerGone,
}

impl Job<'_> {
    /// Runs the lanes until no prompt is left, or no worker.
    async fn run(&self, mut lanes: Vec<Lane>) -> Result<()> {
        loop {
            let survived: Vec<bool> =
                join_all(lanes.iter().map(|lane| self.work(lane))).await.into_iter().collect::<Result<_>>()?;
            let mut survived = survived.into_iter();
            lanes.retain(|_| survived.next().unwrap_or(false));
            let Some(first_left) = self.board.lock().orphans.front().copied() else { return Ok(()) };
            if lanes.is_empty() {
                let prompt = first_left + 1;
                let reason = format!("no worker is left, and prompt {prompt} is not answered");
                return Err(ErrorKind::Internal { reason }.into());
            }
        }
    }

    /// Answers one prompt after another; false when the worker is gone.
    async fn work(&self, lane: &Lane) -> Result<bool> {
        loop {
            let Some(prompt) = self.board.lock().next(lane.number) else { return Ok(true) };
            if let Verdict::WorkerGone = self.answer(prompt, lane).await? {
                self.board.lock().abandon(lane.number);
                return Ok(false);
            }
        }
    }

    async fn answer(&self, prompt: usize, lane: &Lane) -> Result<Verdict> {
        let text = self.prompts.get(prompt).map_or("", String::as_str);
        self.print(prompt, &format!("\n[{}] {text}  -> worker {}\n", prompt + 1, lane.label))?;
        let (summary, error) = self.stream(prompt, text, lane).await?;
        let gone = error
            .as_ref()
            .is_some_and(|error| matches!(error.kind(), ErrorKind::WorkerLost { .. } | ErrorKind::NoResponders { .. }));
        match error {
            // Nothing of the answer has been shown yet, so another worker may give it.
            Some(error) if gone && error.is_retryable() => {
                self.print(prompt, &format!("[{}: {error}; asking another worker]", error.code()))?;
                self.board.lock().orphans.push_back(prompt);
            }
            error => {
                let ending = match &error {
                    Some(error) => format!("\n[{}: {error}]\n", error.code()),
                    None => "\n".to_owned(),
                };
                self.print(prompt, &ending)?;
                self.printer.lock().finish(prompt).map_err(unprintable)?;
                let error = error.map(|error| error.code().to_string());
                self.board.lock().close(prompt, Outcome { worker: lane.label.clone(), summary, error });
            }
        }
        Ok(if gone { Verdict::WorkerGone } else { Verdict::Next })
    }

    /// Streams one answer; how it ended, and with which error.
    async fn stream(&self, prompt: usize, text: &str, lane: &Lane) -> Result<(StreamSummary, Option<Error>)> {
        let request = InferenceRequest::new(lane.model.as_str(), text).max_tokens(self.max_tokens);
        let mut tokens = match self.client.infer(lane.id, &request).await {
            Ok(tokens) => tokens,
            Err(error) => return Ok((StreamSummary::default(), Some(error))),
        };
        let mut error = None;
        while let Some(frame) = tokens.next().await {
            match frame {
                Ok(frame) => {
                    self.print(prompt, &frame.text)?;
                    if lane.number == 0 && frame.index + 1 == TOKENS_BEFORE_KILL {
                        self.kill_victim();
                    }
                }
                Err(failure) => error = Some(failure),
            }
        }
        Ok((tokens.summary().cloned().unwrap_or_default(), error))
    }

    fn kill_victim(&self) {
        if let Some(victim) = self.victim.lock().take() {
            note(&format!("\n[killing worker process {}]", victim.pid));
            victim.kill();
        }
    }

    fn print(&self, prompt: usize, text: &str) -> Result<()> {
        self.printer.lock().print(prompt, text).map_err(unprintable)
    }

    fn into_outcomes(self) -> Vec<Outcome> {
        let board = self.board.into_inner();
        board.outcomes.into_iter().flatten().collect()
    }
}
