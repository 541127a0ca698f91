//! `mlx-node ask`: one prompt, over the bus.

use std::io::{IsTerminal, Read, Write};
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind, Result};
use mlx_nats::{Client, ClientOptions, Dispatcher, StreamSummary, WorkerInfo, Workers};
use mlx_types::messages::InferenceRequest;

use super::arguments::AskArguments;
use super::settings::Settings;
use super::{EXIT_DONE, EXIT_INTERRUPTED, EXIT_PROMPT_FAILED, EXIT_USAGE};
use crate::plan::bus_of_others;
use crate::signals::Interrupts;
use crate::terminal::{note, unprintable};

/// How long workers may take to say what they are.
const ARRIVING: Duration = Duration::from_secs(10);
/// How long the connection may take to close.
const CLOSING: Duration = Duration::from_secs(1);

pub(super) async fn run(settings: &Settings, arguments: &AskArguments) -> Result<u8> {
    let prompt = prompt(arguments)?;
    if prompt.trim().is_empty() {
        note("there is no prompt: give one as an argument, or on standard input");
        return Ok(EXIT_USAGE);
    }
    let client = connect(settings, "mlx-node ask").await?;
    let mut interrupts = Interrupts::catch();
    // Followed before the dispatcher has the workers say what they are.
    let workers = client.workers().await?;
    let dispatcher = client.dispatcher(settings.config()).await?;
    let code = tokio::select! {
        code = ask(&dispatcher, &workers, &prompt, arguments) => code,
        () = interrupts.next() => Ok(EXIT_INTERRUPTED),
    };
    // The worker has been told that nobody reads on; what cannot be closed in time is closed by the end of the process.
    let _ = client.shutdown(CLOSING).await;
    code
}

/// A client of the bus that the configuration means: that of the node that runs with it.
pub(super) async fn connect(settings: &Settings, name: &str) -> Result<Client> {
    let config = settings.config();
    if settings.has_hidden_port() {
        let reason =
            "`nats.embedded.port: 0` has the server take a free port, which only its own node knows".to_owned();
        return Err(ErrorKind::Internal { reason }.into());
    }
    let options = ClientOptions::from(config).name(name);
    let connected = Client::connect_with(&bus_of_others(&config.nats), options).await;
    connected.inspect_err(|_| note("is `mlx-node run` running, with the same configuration?"))
}

fn prompt(arguments: &AskArguments) -> Result<String> {
    if !arguments.prompt.is_empty() {
        return Ok(arguments.prompt.join(" "));
    }
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        note("reading the prompt from standard input; Ctrl-D ends it");
    }
    let mut text = String::new();
    stdin.read_to_string(&mut text).map_err(|error| {
        let reason = "cannot read the prompt from standard input".to_owned();
        Error::with_source(ErrorKind::Internal { reason }, error)
    })?;
    Ok(text)
}

async fn ask(dispatcher: &Dispatcher, workers: &Workers, prompt: &str, arguments: &AskArguments) -> Result<u8> {
    let model = match &arguments.model {
        Some(model) => model.clone(),
        None => first_model(workers).await?,
    };
    let request = InferenceRequest::new(model, prompt).max_tokens(arguments.max_tokens);
    let mut tokens = dispatcher.infer(&request).await?;
    let mut out = std::io::stdout();
    while let Some(frame) = tokens.next().await {
        match frame {
            Ok(frame) => out.write_all(frame.text.as_bytes()).and_then(|()| out.flush()).map_err(unprintable)?,
            Err(error) => {
                note(&format!("\n{}", mlx_errors::report(&error)));
                return Ok(EXIT_PROMPT_FAILED);
            }
        }
    }
    writeln!(out).map_err(unprintable)?;
    if arguments.stats {
        let worker = tokens.worker_id().map_or_else(|| "a worker".to_owned(), |id| id.to_string());
        note(&format!("{} by {worker}: {}", request.model_id, figures(tokens.summary())));
    }
    Ok(EXIT_DONE)
}

async fn first_model(workers: &Workers) -> Result<String> {
    let first = |online: &[WorkerInfo]| {
        let registered = online.iter().filter_map(|worker| worker.registration.as_ref());
        registered.flat_map(|registration| &registration.skills.available_models).min().cloned()
    };
    let online = workers.wait_until(ARRIVING, |online| first(online).is_some()).await;
    let none = || Error::new(ErrorKind::NoWorker { model: "any".to_owned(), known: Vec::new() });
    online.ok().and_then(|online| first(&online)).ok_or_else(none)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn figures(summary: Option<&StreamSummary>) -> String {
    let Some(summary) = summary else { return "no figures".to_owned() };
    let first = summary.time_to_first_token.unwrap_or_default();
    let flowing = summary.duration.saturating_sub(first).as_secs_f64();
    let rate = if flowing > 0.0 { summary.tokens.saturating_sub(1) as f64 / flowing } else { 0.0 };
    format!(
        "{} tokens, the first after {:.1} ms, then {rate:.1} a second",
        summary.tokens,
        first.as_secs_f64() * 1000.0
    )
}
