//! Starting, sharing a machine with others, and stopping.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mlx_embedded::{Binary, EmbeddedServer, OrphanGuard, ServerState};
use mlx_errors::{ErrorCode, ErrorKind};
use mlx_types::Secret;
use support::{any_port, is_running, until};

const STOP: Duration = Duration::from_secs(5);

/// More than any of what is waited for takes.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn m1_dropping_the_handle_ends_the_server_and_removes_its_folder() {
    for guard in guards() {
        let server = EmbeddedServer::builder(&any_port()).orphan_guard(guard).start().await.unwrap();
        let (pid, folder) = (server.pid().unwrap(), folder_of(server.pid().unwrap()));
        assert!(is_running(pid) && folder.exists());
        drop(server);
        assert!(!is_running(pid) && !folder.exists(), "{guard:?}");
    }
}

#[tokio::test]
async fn clients_are_told_before_a_server_with_notice_ends() {
    let server = EmbeddedServer::start(&any_port()).await.unwrap();
    let (pid, address) = (server.pid().unwrap(), server.client_addr().to_string());
    let (events, mut told) = tokio::sync::mpsc::unbounded_channel();
    let options = async_nats::ConnectOptions::new().event_callback(move |event| {
        let _ = events.send(event);
        std::future::ready(())
    });
    let _client = options.connect(&address).await.unwrap();
    let stopping = tokio::spawn(server.stop_lame_duck(LONG));
    let warned = async { while told.recv().await.unwrap() != async_nats::Event::LameDuckMode {} };
    tokio::time::timeout(LONG, warned).await.expect("a warning");
    assert!(async_nats::connect(&address).await.is_err(), "new clients are turned away");
    let begun = Instant::now();
    stopping.await.unwrap().unwrap();
    assert!(begun.elapsed() < LONG / 2 && !is_running(pid), "it ended by itself");

    // Nobody to tell: nothing to wait for.
    let server = EmbeddedServer::start(&any_port()).await.unwrap();
    let begun = Instant::now();
    server.stop_lame_duck(LONG).await.unwrap();
    assert!(begun.elapsed() < LONG / 2);
}

#[tokio::test]
async fn m1_a_start_given_up_half_way_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let program = support::program(folder.path(), &format!("echo $$ > {}\nexec sleep 600", pid_file.display()));
    let mut config = any_port();
    config.embedded.binary = Some(program);
    let start = EmbeddedServer::start(&config);
    assert!(tokio::time::timeout(Duration::from_millis(500), start).await.is_err(), "it never gets ready");
    let pid = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    until(Duration::from_secs(2), "the half-started server is gone", || !is_running(pid));
}

#[tokio::test]
async fn m2_a_server_it_did_not_start_is_neither_stopped_nor_used() {
    let stranger = support::stranger();
    let mut config = any_port();
    config.embedded.port = stranger.port;
    let error = EmbeddedServer::start(&config).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::EmbeddedServerStart);
    let text = error.to_string();
    assert!(text.contains("another nats-server") && text.contains("nats.embedded.port"), "{text}");
    assert!(is_running(stranger.process.id().unwrap()));
    async_nats::connect(format!("127.0.0.1:{}", stranger.port)).await.unwrap().flush().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn m3_fifty_starts_at_once_take_fifty_ports_and_all_answer() {
    let config = any_port();
    let servers = join_all((0..50).map(|_| EmbeddedServer::start(&config))).await;
    let servers: Vec<EmbeddedServer> = servers.into_iter().map(Result::unwrap).collect();
    let ports: HashSet<u16> = servers
        .iter()
        .flat_map(|server| [server.client_addr().port(), server.monitoring_addr().unwrap().port()])
        .collect();
    assert_eq!(ports.len(), 100);
    for server in &servers {
        async_nats::connect(server.client_addr().to_string()).await.unwrap().flush().await.unwrap();
    }
}

#[tokio::test]
async fn two_hundred_rounds_leave_no_process_file_or_folder() {
    let before = left_behind();
    for round in 0..200 {
        let server = EmbeddedServer::start(&any_port()).await.unwrap();
        let pid = server.pid().unwrap();
        if round % 2 == 0 {
            server.stop(STOP).await.unwrap();
        } else {
            drop(server);
        }
        assert!(!is_running(pid), "round {round}");
    }
    // One of another test is not locked for the moments in which it is made and removed; one that is left behind stays.
    let looked = Instant::now();
    loop {
        let own: Vec<PathBuf> = left_behind().difference(&before).cloned().collect();
        if own.is_empty() {
            break;
        }
        assert!(looked.elapsed() < STOP, "{own:?}");
        tokio::task::yield_now().await;
    }
    assert_eq!(children(), 0);
}

#[tokio::test]
async fn m4_a_failed_start_is_told_within_200_ms_of_the_end() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = any_port();
    config.embedded.port = taken.local_addr().unwrap().port();
    // The search for the binary is not what is measured.
    Binary::find(None).unwrap();
    let begun = Instant::now();
    EmbeddedServer::start(&config).await.unwrap_err();
    // Start and end of the process included, so that this is the stricter test; a stranger that keeps silent costs most.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn m5_loopback_is_the_default_and_a_wide_bind_needs_credentials() {
    let server = EmbeddedServer::start(&any_port()).await.unwrap();
    assert!(server.client_addr().ip().is_loopback());
    assert!(server.monitoring_addr().unwrap().ip().is_loopback());

    let mut config = any_port();
    config.embedded.host = "0.0.0.0".to_owned();
    let error = EmbeddedServer::start(&config).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ConfigValidation);
    let text = error.to_string();
    assert!(text.contains("nats.embedded.host") && text.contains("allowAnonymous"), "{text}");

    config.embedded.allow_anonymous = true;
    let open = EmbeddedServer::start(&config).await.unwrap();
    assert!(open.client_addr().ip().is_loopback(), "a client on this machine goes by loopback");
    assert!(open.monitoring_addr().unwrap().ip().is_loopback(), "monitoring knows no credentials");

    config.embedded.allow_anonymous = false;
    config.user = Some("worker".to_owned());
    config.password = Some(Secret::from("long and secret"));
    let closed = EmbeddedServer::start(&config).await.unwrap();
    let url = closed.client_url().to_string();
    assert!(async_nats::connect(url.as_str()).await.is_err(), "nobody gets in without the password");
    let options = async_nats::ConnectOptions::with_user_and_password("worker".into(), "long and secret".into());
    options.connect(url).await.unwrap().flush().await.unwrap();
}

#[tokio::test]
async fn m5_generated_credentials_are_known_to_the_own_client_alone() {
    let server = EmbeddedServer::builder(&any_port()).generate_credentials().start().await.unwrap();
    let own = server.client_config();
    let (user, password) = (own.user.clone().unwrap(), own.password.clone().unwrap().into_exposed());
    let url = own.server_url.unwrap().to_string();
    assert!(async_nats::connect(url.as_str()).await.is_err());
    let client = async_nats::ConnectOptions::with_user_and_password(user, password.clone()).connect(url).await.unwrap();
    client.flush().await.unwrap();
    // Neither in sight of the other users, nor in the file.
    assert!(!command_line(server.pid().unwrap()).contains(&password));
    let settings = std::fs::read_to_string(folder_of(server.pid().unwrap()).join("nats-server.conf")).unwrap();
    assert!(settings.contains("$2") && !settings.contains(&password), "the password is hashed");
    assert!(!format!("{server:?}").contains(&password));
}

#[tokio::test]
async fn stop_is_in_good_order_and_kills_what_does_not_end_in_time() {
    let server = EmbeddedServer::start(&any_port()).await.unwrap();
    let (pid, mut state) = (server.pid().unwrap(), server.watch_state());
    server.stop(STOP).await.unwrap();
    assert!(!is_running(pid));
    assert!(matches!(*state.borrow_and_update(), ServerState::Stopped));

    let deadline = Duration::from_millis(300);
    let server = EmbeddedServer::start(&any_port()).await.unwrap();
    let pid = server.pid().unwrap();
    // A stopped process hears SIGTERM only when it goes on.
    support::signal(pid, rustix::process::Signal::STOP);
    let begun = Instant::now();
    server.stop(deadline).await.unwrap();
    assert!(!is_running(pid));
    assert!(begun.elapsed() < deadline + Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn dropping_a_stop_half_way_kills_at_once() {
    let server = EmbeddedServer::start(&any_port()).await.unwrap();
    let pid = server.pid().unwrap();
    support::signal(pid, rustix::process::Signal::STOP);
    let begun = Instant::now();
    assert!(tokio::time::timeout(Duration::from_millis(50), server.stop(Duration::from_mins(1))).await.is_err());
    assert!(!is_running(pid));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn a_server_outlives_the_runtime_that_started_it() {
    let server = tokio::runtime::Runtime::new().unwrap().block_on(EmbeddedServer::start(&any_port())).unwrap();
    let pid = server.pid().unwrap();
    support::sigkill(pid);
    // Its supervision goes on too.
    until(Duration::from_secs(5), "another process runs", || server.pid().is_some_and(|again| again != pid));
}

#[tokio::test]
async fn an_interrupt_from_the_terminal_reaches_the_parent_alone() {
    use rustix::process::{Pid, getpgid};
    for guard in guards() {
        let server = EmbeddedServer::builder(&any_port()).orphan_guard(guard).start().await.unwrap();
        let pid = Pid::from_raw(server.pid().unwrap().cast_signed());
        assert_ne!(getpgid(pid).unwrap(), getpgid(None).unwrap(), "{guard:?}");
    }
}

#[tokio::test]
async fn external_mode_and_other_credentials_are_refused() {
    let mut config = any_port();
    config.nkey_seed_file = Some("/nowhere".into());
    config.mode = mlx_types::config::NatsMode::External;
    config.server_url = Some("nats://127.0.0.1:4222".parse().unwrap());
    let error = EmbeddedServer::start(&config).await.unwrap_err();
    let ErrorKind::ConfigValidation { violations } = error.kind() else { panic!("{error:?}") };
    let paths: Vec<&str> = violations.iter().map(|violation| violation.path.as_str()).collect();
    assert_eq!(paths, ["nats.mode", "nats.nkeySeedFile"]);
}

fn guards() -> Vec<OrphanGuard> {
    let mut guards = vec![OrphanGuard::default(), OrphanGuard::Watcher];
    guards.dedup();
    guards
}

/// The private folder of the server `pid`, as its command line tells.
fn folder_of(pid: u32) -> PathBuf {
    let line = command_line(pid);
    let settings = line.split('\0').find(|word| word.ends_with("nats-server.conf")).expect("a settings file");
    Path::new(settings).parent().unwrap().to_path_buf()
}

fn command_line(pid: u32) -> String {
    let ps = std::process::Command::new("ps").args(["-ww", "-o", "args=", "-p", &pid.to_string()]).output().unwrap();
    // Words are told apart where the system does.
    std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
        .unwrap_or_else(|_| String::from_utf8(ps.stdout).unwrap().trim().replace(' ', "\0"))
}

fn left_behind() -> HashSet<PathBuf> {
    // Other tests run beside this one in processes of their own, whose folders come and go; theirs are locked.
    std::fs::read_dir(std::env::temp_dir())
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("mlx-nats-"))
        .filter(|path| std::fs::File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok()))
        .collect()
}

/// Children of this process, those that nobody has waited for among them.
fn children() -> usize {
    let own = std::process::id().to_string();
    let ps = std::process::Command::new("ps").args(["-A", "-o", "ppid=,comm="]).output().unwrap();
    String::from_utf8(ps.stdout)
        .unwrap()
        .lines()
        .filter(|line| line.split_whitespace().next() == Some(own.as_str()) && !line.trim_end().ends_with("ps"))
        .count()
}
