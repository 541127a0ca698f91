//! Several servers, some of which refuse the credentials.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use mlx_errors::ErrorCode;
use mlx_nats::{Client, CloseReason, ConnectionEvent, ConnectionEvents};
use mlx_tests::{FaultProxy, LIMIT, TestServer, millis, within};
use mlx_types::config::{NatsConfig, NatsMode};

const RIGHT: &str = "right-s3cret";
const WRONG: &str = "another-s3cret";

/// A server that takes `password`, on `port`, or on any for 0.
async fn server(password: &str, port: u16) -> TestServer {
    TestServer::start_with(|config| {
        config.embedded.port = port;
        config.user = Some("ann".to_owned());
        config.password = Some(password.to_owned().into());
    })
    .await
}

fn port(server: &TestServer) -> u16 {
    server.embedded().client_addr().port()
}

fn url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

/// A client's settings, with the right password, for the servers of `ports`.
fn config(ports: &[u16]) -> NatsConfig {
    NatsConfig::default()
        .mode(NatsMode::External)
        .servers(ports.iter().map(|port| url(*port).parse().unwrap()))
        .user("ann")
        .password(RIGHT)
        .max_reconnect_attempts(1000)
        .reconnect_time_wait(millis(20))
}

async fn next(events: &mut ConnectionEvents) -> ConnectionEvent {
    within("an event", events.next()).await.expect("more events")
}

fn is_refusal(error: &str) -> bool {
    error.contains("authorization violation")
}

#[tokio::test]
async fn c7_one_server_that_refuses_does_not_keep_the_client_from_another() {
    let (first, second) = (server(RIGHT, 0).await, server(RIGHT, 0).await);
    let ports = [port(&first), port(&second)];
    let client = Client::connect(&config(&ports)).await.unwrap();
    let mut events = client.events();
    first.stop().await;
    second.stop().await;
    let _refusing = server(WRONG, ports[0]).await;
    let mut refusals = 0;
    while refusals < 2 {
        match next(&mut events).await {
            ConnectionEvent::AttemptFailed { server, error, .. } if is_refusal(&error) => {
                assert_eq!(server, url(ports[0]));
                refusals += 1;
            }
            ConnectionEvent::Closed { reason } => panic!("closed ({reason}) though a server may come back"),
            _ => {}
        }
    }
    // From here on it is not asked any more, however often the other one fails.
    for _ in 0..3 {
        let ConnectionEvent::AttemptFailed { server, error, .. } = next(&mut events).await else { continue };
        assert_eq!((server, is_refusal(&error)), (url(ports[1]), false));
    }
    let _taking = server(RIGHT, ports[1]).await;
    loop {
        if let ConnectionEvent::Connected { server, epoch, .. } = next(&mut events).await
            && epoch > 1
        {
            assert_eq!(server, url(ports[1]));
            break;
        }
    }
    client.flush(LIMIT).await.unwrap();
}

#[tokio::test]
async fn c7_when_all_servers_refuse_twice_the_client_is_closed() {
    let (first, second) = (server(RIGHT, 0).await, server(RIGHT, 0).await);
    let ports = [port(&first), port(&second)];
    let client = Client::connect(&config(&ports)).await.unwrap();
    let events = client.events();
    first.stop().await;
    second.stop().await;
    let _refusing = (server(WRONG, ports[0]).await, server(WRONG, ports[1]).await);
    let events: Vec<_> = within("the end", events.collect()).await;
    let Some(ConnectionEvent::Closed { reason: CloseReason::Authentication }) = events.last() else {
        panic!("{events:?}")
    };
    let mut refusals = BTreeMap::<String, u32>::new();
    for event in events {
        if let ConnectionEvent::AttemptFailed { server, error, .. } = event
            && is_refusal(&error)
        {
            *refusals.entry(server).or_default() += 1;
        }
    }
    assert_eq!(refusals, ports.map(|port| (url(port), 2)).into());
}

#[tokio::test]
async fn c7_a_closed_client_never_knocks_again() {
    for attempts in [10, 100_000] {
        let right = server(RIGHT, 0).await;
        let proxy = FaultProxy::start(&right).await;
        let settings = config(&[]).max_reconnect_attempts(attempts).reconnect_time_wait(millis(1));
        let client = Client::connect(&proxy.in_front(settings)).await.unwrap();
        let events = client.events();
        let port = port(&right);
        right.stop().await;
        proxy.refuse(true);
        let _refusing = server(WRONG, port).await;
        proxy.refuse(false);
        let told: Vec<_> = within("the end", events.collect()).await;
        let knocks = proxy.accepted();
        match told.last() {
            Some(ConnectionEvent::Closed { reason: CloseReason::Authentication }) => {}
            // Ten attempts may be over before the server is back.
            Some(ConnectionEvent::Closed { reason: CloseReason::GaveUp { attempts: 10 } }) if attempts == 10 => {}
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(300)).await; // many times what lay between two attempts
        assert_eq!(proxy.accepted(), knocks);
    }
}

#[tokio::test]
async fn connecting_finds_the_one_server_that_takes_the_credentials() {
    let (refusing, taking) = (server(WRONG, 0).await, server(RIGHT, 0).await);
    for _ in 0..10 {
        let client = Client::connect(&config(&[port(&refusing), port(&taking)])).await.unwrap();
        let Some(ConnectionEvent::Connected { server, .. }) = client.events().next().await else { panic!("no event") };
        assert_eq!(server, url(port(&taking)));
    }
    taking.stop().await;
    let error = Client::connect(&config(&[port(&refusing), 1])).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NatsAuthentication, "it says more than that another server is down");
}
