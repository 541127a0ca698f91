//! X1: a secret goes in, and is looked for in everything that comes out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::error::Error as StdError;
use std::fmt::{Debug, Write as _};
use std::process::Command;

use mlx_errors::{Error, ErrorCode};
use mlx_nats::{Client, ClientOptions, CloseReason, ConnectionState};
use mlx_tests::{LIMIT, TestServer, captured_log, millis, within};
use mlx_types::config::NatsConfig;

/// The beginning of every secret here, and of nothing else.
const CANARY: &str = "canary";

/// What a user may get to see, besides the log.
#[derive(Default)]
struct Seen(String);

impl Seen {
    fn value(&mut self, value: &dyn Debug) {
        writeln!(self.0, "{value:?} {value:#?}").unwrap();
    }

    fn error(&mut self, error: &Error) {
        self.value(error);
        writeln!(self.0, "{}", serde_json::to_string(error).unwrap()).unwrap();
        writeln!(self.0, "{}", serde_json::to_string(&error.to_remote()).unwrap()).unwrap();
        let mut next: Option<&dyn StdError> = Some(error);
        while let Some(error) = next {
            writeln!(self.0, "{error} {error:?} {error:#?}").unwrap();
            next = error.source();
        }
    }

    /// Holds when none of it, and nothing in the log, has the canary.
    #[track_caller]
    fn is_clean(&self) {
        let log = captured_log().text();
        for told in [&self.0, &log] {
            if let Some(line) = told.lines().find(|line| line.contains(CANARY)) {
                panic!("a secret was shown: {line}");
            }
        }
        for proof in ["async_nats", "mlx_nats", "mlx_embedded", "connected to NATS"] {
            assert!(log.contains(proof), "the log was not captured: nothing of {proof}");
        }
    }
}

/// A server that wants `user` and `password` of the settings, or else the token.
async fn server(user: Option<&str>, secret: &str, port: u16) -> TestServer {
    TestServer::start_with(|config| {
        config.embedded.port = port;
        match user {
            Some(_) => {
                config.user = user.map(str::to_owned);
                config.password = Some(secret.into());
            }
            None => config.token = Some(secret.into()),
        }
    })
    .await
}

/// The client's settings, with the secret where each of the four ways has it.
fn configs(server: &TestServer, user: Option<&str>, secret: &str) -> [NatsConfig; 2] {
    let address = server.embedded().client_addr();
    let mut bare = server.config();
    (bare.user, bare.password, bare.token) = (None, None, None);
    let in_settings = match user {
        Some(user) => bare.clone().user(user).password(secret),
        None => bare.clone().token(secret),
    };
    let userinfo = user.map(|user| format!("{user}:")).unwrap_or_default();
    let url = format!("nats://{userinfo}{secret}@{address}").parse().unwrap();
    [in_settings, bare.server_url(url)]
}

/// A client's whole life with each kind of credential: connection, refusal, crash, return, change of password, end.
async fn life(user: Option<&str>, secret: &str) {
    captured_log();
    let mut seen = Seen::default();
    let first = server(user, secret, 0).await;
    seen.value(&first);
    let pid = first.embedded().pid().unwrap().to_string();
    let arguments = Command::new("ps").args(["-o", "args=", "-p", &pid]).output().unwrap().stdout;
    assert!(!arguments.is_empty());
    seen.value(&String::from_utf8(arguments).unwrap());

    let mut clients = Vec::new();
    for config in configs(&first, user, secret) {
        seen.value(&config);
        writeln!(seen.0, "{}", serde_json::to_string(&config).unwrap()).unwrap();
        let config = config.max_reconnect_attempts(1000);
        let client = Client::connect_with(&config, ClientOptions::default().name("c")).await.unwrap();
        seen.value(&client);
        seen.value(&client.subscribe::<_, u32>("lab.test").await.unwrap());
        seen.error(&client.request::<_, _, u32>("lab.nobody", &1).await.unwrap_err());
        clients.push(client);
    }
    for config in configs(&first, user, &format!("{secret}-wrong")) {
        let error = Client::connect(&config).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NatsAuthentication);
        seen.error(&error);
    }

    // A crash, and the return of the same server.
    let mut states: Vec<_> = clients.iter().map(Client::watch_state).collect();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    for (state, client) in states.iter_mut().zip(&clients) {
        // By its epoch: with two of them, one may be back before it is looked at.
        let back = |state: &ConnectionState| matches!(state, ConnectionState::Connected { epoch } if *epoch > 1);
        within("the return", state.wait_for(back)).await.unwrap();
        seen.value(client);
    }

    // Another password behind the same address, and then nobody at all.
    let port = first.embedded().client_addr().port();
    let gone = configs(&first, user, secret);
    first.stop().await;
    let second = server(user, &format!("{secret}-changed"), port).await;
    for (state, client) in states.iter_mut().zip(&clients) {
        let closed = within("the end", state.wait_for(ConnectionState::is_closed)).await.unwrap().clone();
        assert_eq!(closed, ConnectionState::Closed { reason: CloseReason::Authentication });
        seen.error(&client.publish("lab.test", &1).await.unwrap_err());
        seen.value(client);
    }
    second.stop().await;
    for config in gone {
        let config = config.connect_timeout_ms(millis(2000));
        let error = Client::connect(&config).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::NatsConnection);
        seen.error(&error);
    }
    drop(clients);
    seen.is_clean();
}

#[tokio::test]
async fn x1_a_password_is_never_shown() {
    life(Some("ann"), "canary-p4ssword").await;
}

#[tokio::test]
async fn x1_a_token_is_never_shown() {
    life(None, "canary-t0ken").await;
}

#[tokio::test]
async fn x1_a_seed_is_never_shown() {
    captured_log();
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start().await;
    let client = server.client().await; // for something to be logged, whatever happens below
    let pair = nkeys::KeyPair::new_user();
    let secret = pair.seed().unwrap();
    let mut seen = Seen::default();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    std::fs::write(&good, &secret).unwrap();
    std::fs::write(&bad, format!("{CANARY}{secret}")).unwrap();
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\n{CANARY}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n\
         {CANARY}{secret}\n------END USER NKEY SEED------\n"
    );
    let credentials_file = folder.path().join("credentials");
    std::fs::write(&credentials_file, credentials).unwrap();
    let with_seed = |file| server.config().nkey_seed_file(file);
    let with_file = server.config().credentials_file(credentials_file);
    let client_of_seed = Client::connect(&with_seed(good)).await.unwrap(); // the server takes anyone
    seen.value(&client_of_seed);
    for config in [with_seed(bad), with_file] {
        seen.value(&config);
        seen.error(&Client::connect(&config).await.unwrap_err());
    }
    client.shutdown(LIMIT).await.unwrap();
    seen.is_clean();
    assert!(!seen.0.contains(&secret) && !captured_log().text().contains(&secret));
}

#[tokio::test]
async fn x1_a_malformed_file_does_not_show_its_secrets() {
    for broken in [
        "reconnect: maybe",
        "pasword: canary-2",
        "servers: nats://a:canary-3@b",
        "token: [canary-4]",
        ": [",
        "serverUrl: \"nats://a:canary-5 x@b\"",
        "serverUrl: nats://a:x\"canary-6@b",
        "servers: [\"nats://a:x canary-7@b\"]",
    ] {
        let text = format!("nats:\n  user: ann\n  password: canary-1\n  {broken}\n");
        let error = mlx_config::Loader::new().text("cluster.yaml", &text).without_env().load().unwrap_err();
        let mut seen = Seen::default();
        seen.error(&error);
        let line = seen.0.lines().find(|line| line.contains(CANARY));
        assert!(line.is_none(), "a secret was shown: {line:?}");
    }
}
