//! The subject table: where each message goes.

mod queue;

use crate::messages::{
    ClusterAnnouncement, ClusterShutdown, EmbeddingRequest, EmbeddingResponse, HealthCheck, HealthReport,
    InferenceCancel, InferenceRequest, ModelCommand, ModelStatus, StreamingResponse, WorkerDeregistration,
    WorkerHeartbeat, WorkerMetricsReport, WorkerRegistration,
};
use crate::{Pattern, RequestId, RequestSubject, Subject, WorkerId};

pub use queue::{ANY_INFERENCE_DEAD, ANY_INFERENCE_QUEUE, INFERENCE_CANCEL, inference_dead, inference_queue};

/// Worker to controller: a worker joins.
pub static WORKER_REGISTER: Subject<WorkerRegistration> = Subject::from_static("worker.register");
/// Worker to controller, every `discovery.heartbeatIntervalMs`.
pub static WORKER_HEARTBEAT: Subject<WorkerHeartbeat> = Subject::from_static("worker.heartbeat");
/// Worker to controller: a worker leaves.
pub static WORKER_DEREGISTER: Subject<WorkerDeregistration> = Subject::from_static("worker.deregister");
/// Controller to worker: load a model.
pub static MODEL_LOAD: RequestSubject<ModelCommand, ModelStatus> = RequestSubject::from_static("model.load");
/// Controller to worker: unload a model.
pub static MODEL_UNLOAD: RequestSubject<ModelCommand, ModelStatus> = RequestSubject::from_static("model.unload");
/// Worker to controller: how far a model is.
pub static MODEL_STATUS: Subject<ModelStatus> = Subject::from_static("model.status");
/// Controller to worker: are you well?
pub static HEALTH_CHECK: RequestSubject<HealthCheck, HealthReport> = RequestSubject::from_static("health.check");
/// Worker to controller: a health report from a node that was given no reply inbox.
pub static HEALTH_RESPONSE: Subject<HealthReport> = Subject::from_static("health.response");
/// Worker to controller: figures between heartbeats.
pub static METRICS_REPORT: Subject<WorkerMetricsReport> = Subject::from_static("metrics.report");
/// Controller to all: who came and went.
pub static CLUSTER_ANNOUNCE: Subject<ClusterAnnouncement> = Subject::from_static("cluster.announce");
/// Controller to all: the cluster goes down.
pub static CLUSTER_SHUTDOWN: Subject<ClusterShutdown> = Subject::from_static("cluster.shutdown");

/// The inference requests of every worker.
pub static ANY_WORKER_INFERENCE: Pattern<InferenceRequest> = Pattern::from_static("worker.*.inference");
/// The cancellations of every worker.
pub static ANY_WORKER_CANCEL: Pattern<InferenceCancel> = Pattern::from_static("worker.*.cancel");
/// The embeddings of every worker.
pub static ANY_WORKER_EMBEDDINGS: Pattern<EmbeddingRequest> = Pattern::from_static("worker.*.embeddings");
/// The token streams of every request.
pub static ANY_RESPONSE: Pattern<StreamingResponse> = Pattern::from_static("response.*");

/// Controller to one worker: its inference requests.
pub fn worker_inference(worker: WorkerId) -> Subject<InferenceRequest> {
    Subject::trusted(format!("worker.{}.inference", worker.as_said()))
}

/// Controller to one worker: texts that it is to embed.
pub fn worker_embeddings(worker: WorkerId) -> RequestSubject<EmbeddingRequest, EmbeddingResponse> {
    RequestSubject::trusted(format!("worker.{}.embeddings", worker.as_said()))
}

/// Controller to one worker: its cancellations.
pub fn worker_cancel(worker: WorkerId) -> Subject<InferenceCancel> {
    Subject::trusted(format!("worker.{}.cancel", worker.as_said()))
}

/// Anybody to one worker: are you there? What is answered, and published there by the worker, says which incarnation it is.
pub fn worker_ping(worker: WorkerId) -> String {
    format!("worker.{}.ping", worker.as_said())
}

/// Worker to controller: the token stream that answers one request.
pub fn response(request: RequestId) -> Subject<StreamingResponse> {
    Subject::trusted(format!("response.{}", request.as_said()))
}

/// A concrete subject of the table, read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Parsed {
    /// [`WORKER_REGISTER`]
    WorkerRegister,
    /// [`WORKER_HEARTBEAT`]
    WorkerHeartbeat,
    /// [`WORKER_DEREGISTER`]
    WorkerDeregister,
    /// [`worker_inference`]
    WorkerInference(WorkerId),
    /// [`worker_cancel`]
    WorkerCancel(WorkerId),
    /// [`worker_embeddings`]
    WorkerEmbeddings(WorkerId),
    /// [`response`]
    Response(RequestId),
    /// [`inference_queue`], of any model
    InferenceQueue,
    /// [`inference_dead`], of any model
    InferenceDead,
    /// [`INFERENCE_CANCEL`]
    InferenceQueueCancel,
    /// [`MODEL_LOAD`]
    ModelLoad,
    /// [`MODEL_UNLOAD`]
    ModelUnload,
    /// [`MODEL_STATUS`]
    ModelStatus,
    /// [`HEALTH_CHECK`]
    HealthCheck,
    /// [`HEALTH_RESPONSE`]
    HealthResponse,
    /// [`METRICS_REPORT`]
    MetricsReport,
    /// [`CLUSTER_ANNOUNCE`]
    ClusterAnnounce,
    /// [`CLUSTER_SHUTDOWN`]
    ClusterShutdown,
}

/// Reads a concrete subject; `None` where it is none of the table's, a malformed id included.
///
/// ```
/// use mlx_types::subjects::{self, Parsed};
/// use mlx_types::WorkerId;
///
/// let worker = WorkerId::new();
/// assert_eq!(subjects::parse(subjects::worker_cancel(worker).as_str()), Some(Parsed::WorkerCancel(worker)));
/// assert_eq!(subjects::parse("worker.x.cancel"), None);
/// ```
pub fn parse(subject: &str) -> Option<Parsed> {
    let mut tokens = subject.split('.');
    let found = match (tokens.next()?, tokens.next()?, tokens.next()) {
        ("worker", "register", None) => Parsed::WorkerRegister,
        ("worker", "heartbeat", None) => Parsed::WorkerHeartbeat,
        ("worker", "deregister", None) => Parsed::WorkerDeregister,
        ("worker", worker, Some("inference")) => Parsed::WorkerInference(worker.parse().ok()?),
        ("worker", worker, Some("cancel")) => Parsed::WorkerCancel(worker.parse().ok()?),
        ("worker", worker, Some("embeddings")) => Parsed::WorkerEmbeddings(worker.parse().ok()?),
        ("response", request, None) => Parsed::Response(request.parse().ok()?),
        ("inference", "queue", Some(_)) => Parsed::InferenceQueue,
        ("inference", "dead", Some(_)) => Parsed::InferenceDead,
        ("inference", "cancel", None) => Parsed::InferenceQueueCancel,
        ("model", "load", None) => Parsed::ModelLoad,
        ("model", "unload", None) => Parsed::ModelUnload,
        ("model", "status", None) => Parsed::ModelStatus,
        ("health", "check", None) => Parsed::HealthCheck,
        ("health", "response", None) => Parsed::HealthResponse,
        ("metrics", "report", None) => Parsed::MetricsReport,
        ("cluster", "announce", None) => Parsed::ClusterAnnounce,
        ("cluster", "shutdown", None) => Parsed::ClusterShutdown,
        _ => return None,
    };
    tokens.next().is_none().then_some(found)
}
