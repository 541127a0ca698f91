//! What runs a service, whatever it answers: requests up to a limit, each one counted, and a stop that lets them finish.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::{Error, ErrorKind, Result};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::ServeOptions;
use crate::client::Client;
use crate::connection::AbortOnDrop;
use crate::connection::Link;
use crate::pubsub::{ChangeKind, RawSubscription, SubscribeOptions};
use crate::rpc::discovery::{Endpoint, Handling, Listed};
use crate::telemetry::measure::ServiceMeasure;

impl Client {
    /// Runs `handle` for each message, at most `options.max_concurrent` at once, and `refuse` for those beyond.
    ///
    /// The result of `handle` is the error that the message was answered with, if it was.
    pub(crate) async fn run_service<H, F, E, G>(&self, spec: EndpointSpec, handle: H, refuse: E) -> Result<Service>
    where
        H: Fn(async_nats::Message, Permit) -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
        E: Fn(async_nats::Message, Error) -> G + Send + Sync + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        let EndpointSpec { subject, name, metadata, begin, options } = spec;
        // On its way before the service's own subscription, whose confirmation is then also that of this.
        let listing = if options.discoverable { self.listing().await } else { None };
        let shared = SubscribeOptions { queue_group: options.queue_group.clone(), ..SubscribeOptions::default() };
        let subscription = self.subscribe_confirmed(subject.clone(), &shared).await?;
        let endpoint = Endpoint::new(&name, &subject, options.queue_group, options.max_concurrent, metadata);
        let listed = listing.map(|listing| listing.list(endpoint));
        let endpoint = listed.as_ref().map(|listed| Arc::clone(listed.endpoint()));
        let (stop, stopped) = mpsc::channel(1);
        let measure = ServiceMeasure::new(&subject);
        let link = Arc::clone(self.link());
        let service =
            dispatch(link, subscription, measure, endpoint, begin, options.max_concurrent, handle, refuse, stopped);
        let task = self.runtime().spawn(service);
        Ok(Service {
            subject: subject.to_string(),
            stop,
            task,
            stopped_by: Arc::default(),
            stopper: None,
            listed,
            over: false,
        })
    }
}

/// Answers on their way, beside the requests that are worked on, before further requests are refused. They are many only
/// when the connection takes them more slowly than the handlers make them.
const ANSWERS: usize = 64;

/// A service to run.
pub(crate) struct EndpointSpec {
    pub(crate) subject: async_nats::Subject,
    /// In the listing.
    pub(crate) name: String,
    /// Facts for the listing.
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) begin: Begin,
    pub(crate) options: ServeOptions,
}

/// The room that one request takes of the limit of its service.
///
/// Dropped when the work is done and before the answer goes out: who has the answer may ask again at once, long before
/// this side knows that it arrived.
#[derive(Debug)]
pub(crate) struct Permit {
    /// Counted by its owners, the service being one.
    _taken: Arc<()>,
}

/// Where the handling of a request begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// On the task of the service, as far as it comes without waiting, and on one of its own from there: most requests
    /// are answered by then.
    Inline,
    /// On a task of its own: it goes on for long.
    Spawned,
}

/// A running service. Dropping it ends it at once; [`stop`](Self::stop) lets what runs finish.
///
/// ```no_run
/// # async fn example(client: mlx_nats::Client) -> mlx_nats::Result<()> {
/// use std::time::Duration;
/// use mlx_nats::Request;
///
/// let service = client.serve("lab.greet", |name: Request<String>| async move { Ok(format!("hello {}", *name)) }).await?;
/// println!("answering on {}", service.subject());
/// service.stop(Duration::from_secs(5)).await?; // what is under way may finish
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a service ends it at once: keep it for as long as it is to answer"]
#[derive(Debug)]
pub struct Service {
    subject: String,
    stop: mpsc::Sender<()>,
    task: JoinHandle<Result<()>>,
    /// Why it was stopped by what it heard, where it was.
    stopped_by: Arc<OnceLock<Error>>,
    stopper: Option<AbortOnDrop>,
    listed: Option<Listed>,
    /// The task has ended, and was asked how.
    over: bool,
}

impl Service {
    /// A service whose `task` ends in its own time after a message on the channel that `stop` belongs to.
    #[cfg(feature = "durable")]
    pub(crate) fn of(subject: String, stop: mpsc::Sender<()>, task: JoinHandle<Result<()>>) -> Self {
        Self { subject, stop, task, stopped_by: Arc::default(), stopper: None, listed: None, over: false }
    }

    /// The subject served.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Has the service take no more requests from when `reason` is there; those under way finish.
    pub(crate) fn stop_when(&mut self, client: &Client, reason: impl Future<Output = Error> + Send + 'static) {
        let (stop, stopped_by) = (self.stop.clone(), Arc::clone(&self.stopped_by));
        let task = client.runtime().spawn(async move {
            let reason = reason.await;
            // Once.
            let _ = stopped_by.set(reason);
            let _ = stop.send(()).await;
        });
        self.stopper = Some(AbortOnDrop(task.abort_handle()));
    }

    fn outcome(&self, ended: Result<()>) -> Result<()> {
        match self.stopped_by.get() {
            Some(reason) => Err(Error::new(reason.kind().clone())),
            None => ended,
        }
    }

    /// Resolves when the service ends by itself: when its client is closed, or, with the error, when the server takes its
    /// subscription away.
    ///
    /// ```no_run
    /// # async fn example(mut service: mlx_nats::Service) -> mlx_nats::Result<()> {
    /// tokio::select! {
    ///     ended = service.ended() => ended?, // the server took the subscription away, or the client is closed
    ///     _ = tokio::signal::ctrl_c() => {}
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Subscription`], which names the permission that is missing; told once.
    ///
    /// # Cancel safety
    /// Waiting changes nothing.
    pub async fn ended(&mut self) -> Result<()> {
        if self.over {
            return Ok(());
        }
        let ended = (&mut self.task).await;
        self.over = true;
        self.outcome(ended.unwrap_or(Ok(())))
    }

    /// Takes no more requests, and waits up to `timeout` for those under way.
    ///
    /// ```no_run
    /// # async fn example(service: mlx_nats::Service) -> mlx_nats::Result<()> {
    /// service.stop(std::time::Duration::from_secs(5)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] when some did not finish in time; they are dropped. [`ErrorKind::Subscription`] when the server
    /// had taken the subscription away before, so that no more requests came.
    ///
    /// # Cancel safety
    /// Dropping the future drops the service: the handlers under way end with it.
    pub async fn stop(mut self, timeout: Duration) -> Result<()> {
        self.listed = None;
        if self.over {
            return Ok(());
        }
        let _ = self.stop.send(()).await;
        // Left in its place, so that a dropped future ends it, as does running out of time.
        if let Ok(ended) = tokio::time::timeout(timeout, &mut self.task).await {
            // A service that was aborted has nothing to say.
            return self.outcome(ended.unwrap_or(Ok(())));
        }
        let subject = format!("handlers on {}", self.subject);
        Err(Error::new(ErrorKind::Timeout { subject, timeout }))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[expect(clippy::too_many_arguments, reason = "all that a service is made of, in one permit")]
async fn dispatch<H, F, E, G>(
    link: Arc<Link>,
    mut subscription: RawSubscription,
    measure: ServiceMeasure,
    endpoint: Option<Arc<Endpoint>>,
    begin: Begin,
    limit: usize,
    handle: H,
    refuse: E,
    mut stopped: mpsc::Receiver<()>,
) -> Result<()>
where
    H: Fn(async_nats::Message, Permit) -> F + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send + 'static,
    E: Fn(async_nats::Message, Error) -> G + Send + Sync + 'static,
    G: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(());
    // Dropping the set, when the service is dropped, ends the handlers in it.
    let mut running = JoinSet::new();
    let mut stopping = false;
    loop {
        tokio::select! {
            // Finished handlers first: the set keeps what they leave until it is asked for.
            biased;
            Some(finished) = running.join_next(), if !running.is_empty() => drop(finished),
            _ = stopped.recv(), if !stopping => {
                stopping = true;
                // What has been read from the connection by then is still handled: the stream ends behind it.
                if subscription.apply(ChangeKind::Drain).await.is_err() {
                    break;
                }
            }
            // What the server sent went down with its connection, and the end of the stream is not heard of meanwhile.
            () = down(&link), if stopping => break,
            message = subscription.next() => match message {
                None => break,
                Some(message) => {
                    let counted = endpoint.as_ref().map(Endpoint::handling);
                    let taken = Arc::strong_count(&permits) - 1;
                    if taken < limit && running.len() < limit.saturating_add(ANSWERS) {
                        let permit = Permit { _taken: Arc::clone(&permits) };
                        let mut handling = Box::pin(measure.handling(count(counted, handle(message, permit))));
                        if begin == Begin::Spawned || poll_once(handling.as_mut()).await.is_pending() {
                            running.spawn(handling);
                        }
                    } else {
                        let error = Error::new(ErrorKind::Overloaded { limit });
                        note(counted.as_ref(), &error);
                        refuse(message, error).await;
                    }
                }
            }
        }
    }
    let refused = subscription.refused().filter(|_| !stopping);
    if let Some(error) = &refused {
        tracing::error!(error = error as &dyn std::error::Error, "a service ends: it gets no more requests");
    }
    while running.join_next().await.is_some() {}
    refused.map_or(Ok(()), Err)
}

/// Resolves when the connection is down.
async fn down(link: &Link) {
    if let Ok(epoch) = link.live(String::new) {
        link.lost(epoch).await;
    }
}

/// How far a future comes without waiting. Its next owner has to poll it again.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}

/// Handles a request, and counts it where that is wanted.
async fn count(counted: Option<Handling>, handling: impl Future<Output = Result<()>>) {
    if let Err(error) = handling.await {
        note(counted.as_ref(), &error);
    }
}

fn note(counted: Option<&Handling>, error: &Error) {
    if let Some(counted) = counted {
        counted.failed(error);
    }
}
