//! Whom the gateway answers: no page of another site, whatever that has a browser send.

use mlx_tests::within;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::{GatewayProcess, chat, command};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_name_that_another_site_leads_here_is_refused_and_what_to_do_is_said() {
    let gateway = GatewayProcess::of_stand_ins(1, 1000).await;
    for path in ["/", "/live", "/page.js", "/v1/models", "/v1/models/stand-in", "/metrics", "/healthz", "/nothing"] {
        assert_eq!(gateway.status_as("evil.example", path).await, 403, "{path}");
    }
    let body = chat("stand-in", "Hi").to_string();
    let (status, text) = gateway.curl(CHAT, &["--header", "host: evil.example:8080", "--json", &body]).await;
    let error = &serde_json::from_str::<Value>(&text).unwrap()["error"];
    assert_eq!((status, &error["code"]), (403, &json!("host_not_allowed")), "{text}");
    assert_eq!(error["type"], "invalid_request_error");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("`localhost`") && message.contains("`--allow-host evil.example`"), "{message}");

    let machine = Command::new("uname").arg("-n").output().await.unwrap().stdout;
    let machine = String::from_utf8(machine).unwrap().trim().to_owned();
    let in_its_network = format!("{}.local", machine.split('.').next().unwrap());
    for known in
        ["localhost", "LOCALHOST.:8080", "page.localhost", "[::1]:8080", "192.168.1.10", &machine, &in_its_network]
    {
        assert_eq!(gateway.status_as(known, "/v1/models").await, 200, "{known}");
    }
    for unknown in ["localhost.evil.example", "127.0.0.1.evil.example", "local", &format!("{machine}.evil.example")] {
        assert_eq!(gateway.status_as(unknown, "/v1/models").await, 403, "{unknown}");
    }
    let figures = gateway.text("/metrics").await;
    assert!(!figures.contains("mlx_gateway_requests_total{"), "one reached the workers: {figures}");
}

#[tokio::test]
async fn allowed_names_are_served_and_no_others() {
    let allowed = ["--allow-host", "GPU.example.org.", "--allow-host", "host.docker.internal"];
    for listen in ["127.0.0.1:0", "0.0.0.0:0"] {
        let gateway = GatewayProcess::start_at(listen, 0, &allowed, &[]).await;
        for known in ["gpu.example.org", "gpu.EXAMPLE.org.:443", "host.docker.internal:8080", "localhost", "127.0.0.1"]
        {
            assert_eq!(gateway.status_as(known, "/v1/models").await, 200, "{known} at {listen}");
        }
        for unknown in ["evil.example", "a.gpu.example.org", "example.org"] {
            assert_eq!(gateway.status_as(unknown, "/v1/models").await, 403, "{unknown} at {listen}");
        }
    }
}

#[tokio::test]
async fn where_other_machines_may_ask_any_name_will_do() {
    let gateway = GatewayProcess::start_at("0.0.0.0:0", 0, &[], &[]).await;
    assert_eq!(gateway.status_as("gpu.example.org", "/v1/models").await, 200);
    assert_eq!(
        gateway.status_as("gpu.example.org:http", "/v1/models").await,
        400,
        "a host that is none is refused here too"
    );
}

#[tokio::test]
async fn a_request_says_once_and_in_order_which_host_it_is_for() {
    let gateway = GatewayProcess::start(0, &[], &[]).await;
    let refused =
        ["", "host:\r\n", "host: localhost:http\r\n", "host: me@localhost\r\n", "host: [::1\r\n", "host: \u{e9}\r\n"];
    let twice = "host: localhost\r\nhost: localhost\r\n";
    for hosts in refused.into_iter().chain([twice]) {
        let mut connection = TcpStream::connect(gateway.address()).await.unwrap();
        let request = format!("GET /v1/models HTTP/1.1\r\nconnection: close\r\n{hosts}\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("an answer", connection.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("one header `host`"), "{hosts:?}: {answer}");
    }
    // The rest of these tests ask in HTTP/1.0 without one.
    assert_eq!(gateway.get("/v1/models").await.0, 200);
}

#[tokio::test]
async fn what_a_browser_sends_for_any_page_without_asking_first_is_not_answered() {
    let gateway = GatewayProcess::of_stand_ins(1, 1000).await;
    let body = chat("stand-in", "Hi").to_string();
    let post =
        async |kind: &str| gateway.curl(CHAT, &["--data", &body, "--header", &format!("content-type:{kind}")]).await;
    // The last but one has curl send none.
    for simple in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/plain;application/json",
        "",
        "json",
    ] {
        let (status, text) = post(simple).await;
        assert!(status == 415 && text.contains("content-type: application/json"), "{simple}: {status} {text}");
    }
    for json in ["application/json", "Application/JSON; charset=utf-8"] {
        assert_eq!(post(json).await.0, 200, "{json}");
    }
    let asked = ["--request", "OPTIONS", "--include", "--header", "origin: http://evil.example"];
    let (status, text) =
        gateway.curl(CHAT, &[&asked[..], &["--header", "access-control-request-method: POST"]].concat()).await;
    assert!(status == 405 && !text.to_lowercase().contains("access-control-"), "{text}");
}

#[tokio::test]
async fn an_allowed_host_that_is_no_name_is_a_mistake_of_the_command_line() {
    for wrong in
        ["", ".", "*.example.org", "http://gpu.example.org", "gpu.example.org:443", "[::1]", "a..b", "m\u{fc}nchen"]
    {
        let line = ["--listen", "127.0.0.1:0", "--allow-host", wrong];
        let output = within("its end", command(&line).output()).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && said.contains("one host name is needed"), "{wrong}: {said}");
    }
    let output = within("its end", command(&["--allow-host", "gpu", "Hi"]).output()).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("goes with --listen"), "{said}");
}
