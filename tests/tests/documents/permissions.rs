//! The permissions on the page are enough for each role, and no more than the page says.

use futures_util::StreamExt;
use mlx_errors::ErrorCode;
use mlx_nats::{Client, ClientOptions, Request, RequestManyOptions};
use mlx_tests::{ConfiguredServer, LIMIT, TEST_MODEL, TestWorker, WorkerOptions, within};
use mlx_types::config::ClusterConfig;
use mlx_types::messages::{
    ClusterAnnouncement, ClusterEvent, HealthCheck, HealthReport, InferenceRequest, ModelCommand, WorkerStatus,
};
use mlx_types::{Secret, WorkerId, subjects};
use serde_json::{Value, json};

use super::operations::{PAGE, steps_of};
use super::page::Part;

/// The server of the page, with JetStream, and a client for each of its roles.
struct Roles {
    server: ConfiguredServer,
    _store: tempfile::TempDir,
}

impl Roles {
    async fn start() -> Self {
        let steps = steps_of(PAGE);
        let step = steps.iter().find(|step| step.part == Part::Server { permissions: true }).expect("permissions");
        let settings = ["CONTROLLER", "WORKER", "OBSERVER"]
            .into_iter()
            .fold(step.text.clone(), |text, role| text.replace(&format!("${role}_PASSWORD"), "secret"));
        let settings: Vec<_> = settings.lines().filter(|line| !line.starts_with("port:")).collect();
        let store = tempfile::tempdir().unwrap();
        let jetstream = format!("jetstream {{ store_dir: {:?} }}", store.path().display().to_string());
        let server = ConfiguredServer::start(&format!("{jetstream}\n{}", settings.join("\n"))).await;
        Self { server, _store: store }
    }

    async fn client(&self, role: &str) -> Client {
        let mut config = ClusterConfig::default();
        config.request_routing.durable.enabled = true;
        let nats = self
            .server
            .config("nats", "")
            .user(role)
            .password(Secret::new("secret".to_owned()))
            .inbox_prefix(format!("_INBOX_{role}"));
        within("the connection", Client::connect_with(&nats, ClientOptions::from(&config))).await.unwrap()
    }

    /// What the server has refused so far.
    fn refused(&self) -> Vec<String> {
        self.server.log().lines().filter(|line| line.contains("Violation")).map(str::to_owned).collect()
    }
}

async fn tokens_of(mut tokens: mlx_nats::TokenStream) -> usize {
    let mut count = 0;
    while let Some(token) = within("the end of the answer", tokens.next()).await {
        token.unwrap();
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_permissions_on_the_page_are_enough_for_a_cluster() {
    let roles = Roles::start().await;
    let (controller, node) = (roles.client("controller").await, roles.client("worker").await);
    let observer = roles.client("observer").await;
    let (workers, seen) = (controller.workers().await.unwrap(), observer.workers().await.unwrap());
    let mut announced = node.subscribe(&subjects::CLUSTER_ANNOUNCE).await.unwrap();

    let mut config = ClusterConfig::default();
    config.request_routing.durable.enabled = true;
    let worker = TestWorker::start(&node, WorkerOptions::new(WorkerId::new(), &config)).await.unwrap();
    let id = worker.id();
    let health = move |check: Request<HealthCheck>| async move {
        Ok(HealthReport::new(id, WorkerStatus::Online).request_id(check.request_id))
    };
    let _health = node.serve(&subjects::HEALTH_CHECK, health).await.unwrap();
    for table in [&workers, &seen] {
        let known = table.wait_until(LIMIT, |known| known.iter().any(|worker| worker.registration.is_some()));
        known.await.unwrap();
    }
    let announcement = ClusterAnnouncement::new(ClusterEvent::ControllerStarted);
    controller.publish(&subjects::CLUSTER_ANNOUNCE, &announcement).await.unwrap();
    within("the announcement", announced.next()).await.unwrap().unwrap();

    // Commands, and what is asked of all.
    let command = ModelCommand::new(TEST_MODEL);
    within("the model", controller.request(&subjects::MODEL_LOAD, &command)).await.unwrap();
    for asking in [&controller, &observer] {
        let check = HealthCheck::new();
        within("its health", asking.request(&subjects::HEALTH_CHECK, &check)).await.unwrap();
        let one = RequestManyOptions::default().max_responses(1);
        let listed =
            within("the list", mlx_tests::ask_all::<_, _, Value>(asking, "$SRV.INFO", &json!({}), one)).await.unwrap();
        assert_eq!(listed.len(), 1);
    }

    // Answers, whole, stopped and killed; and one by way of the queue.
    let request = |max| InferenceRequest::new(TEST_MODEL, "count").max_tokens(max);
    assert_eq!(tokens_of(controller.infer(id, &request(3)).await.unwrap()).await, 3);
    let mut stopped = controller.infer(id, &request(10_000)).await.unwrap();
    within("a token", stopped.next()).await.unwrap().unwrap();
    stopped.stop().await.unwrap();
    tokens_of(stopped).await;
    let mut killed = controller.infer(id, &request(10_000)).await.unwrap();
    within("a token", killed.next()).await.unwrap().unwrap();
    killed.kill().await.unwrap();
    #[cfg(feature = "durable")]
    {
        let queued = within("the queue", controller.infer_durable(&request(3))).await.unwrap();
        assert_eq!(tokens_of(queued).await, 3);
    }

    worker.leave(LIMIT).await.unwrap();
    for client in [&controller, &node, &observer] {
        let flushed = client.flush(LIMIT).await;
        assert_eq!(roles.refused(), Vec::<String>::new());
        flushed.unwrap();
        assert_eq!(client.refused_publishes(), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_permissions_on_the_page_keep_each_role_to_its_own() {
    let roles = Roles::start().await;
    let (node, observer) = (roles.client("worker").await, roles.client("observer").await);
    let id = WorkerId::new();
    // A worker cannot read the answers of another, nor the inbox of the controller, nor ask anybody.
    for subject in ["response.*", "_INBOX_controller.>", "_INBOX.>", ">"] {
        let error = within("the refusal", node.subscribe::<_, String>(subject)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NatsSubscription, "{error}");
    }
    let asked = within("the refusal", node.request::<_, _, String>("model.unload", "x")).await.unwrap_err();
    assert_eq!(asked.code(), ErrorCode::NatsPublish, "{asked}");
    // An observer reads no prompts and no answers, and gives no orders.
    for subject in ["worker.*.inference", "response.*"] {
        let error = within("the refusal", observer.subscribe::<_, String>(subject)).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NatsSubscription, "{error}");
    }
    let mut shut_down = node.subscribe(&subjects::CLUSTER_SHUTDOWN).await.unwrap();
    observer.publish("cluster.shutdown", &json!({ "gracePeriodMs": 0, "timestamp": 1 })).await.unwrap();
    assert_eq!(observer.flush(LIMIT).await.unwrap_err().code(), ErrorCode::NatsPublish);
    let mut tokens = observer.infer(id, &InferenceRequest::new("m", "p")).await.unwrap();
    let error = within("the refusal", tokens.next()).await.unwrap().unwrap_err();
    assert!([ErrorCode::NatsSubscription, ErrorCode::NatsPublish].contains(&error.code()), "{error}");
    shut_down.unsubscribe().await.unwrap();
    assert!(within("the end", shut_down.next()).await.is_none(), "nobody was told to end");
}
