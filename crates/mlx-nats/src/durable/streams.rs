//! What JetStream holds for us: a stream of waiting requests, one of dead letters, and a consumer for each model.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::ErrorCode as ApiCode;
use async_nats::jetstream::consumer::{self, AckPolicy};
use async_nats::jetstream::stream::{self, DiscardPolicy, RetentionPolicy, StorageType};
use mlx_errors::{Error, ErrorKind, Result};
use mlx_types::config::DurableConfig;
use mlx_types::subjects::{ANY_INFERENCE_DEAD, ANY_INFERENCE_QUEUE};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::api::{self, ApiResponse};
use crate::client::Client;

/// The stream of requests that wait.
pub(super) const QUEUE: &str = "MLX_INFERENCE";
/// The stream of dead letters.
pub(super) const DEAD: &str = "MLX_INFERENCE_DEAD";

/// A file on a server's disk is named after a consumer.
const LONGEST_CONSUMER_NAME: usize = 200;
/// Pull requests that may wait on one model, of all its workers together.
const WAITING_PULLS: i64 = 8192;
/// How far the wait for a silent worker doubles: to eight times the first.
const DOUBLINGS: u32 = 3;

/// Which connection the streams were last seen on.
#[derive(Debug, Default)]
pub(crate) struct WorkQueue(AtomicU64);

/// The settings of the durable hand-over, or the error that it is off.
pub(super) fn settings(client: &Client) -> Result<&DurableConfig> {
    client.options().durable.as_ref().ok_or_else(|| {
        Error::new(ErrorKind::JetStream {
            action: "hand requests over".to_owned(),
            reason: "durable hand-over is off in this node".to_owned(),
            hint: "set `requestRouting.durable.enabled: true`".to_owned(),
        })
    })
}

/// Makes the streams that are not there yet, once for each connection.
///
/// One that is there in another form, because other nodes have other settings or somebody altered it, is used as it is.
pub(super) async fn ensure(client: &Client, settings: &DurableConfig) -> Result<()> {
    let epoch = client.link().live(|| "preparing the request queue".to_owned())?;
    let known = client.room::<WorkQueue>();
    let seen = &known.0;
    if seen.load(Ordering::Relaxed) == epoch {
        return Ok(());
    }
    for config in [queue(settings), dead_letters(settings)] {
        let answer = api::call::<_, IgnoredAny>(client, &format!("STREAM.CREATE.{}", config.name), &config).await?;
        if let ApiResponse::Refused(error) = &answer
            && error.error_code() == ApiCode::STREAM_NAME_EXIST
        {
            tracing::debug!(stream = config.name, "a stream has other settings than this node's, and keeps them");
            continue;
        }
        answer.done(|| format!("create the stream {}", config.name))?;
    }
    seen.store(epoch, Ordering::Relaxed);
    Ok(())
}

/// Finds out whether JetStream keeps silent because it cannot write: it answers nothing to what it cannot store, but says so when
/// it is to store the settings of the stream, here those that it has.
///
/// # Errors
/// [`ErrorKind::JetStream`], with the place on the server's disk.
pub(super) async fn check_disk(client: &Client) -> Result<()> {
    let info = api::call::<_, Value>(client, &format!("STREAM.INFO.{QUEUE}"), &json!({})).await;
    let Ok(ApiResponse::Done(info)) = info else { return Ok(()) };
    let config = info.get("config").unwrap_or(&Value::Null);
    match api::call::<_, IgnoredAny>(client, &format!("STREAM.UPDATE.{QUEUE}"), config).await {
        Ok(ApiResponse::Refused(error)) if error.error_code() == ApiCode::STREAM_UPDATE => {
            Err(Error::new(ErrorKind::JetStream {
                action: "keep a request".to_owned(),
                reason: error.to_string(),
                hint: "make room on the disk where the NATS server keeps what JetStream stores".to_owned(),
            }))
        }
        _ => Ok(()),
    }
}

/// Forgets that the streams were seen, because something says that they are not there.
pub(super) fn forget(client: &Client) {
    client.room::<WorkQueue>().0.store(0, Ordering::Relaxed);
}

fn queue(settings: &DurableConfig) -> stream::Config {
    stream::Config {
        name: QUEUE.to_owned(),
        description: Some("inference requests until a worker has begun to answer them".to_owned()),
        subjects: vec![ANY_INFERENCE_QUEUE.as_str().to_owned()],
        retention: RetentionPolicy::WorkQueue,
        // A full queue refuses what is new: what it took it keeps.
        discard: DiscardPolicy::New,
        max_age: settings.max_age_ms.as_duration(),
        duplicate_window: settings.duplicate_window_ms.as_duration(),
        ..bounded(settings)
    }
}

fn dead_letters(settings: &DurableConfig) -> stream::Config {
    let max_age = settings.dead_letter_max_age_ms.as_duration();
    stream::Config {
        name: DEAD.to_owned(),
        description: Some("inference requests that were given up".to_owned()),
        subjects: vec![ANY_INFERENCE_DEAD.as_str().to_owned()],
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::Old,
        max_age,
        duplicate_window: settings.duplicate_window_ms.as_duration().min(max_age),
        ..bounded(settings)
    }
}

fn bounded(settings: &DurableConfig) -> stream::Config {
    stream::Config {
        storage: StorageType::File,
        num_replicas: usize::from(settings.replicas),
        max_bytes: i64::try_from(settings.max_bytes).unwrap_or(i64::MAX),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        ..stream::Config::default()
    }
}

/// A model's consumer, which all of its workers share.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    /// The subject to pull from.
    pub(super) next: String,
    /// How long the server waits for a sign of life from a worker.
    pub(super) ack_wait: Duration,
}

impl Consumer {
    /// The consumer for the queue's `subject`, made where it is not there yet.
    pub(super) async fn ensure(client: &Client, settings: &DurableConfig, subject: &str) -> Result<Self> {
        let name = name(subject)?;
        let config = config(settings, &name, subject);
        let made = json!({ "stream_name": QUEUE, "config": config });
        let create = format!("CONSUMER.CREATE.{QUEUE}.{name}.{subject}");
        let info = match api::call::<_, consumer::Info>(client, &create, &made).await? {
            ApiResponse::Done(info) => info,
            // As for the streams: one that cannot be altered is used as it is.
            ApiResponse::Refused(refusal) => {
                let info = format!("CONSUMER.INFO.{QUEUE}.{name}");
                match api::call::<_, consumer::Info>(client, &info, &json!({})).await? {
                    ApiResponse::Done(info) => info,
                    ApiResponse::Refused(_) => {
                        let refusal = ApiResponse::<consumer::Info>::Refused(refusal);
                        refusal.done(|| format!("create a consumer for `{subject}`"))?
                    }
                }
            }
        };
        let ack_wait = info.config.backoff.iter().copied().chain([info.config.ack_wait]).min();
        let ack_wait = ack_wait.unwrap_or_else(|| settings.ack_wait_ms.as_duration());
        Ok(Self { next: format!("$JS.API.CONSUMER.MSG.NEXT.{QUEUE}.{name}"), ack_wait })
    }
}

fn config(settings: &DurableConfig, name: &str, subject: &str) -> consumer::Config {
    let ack_wait = settings.ack_wait_ms.as_duration();
    consumer::Config {
        durable_name: Some(name.to_owned()),
        filter_subject: subject.to_owned(),
        ack_policy: AckPolicy::Explicit,
        ack_wait,
        backoff: (0..=DOUBLINGS).map(|doubled| ack_wait * 2_u32.pow(doubled)).collect(),
        // Workers count: the server would only stop delivering, and leave the request where nobody looks.
        max_deliver: -1,
        max_ack_pending: -1,
        max_waiting: WAITING_PULLS,
        ..consumer::Config::default()
    }
}

/// A consumer's name becomes that of a folder, on file systems that may not tell case: capitals are escaped too, the
/// way the subject's token escapes other bytes.
fn name(subject: &str) -> Result<String> {
    let token = subject.rsplit('.').next().unwrap_or_default();
    let mut name = String::with_capacity(token.len());
    for character in token.chars() {
        if character.is_ascii_uppercase() {
            // Writing to a string cannot fail.
            let _ = write!(name, "={:02x}", u32::from(character));
        } else {
            name.push(character);
        }
    }
    if name.len() <= LONGEST_CONSUMER_NAME {
        return Ok(name);
    }
    let start: String = subject.chars().take(64).collect();
    let reason = format!("the model's id takes more than {LONGEST_CONSUMER_NAME} characters when it is escaped");
    Err(Error::new(ErrorKind::InvalidSubject { subject: format!("{start}..."), reason }))
}

#[cfg(test)]
mod tests {
    use mlx_types::subjects::inference_queue;

    use super::*;

    #[test]
    fn names_of_consumers_differ_in_more_than_case() {
        let name = |model| name(inference_queue(model).unwrap().as_str()).unwrap();
        assert_eq!(name("mlx-community/Llama-3.2"), "mlx-community=2f=4clama-3=2e2");
        assert_ne!(name("Llama").to_lowercase(), name("llama").to_lowercase());
        assert_ne!(name("=4c"), name("L"));
    }

    #[test]
    fn a_name_too_long_for_a_disk_is_an_error() {
        let error = name(inference_queue(&"M".repeat(100)).unwrap().as_str()).unwrap_err();
        assert_eq!(error.code(), mlx_errors::ErrorCode::SubjectInvalid);
    }

    #[test]
    fn the_wait_for_a_silent_worker_doubles() {
        let config = config(&DurableConfig::default(), "m", "inference.queue.m");
        assert_eq!(config.backoff.iter().map(Duration::as_secs).collect::<Vec<_>>(), [10, 20, 40, 80]);
    }
}
