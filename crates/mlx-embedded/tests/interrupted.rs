//! Calls that are dropped in the middle, and servers that are dropped while they hang: in every kind of runtime, and in none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use mlx_embedded::EmbeddedServer;
use mlx_nats::Client;
use mlx_types::Secret;
use mlx_types::config::NatsConfig;
use rustix::process::Signal;
use support::{any_port, is_running, signal, until};
use tokio::runtime::{Builder, Runtime};

const LIMIT: Duration = Duration::from_secs(30);

fn with_password(config: &NatsConfig, password: &str) -> NatsConfig {
    config.clone().user("ann").password(Secret::new(password.to_owned()))
}

fn runtimes() -> [Runtime; 2] {
    let one = Builder::new_current_thread().enable_all().build().unwrap();
    let many = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    [one, many]
}

/// Polls a future once, without any runtime around it, and drops it.
fn begun<F: Future>(future: F) {
    let polled = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "it was done at once");
}

async fn connects(server: &EmbeddedServer) -> bool {
    Client::connect(&server.client_config()).await.is_ok()
}

#[test]
fn a_reload_that_is_dropped_in_the_middle_leaves_server_and_clients_with_one_password() {
    for runtime in runtimes() {
        let config = with_password(&any_port(), "first");
        let mut server = runtime.block_on(EmbeddedServer::start(&config)).unwrap();
        for (round, password) in ["second", "third", "fourth", "fifth"].into_iter().enumerate() {
            let changed = with_password(&config, password);
            match round {
                // At its beginning, in no runtime at all.
                0 => begun(server.reload(&changed)),
                // While the server does not answer.
                1 => {
                    let pid = server.pid().unwrap();
                    signal(pid, Signal::STOP);
                    runtime.block_on(async {
                        let impatient = tokio::time::timeout(Duration::from_millis(200), server.reload(&changed));
                        impatient.await.expect_err("a server that is stopped has reloaded");
                    });
                    signal(pid, Signal::CONT);
                }
                // Behind some of its steps.
                _ => runtime.block_on(async {
                    let mut reload = pin!(server.reload(&changed));
                    for _ in 0..round {
                        let polled = std::future::poll_fn(|context| Poll::Ready(reload.as_mut().poll(context))).await;
                        assert!(polled.is_pending(), "it was done at once");
                        tokio::task::yield_now().await;
                    }
                }),
            }
            until(LIMIT, "the new password is in force", || {
                server.client_config().password.is_some_and(|now| now.expose() == password)
            });
            assert!(runtime.block_on(connects(&server)), "round {round}");
        }
        // The next one finds everything as it should be.
        let last = with_password(&config, "last");
        runtime.block_on(server.reload(&last)).unwrap();
        assert!(runtime.block_on(connects(&server)));
    }
}

#[test]
fn a_reload_that_is_not_confirmed_leaves_server_and_clients_with_the_password_of_before() {
    let [runtime, _] = runtimes();
    let config = with_password(&any_port(), "first");
    let mut server = runtime.block_on(EmbeddedServer::start(&config)).unwrap();
    let pid = server.pid().unwrap();
    signal(pid, Signal::STOP);
    let error = runtime.block_on(server.reload(&with_password(&config, "second"))).unwrap_err();
    assert!(error.to_string().contains("did not confirm"), "{error}");
    signal(pid, Signal::CONT);
    until(LIMIT, "it answers again", || runtime.block_on(connects(&server)));
    // It has read its settings anew by now, and they are those of before.
    runtime.block_on(server.reload(&with_password(&config, "third"))).unwrap();
    assert!(runtime.block_on(connects(&server)));
}

#[test]
fn dropping_a_server_during_a_reload_that_hangs_blocks_nobody() {
    for runtime in runtimes() {
        let config = with_password(&any_port(), "first");
        let mut server = runtime.block_on(EmbeddedServer::start(&config)).unwrap();
        let pid = server.pid().unwrap();
        signal(pid, Signal::STOP);
        let changed = with_password(&config, "second");
        runtime.block_on(async {
            let impatient = tokio::time::timeout(Duration::from_millis(100), server.reload(&changed));
            impatient.await.expect_err("a server that is stopped has reloaded");
            let began = Instant::now();
            drop(server);
            assert!(began.elapsed() < Duration::from_millis(1_500), "it took {:?}", began.elapsed());
        });
        until(LIMIT, "the process is gone", || !is_running(pid));
    }
}

#[test]
fn stopping_a_server_during_a_reload_that_hangs_keeps_its_deadline() {
    let [runtime, _] = runtimes();
    let config = with_password(&any_port(), "first");
    let mut server = runtime.block_on(EmbeddedServer::start(&config)).unwrap();
    let pid = server.pid().unwrap();
    signal(pid, Signal::STOP);
    begun(server.reload(&with_password(&config, "second")));
    let began = Instant::now();
    runtime.block_on(server.stop(Duration::from_millis(500))).unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "it took {:?}", began.elapsed());
    assert!(!is_running(pid));
}

#[test]
fn a_start_or_a_stop_that_is_dropped_in_the_middle_leaves_no_process() {
    for runtime in runtimes() {
        let server = runtime.block_on(EmbeddedServer::start(&any_port())).unwrap();
        let pid = server.pid().unwrap();
        // Without a runtime around it. On a busy machine the server may be gone before this looks.
        let _ = pin!(server.stop(LIMIT)).poll(&mut Context::from_waker(Waker::noop()));
        until(LIMIT, "the process is gone", || !is_running(pid));

        begun(EmbeddedServer::start(&any_port()));
        for delay in [1, 5, 10, 20] {
            runtime.block_on(async {
                let limit = Duration::from_millis(delay);
                let _ = tokio::time::timeout(limit, EmbeddedServer::start(&any_port())).await;
                let _ = tokio::time::timeout(limit, mlx_embedded::connect(&any_port())).await;
            });
        }
        until(LIMIT, "no child is left", || children().is_empty());
    }
}

#[test]
fn a_node_whose_shutdown_is_dropped_leaves_no_process() {
    for runtime in runtimes() {
        let node = runtime.block_on(mlx_embedded::connect(&any_port())).unwrap();
        let pid = node.server().unwrap().pid().unwrap();
        runtime.block_on(async { begun(node.shutdown(LIMIT)) });
        until(LIMIT, "the process is gone", || !is_running(pid));
    }
}

/// The processes that this one has started and that still run. Each test has a process of its own under nextest; without it,
/// those of other tests are among them.
fn children() -> Vec<u32> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ')).into_iter().flatten();
        let (state, parent) = (fields.next(), fields.next());
        state.is_some_and(|state| state != "Z") && parent == Some(own.as_str())
    })
    .collect()
}
