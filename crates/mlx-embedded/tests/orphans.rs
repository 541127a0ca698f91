//! No nats-server outlives its parent, however that ends.
//!
//! Each test starts this same program again, as a parent that starts a server and then ends in one way or another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use mlx_embedded::{EmbeddedServer, OrphanGuard};
use support::{is_running, until};

/// Set for the parent; its value says how it ends.
const ROLE: &str = "MLX_TEST_PARENT";

/// What M1 allows.
const LIMIT: Duration = Duration::from_secs(2);

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return parent::run(&role);
    }
    let guards: &[(&str, OrphanGuard)] = &[
        #[cfg(target_os = "linux")]
        ("signal", OrphanGuard::ParentDeathSignal),
        ("watcher", OrphanGuard::Watcher),
    ];
    let mut trials = Vec::new();
    for (guard, _) in guards {
        for ending in ["sigkill", "panic", "exit", "abort", "thread_gone", "stdin_closed", "drop"] {
            let role = format!("{guard}/{ending}");
            let name = format!("m1_{ending}_leaves_no_orphan_{guard}");
            trials.push(Trial::test(name, move || gone_with_its_parent(&role)));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn gone_with_its_parent(role: &str) -> Result<(), Failed> {
    let mut parent = Command::new(std::env::current_exe()?)
        .env(ROLE, role)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdout = BufReader::new(parent.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    let Some((pid, address)) = line.trim().split_once(' ') else {
        parent.wait()?;
        let mut told = String::new();
        parent.stderr.take().unwrap().read_to_string(&mut told)?;
        return Err(format!("the parent did not start a server: {told}").into());
    };
    let (pid, address): (u32, SocketAddr) = (pid.parse()?, address.parse()?);

    end(role, &mut parent);
    // The first thread of a process may be gone before the last one lets go of the port.
    until(LIMIT, "nats-server is gone", || !is_running(pid) && TcpStream::connect(address).is_err());
    Ok(())
}

fn end(role: &str, parent: &mut Child) {
    use std::os::unix::process::ExitStatusExt as _;
    let by_itself = ["panic", "exit", "abort", "drop"].iter().any(|ending| role.ends_with(ending));
    if !by_itself {
        parent.kill().unwrap();
    }
    let status = parent.wait().unwrap();
    let expected = match role.rsplit('/').next().unwrap() {
        "panic" => status.code() == Some(101),
        "exit" => status.code() == Some(3),
        "abort" => status.signal() == Some(6),
        "drop" => status.success(),
        _ => status.signal() == Some(9),
    };
    assert!(expected, "the parent ended with {status}");
}

/// The other side: a process that starts a server.
mod parent {
    use std::io::Write as _;

    use tokio::runtime::Runtime;

    use super::{Duration, EmbeddedServer, OrphanGuard, is_running, support};

    pub(crate) fn run(role: &str) {
        let (guard, ending) = role.split_once('/').unwrap();
        let guard = match guard {
            #[cfg(target_os = "linux")]
            "signal" => OrphanGuard::ParentDeathSignal,
            "watcher" => OrphanGuard::Watcher,
            other => panic!("no guard is called {other}"),
        };
        if ending == "stdin_closed" {
            close_standard_input();
        }
        let server = if ending == "thread_gone" {
            // Started on a thread and a runtime that are both gone before the parent is.
            std::thread::spawn(move || Runtime::new().unwrap().block_on(start(guard))).join().unwrap()
        } else {
            Runtime::new().unwrap().block_on(start(guard))
        };
        let pid = server.pid().unwrap();
        // It is still there: what watches it is not the thread that asked for it. That something does not happen shows
        // only in time; the kernel's signal would have come at the end of the thread.
        std::thread::sleep(Duration::from_millis(if ending == "thread_gone" { 300 } else { 0 }));
        assert!(is_running(pid), "nats-server ended with the thread that started it");
        println!("{pid} {}", server.client_addr());
        std::io::stdout().flush().unwrap();
        match ending {
            "exit" => std::process::exit(3),
            "abort" => std::process::abort(),
            "panic" => panic!("as the test asks"),
            "drop" => {
                drop(server);
                assert!(!is_running(pid), "drop returns when the server is gone");
            }
            _ => loop {
                std::thread::park();
            },
        }
    }

    async fn start(guard: OrphanGuard) -> EmbeddedServer {
        EmbeddedServer::builder(&support::any_port()).orphan_guard(guard).start().await.unwrap()
    }

    /// Closes descriptor 0, as some supervisors do.
    fn close_standard_input() {
        use std::os::fd::{FromRawFd as _, OwnedFd};
        // SAFETY: the test's own process, which reads nothing.
        #[expect(unsafe_code, reason = "the standard library has no other way to close a standard stream")]
        drop(unsafe { OwnedFd::from_raw_fd(0) });
    }
}
