//! The key of a model server, which nobody but that server may see.

use mlx_errors::ErrorKind;
use mlx_tests::{Answer, ModelServer, eventually, mlx_node, shipped_config};

use crate::support::Scene;

const KEY: &str = "sk-canary-7Gd2pQ";

#[tokio::test]
async fn x1_a_key_reaches_the_server_and_no_log_error_or_command_line() {
    let models = ModelServer::start();
    models.require_key(KEY);
    let scene = Scene::with(models, &["--verbose"], &[("OPENAI_API_KEY", KEY), ("MLX_LOG", "trace")]).await;
    assert_eq!(scene.answer().await.text(), "You said: hello there");
    assert_eq!(scene.models.requests()[0].authorization.as_deref(), Some(format!("Bearer {KEY}").as_str()));

    // Some servers repeat what they were sent.
    scene.models.answer_next(Answer::refusal(400, &format!("{KEY} has no right to this model")));
    let error = serde_json::json!({ "error": { "message": format!("{KEY} has expired") } });
    scene.models.answer_next(Answer::stream().event(&error));
    let repeated = Answer::refusal(429, "x").with_header("retry-after", KEY);
    scene.models.answer_next(repeated);
    for words in ["[redacted] has no right", "[redacted] has expired", "again after: [redacted]"] {
        let (_, error) = scene.failure().await;
        assert!(error.to_string().contains(words), "{error}");
        assert!(!format!("{error:?}").contains(KEY), "{error:?}");
    }
    // Whatever else goes wrong.
    scene.models.require_key("another");
    let (_, error) = scene.failure().await;
    assert!(error.is_retryable() && error.to_string().contains("refuses the key in OPENAI_API_KEY"), "{error}");

    let command_line = std::fs::read(format!("/proc/{}/cmdline", scene.worker.pid()));
    assert!(!command_line.is_ok_and(|line| String::from_utf8_lossy(&line).contains(KEY)));
    let log = scene.worker.log();
    assert!(log.contains("\"level\"") && !log.contains(KEY), "{log}");
    scene.end().await;
}

#[tokio::test]
async fn a_server_that_wants_a_key_says_so_in_the_workers_log() {
    let models = ModelServer::start();
    models.require_key(KEY);
    let scene = Scene::before_models(models, &[], &[]).await;
    eventually("a line in the log", || scene.worker.log().contains("wants a key in OPENAI_API_KEY")).await;
    let (_, error) = scene.failure().await;
    let ErrorKind::Remote(remote) = error.kind() else { panic!("{error}") };
    assert_eq!(remote.code(), "WORKER_UNAVAILABLE");
    scene.end().await;
}

#[test]
fn a_key_that_cannot_be_used_ends_a_worker_with_its_reason() {
    let with_password = ["--engine", "openai=http://user:canary@127.0.0.1:1/v1"];
    let with_key = ["--engine", "openai=http://127.0.0.1:1/v1"];
    for (engine, key, code, words) in [
        (with_password, "", 2, "put the key into OPENAI_API_KEY"),
        (with_key, "two canary\nlines", 1, "a key has no spaces"),
        (["--engine", "ollama"], "", 2, "neither `stand-in` nor `openai=http://HOST:PORT/v1`"),
        (["--engine", "openai=ftp://h/"], "", 2, "begins with `http://` or `https://`"),
    ] {
        let mut worker = mlx_node(&shipped_config());
        let output = worker.args(["run", "--mode", "worker"]).args(engine).env("OPENAI_API_KEY", key).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words) && !said.contains("canary"), "{said}");
    }
}
