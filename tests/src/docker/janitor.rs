//! Nothing is left in Docker, however a test ends.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{PROCESS_LABEL, RUN_LABEL, docker_blocking};

/// What the shell does that waits for the end of this process: nothing after a word from it, and its cleaning without.
const SCRIPT: &str = r#"
read -r word && exit
for round in 1 2; do
  docker ps --all --quiet --filter "label=$0" | xargs docker rm --force --volumes
  docker network ls --quiet --filter "label=$0" | xargs docker network rm
  docker volume ls --quiet --filter "label=$0" | xargs docker volume rm --force
  sleep 1 # the daemon may still carry out what it was asked for last
done
"#;

/// Gives out names and labels, and sees to it that what carries them goes.
///
/// In good order each value removes what it stands for when it is dropped. For a process that is killed, or interrupted
/// by Ctrl-C, a shell waits at the other end of a pipe, in a process group of its own. `MLX_TEST_KEEP=1` keeps it all.
#[derive(Debug)]
pub(crate) struct Janitor {
    id: String,
    names: AtomicU32,
    /// None where everything is to be kept.
    shell: Option<Mutex<Child>>,
}

impl Janitor {
    /// The one for as long as there is something to be removed.
    pub(crate) fn of_this_process() -> Arc<Self> {
        static CURRENT: Mutex<Weak<Janitor>> = Mutex::new(Weak::new());
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        current.upgrade().unwrap_or_else(|| {
            let janitor = Arc::new(Self::start());
            *current = Arc::downgrade(&janitor);
            janitor
        })
    }

    fn start() -> Self {
        let id = format!("{:x}-{:08x}", std::process::id(), fastrand::u32(..));
        let keep = std::env::var_os("MLX_TEST_KEEP").is_some_and(|keep| keep == "1");
        let shell = (!keep).then(|| {
            let shell = Command::new("sh")
                .args(["-c", SCRIPT, &format!("{PROCESS_LABEL}={id}")])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .process_group(0)
                .spawn();
            Mutex::new(shell.expect("sh"))
        });
        Self { id, names: AtomicU32::new(0), shell }
    }

    /// A name that nothing else has, for a `what`.
    pub(crate) fn name(&self, what: &str) -> String {
        format!("mlx-test-{}-{what}-{}", self.id, self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// For everything with a name of ours.
    pub(crate) fn labels(&self) -> [(String, String); 2] {
        let run = std::env::var("MLX_TEST_RUN_ID").unwrap_or_else(|_| "by-hand".to_owned());
        [(RUN_LABEL.to_owned(), run), (PROCESS_LABEL.to_owned(), self.id.clone())]
    }

    pub(crate) fn keeps(&self) -> bool {
        self.shell.is_none()
    }

    /// Has `docker` remove something; what it cannot remove now, the shell may at the end.
    pub(crate) fn remove(&self, words: &[&str]) {
        if self.shell.is_some()
            && let Err(problem) = docker_blocking(words)
        {
            eprintln!("{problem}");
        }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        let shell = shell.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Whoever panics may have left something behind.
        if !std::thread::panicking()
            && let Some(mut pipe) = shell.stdin.take()
        {
            let _ = pipe.write_all(b"done\n");
        }
        drop(shell.stdin.take());
        let _ = shell.wait();
    }
}
