//! What the keys of `controller` do.

use crate::support::{Home, QUICK, curl, free_port, json_of};

fn both(controller: &str) -> Home {
    Home::with(&format!(
        "nats: {{ embedded: {{ port: 0, httpPort: 0 }} }}\ncontroller: {{ enabled: true, {controller} }}\n{QUICK}"
    ))
}

#[tokio::test]
async fn p3_the_gateway_listens_where_its_keys_say() {
    let (port, page) = (free_port(), free_port());
    let home = both(&format!("bindAddress: 127.0.0.1, port: {port}, dashboardPort: {page}"));
    let node = home.run(&[]);
    assert_eq!(node.gateway().await, format!("127.0.0.1:{port}"));
    assert_eq!(
        node.says("the page is at ").await,
        format!("http://127.0.0.1:{page}/, OpenAI's protocol at http://127.0.0.1:{port}/v1")
    );
    let shown = curl(&[&format!("http://127.0.0.1:{page}/")]).await;
    assert!(shown.0 == 200 && shown.1.contains("<title>mlx cluster</title>"), "{}", shown.1);
    assert_eq!(curl(&[&format!("http://127.0.0.1:{page}/v1/models")]).await.0, 404, "the page's port has no API");
    let (status, moved) = curl(&["--head", &format!("http://127.0.0.1:{port}/")]).await;
    assert!(status == 307 && moved.contains(&format!("location: http://127.0.0.1:{page}/")), "{moved}");
    for address in [port, page] {
        assert_eq!(curl(&[&format!("http://127.0.0.1:{address}/metrics")]).await.0, 200);
    }
    assert_eq!(node.end("-TERM").await, Some(0));

    let home = both(&format!("bindAddress: 127.0.0.1, port: {port}, dashboardPort: {port}"));
    let node = home.run(&[]);
    node.gateway().await;
    for path in ["", "v1/models"] {
        assert_eq!(curl(&[&format!("http://127.0.0.1:{port}/{path}")]).await.0, 200, "both in one place");
    }
}

#[tokio::test]
async fn p3_keys_hosts_and_origins_say_who_may_ask() {
    let keys = "apiKeys: [first-canary, second-canary], allowHosts: [GPU.example.org.], allowOrigins: [\"https://chat.example.org\"]";
    let home = both(keys);
    let node = home.run(&["--listen", "127.0.0.1:0"]);
    let gateway = node.gateway().await;
    let models = format!("http://{gateway}/v1/models");
    let with = async |header: &str| curl(&["--header", header, &models]).await;
    let (status, refusal) = curl(&["--include", &models]).await;
    assert_eq!(status, 401);
    assert!(refusal.contains("www-authenticate: Bearer") && refusal.contains("invalid_api_key"), "{refusal}");
    assert!(refusal.contains("controller.apiKeys") && !refusal.contains("canary"), "{refusal}");
    assert_eq!(with("authorization: Bearer third").await.0, 401);
    assert_eq!(with("authorization: Bearer second-canary").await.0, 200);
    for open in ["healthz", "metrics", ""] {
        assert_ne!(curl(&[&format!("http://{gateway}/{open}")]).await.0, 401, "{open} shows no prompt");
    }
    assert!(!node.logged().contains("canary"), "{}", node.logged());

    let right = "authorization: Bearer first-canary";
    let host = async |name: &str| curl(&["--header", right, "--header", &format!("host: {name}"), &models]).await.0;
    assert_eq!((host("gpu.example.org").await, host("evil.example").await), (200, 403));

    // What a browser asks first for another site's page, which has no key yet.
    let preflight = async |origin: &str| {
        let origin = format!("origin: {origin}");
        let asked = ["--include", "--request", "OPTIONS", "--header", &origin];
        let about = [
            "--header",
            "access-control-request-method: POST",
            "--header",
            "access-control-request-headers: authorization",
        ];
        curl(&[&asked[..], &about, &[&models]].concat()).await.1
    };
    let allowed = preflight("https://chat.example.org").await;
    assert!(allowed.contains("access-control-allow-origin: https://chat.example.org"), "{allowed}");
    assert!(allowed.to_lowercase().contains("access-control-allow-headers: authorization"), "{allowed}");
    let other = preflight("https://evil.example").await;
    assert!(!other.contains("access-control-allow-origin: https://evil"), "{other}");
}

#[tokio::test]
async fn p3_a_bind_that_others_reach_without_keys_is_said_to_be_open() {
    let port = free_port();
    let home = both(&format!("bindAddress: 0.0.0.0, port: {port}, dashboardPort: {port}"));
    let node = home.run(&[]);
    node.says("whoever reaches this address may use the cluster").await;
    mlx_tests::eventually("a warning", || node.logged().contains("set `controller.apiKeys`")).await;
    drop(node);
    let home = both(&format!("bindAddress: 0.0.0.0, port: {port}, dashboardPort: {port}, apiKeys: [k]"));
    let node = home.run(&[]);
    node.says(" is ready").await;
    assert!(
        !node.said().contains("whoever reaches") && !node.logged().contains("controller.apiKeys"),
        "{}",
        node.logged()
    );
}

#[tokio::test]
async fn p3_metrics_hold_the_series_of_the_client_too() {
    let home = both("bindAddress: 127.0.0.1");
    let node = home.run(&["--listen", "127.0.0.1:0"]);
    let gateway = node.gateway().await;
    node.says(" is ready").await;
    let chat = crate::support::chat(false);
    let (status, answer) = curl(&["--json", &chat, &format!("http://{gateway}/v1/chat/completions")]).await;
    assert!(status == 200 && json_of(&answer)["object"] == "chat.completion", "{answer}");
    let page = curl(&[&format!("http://{gateway}/metrics")]).await.1;
    let metric = |name: &str| crate::support::metric(&page, name).unwrap_or_else(|| panic!("{name}: {page}"));
    assert!((metric("mlx_gateway_requests_total{outcome=\"answered\"}") - 1.0).abs() < 0.1);
    assert!(metric("mlx_nats_stream_tokens_total") > 10.0);
    assert!(metric("mlx_nats_published_messages_total") > 1.0);
    assert!((metric("mlx_gateway_first_token_seconds_count") - 1.0).abs() < 0.1);
    assert!(page.contains("# HELP mlx_nats_streams_total"), "{page}");
}
