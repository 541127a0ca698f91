//! The page, in a browser.

use std::time::Duration;

use mlx_embedded::EmbeddedServer;
use mlx_nats::Client;
use mlx_tests::{LIMIT, ModelServer};
use mlx_types::messages::{ModelSkills, WorkerDeregistration, WorkerRegistration};
use mlx_types::{WorkerId, subjects};
use serde_json::json;
use tokio::process::Child;

use crate::browser::Browser;
use crate::support::{GatewayProcess, chat, chat_with};

/// How long the bus is away: ten times what is taken for the silence of the dead.
const OUTAGE: Duration = Duration::from_secs(20);

/// A name that would run as a script, were it not taken for a text.
const HOSTILE: &str = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";

#[tokio::test]
async fn chromium_and_curl_show_workers_that_join_leave_and_are_lost_and_is_right_after_an_outage_of_20_s() {
    let models = ModelServer::start();
    models.set_pace(Duration::from_millis(25));
    let mut config = mlx_types::config::NatsConfig::default();
    config.embedded.port = 0;
    config.embedded.http_port = 0;
    let server = EmbeddedServer::start(&config).await.unwrap();
    config.embedded.port = server.client_addr().port(); // where it will be again
    let url = server.client_url().to_string();
    let environment = [
        ("MLX_NATS__MODE", "external"),
        ("MLX_NATS__SERVER_URL", url.as_str()),
        ("MLX_NATS__RECONNECT_TIME_WAIT", "50"),
    ];
    let engine = format!("openai={}", models.url());
    let gateway = GatewayProcess::start(3, &["--engine", &engine], &environment).await;
    let mut browser = Browser::start().await;
    browser.open(&gateway.url("/")).await;
    let text = browser.shows("three workers", |text| text.matches("online").count() == 3).await;
    assert!(text.contains("connected") && text.matches(" joined").count() == 3 && text.contains("tiny"), "{text}");

    // One more joins, whose name is no name, and leaves; another one is killed.
    let guest = Client::connect(&server.client_config()).await.unwrap();
    let id = WorkerId::new();
    guest.publish(&subjects::WORKER_REGISTER, &registration(id)).await.unwrap();
    browser.shows("a fourth worker", |text| text.contains(HOSTILE)).await;
    assert_eq!(browser.value("document.querySelectorAll('#live script, #live img').length").await, json!(0));
    assert_eq!(browser.value("document.title").await, json!("mlx cluster"));
    guest.publish(&subjects::WORKER_DEREGISTER, &WorkerDeregistration::new(id)).await.unwrap();
    browser.shows("a worker that left", |text| text.contains(" left")).await;
    let lost = gateway.workers.keys().next().unwrap().clone();
    gateway.kill(&lost).await;
    browser.shows("a lost worker", |text| text.contains(&format!("({}) was lost", &lost[..8]))).await;
    assert_eq!(browser.value("document.querySelectorAll('tbody tr').length").await, json!(2));

    // At work, for the picture.
    let clients: Vec<Child> = (0..3).map(|_| endless(&models, &gateway)).collect();
    browser.shows("tokens", |text| !text.contains("Tokens a second\n0\n")).await;
    gateway
        .eventually("a rate that has settled", async || gateway.metric("mlx_gateway_tokens_total").await > Some(400.0))
        .await;
    browser.screenshot("joined-and-left").await;
    drop(clients);

    // The bus goes away.
    server.stop(LIMIT).await.unwrap();
    let text = browser.shows("a bus that is gone", |text| text.contains("The message bus is gone since")).await;
    assert_eq!(text.matches("not known").count(), 2, "{text}");
    let refused = gateway.get("/healthz").await;
    assert_eq!((refused.0, &refused.1["status"]), (503, &json!("unavailable")), "{}", refused.1);
    browser.screenshot("outage").await;
    tokio::time::sleep(OUTAGE).await; // the outage itself
    assert_eq!(browser.text().await.matches("not known").count(), 2, "nobody is dead because nobody can be heard");

    let server = EmbeddedServer::start(&config).await.unwrap();
    let text = browser
        .shows("the bus and its workers", |text| {
            text.contains("the message bus is back") && text.matches("online").count() == 2
        })
        .await;
    assert!(!text.contains("The message bus is gone since") && !text.contains("not known"), "{text}");
    assert_eq!(text.matches("was lost").count(), 1, "{text}");
    let rates =
        browser.value("[...document.querySelectorAll('tbody td:nth-of-type(4)')].map((cell) => cell.innerText)").await;
    assert_eq!(rates, json!(["0", "0"]), "what a worker said before the outage is long over");
    // The controller may be back before a worker is, whose next attempt is due when it is due.
    gateway
        .eventually("an answer", async || gateway.post("/v1/chat/completions", &chat("tiny", "hi")).await.0 == 200)
        .await;
    browser.screenshot("after-the-outage").await;

    // So does the controller, and another one takes its place.
    let address = gateway.address().to_owned();
    assert_eq!(gateway.end("-KILL").await, None);
    browser.shows("a controller that is gone", |text| text.contains("The controller does not answer")).await;
    let _gateway = GatewayProcess::start_at(&address, 1, &["--engine", &engine], &environment).await;
    browser.shows("another controller", |text| !text.contains("does not answer") && text.contains("online")).await;
    server.stop(LIMIT).await.unwrap();
}

#[tokio::test]
async fn chromium_can_read_the_page_without_scripts_and_on_a_narrow_screen() {
    let gateway = GatewayProcess::of_stand_ins(2, 100).await;
    let mut browser = Browser::start().await;
    browser.looks(360, 760, "dark").await;
    browser.open(&gateway.url("/")).await;
    browser.shows("two workers", |text| text.matches("online").count() == 2).await;
    let overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
    assert_eq!(browser.value(overflow).await, json!(0), "the page itself must not scroll sideways");
    let background = browser.value("getComputedStyle(document.body).backgroundColor").await;
    assert_eq!(background, json!("rgb(18, 22, 28)"), "dark");
    browser.screenshot("narrow-and-dark").await;

    let mut plain = Browser::start().await;
    plain.without_scripts().await;
    plain.open(&gateway.url("/")).await;
    plain.shows("two workers", |text| text.matches("online").count() == 2).await;
    let written = plain.value("document.querySelector('footer').innerText").await;
    plain.shows("a page that is fetched again", |text| !text.contains(written.as_str().unwrap())).await;
}

#[tokio::test]
async fn chromium_shows_curves_the_load_who_waits_and_why_a_worker_is_degraded() {
    let models = ModelServer::start();
    models.set_health(200);
    models.set_pace(Duration::from_millis(25));
    let engine = format!("openai={}", models.url());
    let gateway = GatewayProcess::start(1, &["--engine", &engine], &[("MLX_WORKER__MAX_CONCURRENT", "1")]).await;
    let mut browser = Browser::start().await;
    browser.open(&gateway.url("/")).await;
    browser.shows("a worker with room", |text| text.contains("0 of 1")).await;
    assert_eq!(browser.value("document.querySelectorAll('.curves svg path').length").await, json!(3));

    let clients: Vec<Child> = (0..2).map(|_| endless(&models, &gateway)).collect();
    let text = browser.shows("one that waits", |text| text.contains("1 wait")).await;
    assert!(text.contains("1 of 1") && text.contains("for tiny (1)"), "{text}");
    let rate = "document.querySelector('.curves figure strong').innerText";
    gateway.eventually("a curve that rises", async || browser.value(rate).await != json!("0.0")).await;
    let first = "document.querySelectorAll('.curves strong')[2].innerText";
    assert_ne!(browser.value(first).await, json!("–"), "the time to the first token");
    drop(clients);

    models.set_health(503);
    let text = browser.shows("why it is degraded", |text| text.contains("says that it is not well")).await;
    assert!(text.contains("degraded"), "{text}");
    browser.screenshot("degraded").await;
}

/// A client with an answer that goes on.
fn endless(models: &ModelServer, gateway: &GatewayProcess) -> Child {
    models.answer_next(mlx_tests::Answer::endless());
    gateway.asking("/v1/chat/completions", &chat_with("tiny", "go on", &json!({ "stream": true }))).spawn().unwrap()
}

fn registration(worker_id: WorkerId) -> WorkerRegistration {
    WorkerRegistration::new(
        worker_id,
        HOSTILE,
        "127.0.0.1".parse().unwrap(),
        8080,
        ModelSkills::new(["<b>bold</b>"]).model_paths(std::collections::BTreeMap::new()),
    )
}
