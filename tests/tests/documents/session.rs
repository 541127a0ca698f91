//! Going through a page as its reader does, in a home folder of its own.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use mlx_tests::WorkerProcess;
use mlx_types::{NatsUrl, WorkerId};

use super::page::{self, Part, Step};
use super::terminal::Terminal;

/// The ports that pages use. A test takes free ones in their place.
const PORTS: [&str; 4] = ["4222", "8222", "4333", "8080"];

/// What a Rust program of a page may use, besides the crates of the workspace.
const PROGRAM_NEEDS: &str = r#"
futures-util = { version = "0.3", default-features = false, features = ["std"] }
tokio = { version = "1", features = ["macros", "rt-multi-thread", "signal", "time"] }
"#;

/// A reader of a page: where they are, what they have exported, what goes on in their other terminals.
pub(crate) struct Session {
    root: PathBuf,
    home: PathBuf,
    ports: Vec<(&'static str, String)>,
    /// What the last commands printed; a background's goes on.
    printed: String,
    last_background: Option<String>,
    backgrounds: HashMap<String, Vec<Terminal>>,
    transcripts: usize,
}

impl Session {
    /// At the root of the workspace, with an empty home folder.
    pub(crate) fn start(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
        // Not a new name each time: cargo would keep what it built for each.
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if home.exists() {
            std::fs::remove_dir_all(&home).unwrap();
        }
        std::fs::create_dir_all(home.join(".state")).unwrap();
        std::fs::write(home.join(".state/cwd"), root.to_str().unwrap()).unwrap();
        std::fs::write(home.join(".state/env"), "").unwrap();
        let ports = PORTS.iter().copied().zip(free_ports(PORTS.len())).collect();
        Self {
            root,
            home,
            ports,
            printed: String::new(),
            last_background: None,
            backgrounds: HashMap::new(),
            transcripts: 0,
        }
    }

    /// Does what the page at `path` says, from its first block to its last.
    pub(crate) fn follow(&mut self, path: &str) {
        let steps = page::steps(&page::read(path)).unwrap_or_else(|problem| panic!("{path}, {problem}"));
        assert!(!steps.is_empty(), "{path} has no block");
        for step in steps {
            eprintln!("{path}, line {}: {:?}", step.line, step.part);
            self.take(&step, &format!("{path}, line {}", step.line));
        }
        let left: Vec<_> = self.backgrounds.iter().filter(|(_, terminals)| !terminals.is_empty()).collect();
        assert!(left.is_empty(), "{path} leaves something running: {left:?}");
    }

    fn take(&mut self, step: &Step, place: &str) {
        let text = self.with_free_ports(&step.text);
        match &step.part {
            Part::Commands { exit } => self.run(&text, *exit, place),
            Part::StandIn(command) => {
                assert_eq!(step.text.lines().count(), 1, "{place}: one command is stood in for");
                let of_ci = std::fs::read_to_string(self.root.join(".ci/run")).unwrap();
                let run_there = format!("run {}", step.text.trim());
                assert!(of_ci.lines().any(|line| line == run_there), "{place}: .ci/run does not `{run_there}`");
                self.run(command, 0, place);
            }
            Part::Background(name) => {
                let terminal = self.terminal(&text);
                self.backgrounds.entry(name.clone()).or_default().push(terminal);
                self.last_background = Some(name.clone());
            }
            Part::File(name) => {
                let cwd = std::fs::read_to_string(self.home.join(".state/cwd")).unwrap();
                let file = Path::new(cwd.trim()).join(name);
                assert!(file.starts_with(&self.home), "{place}: {} is not the reader's own", file.display());
                std::fs::write(&file, text).unwrap_or_else(|error| panic!("{place}: {}: {error}", file.display()));
            }
            Part::Output => self.compare(&text, place),
            Part::Interrupt(name) => {
                let terminals = self.backgrounds.remove(name).unwrap_or_default();
                assert!(!terminals.is_empty(), "{place}: nothing in the background is called {name}");
                for mut terminal in terminals {
                    let status = terminal.interrupt();
                    let code = status.code();
                    // nats-server ends with 1 after Ctrl-C, and bash says 128 and the signal for what ended by it.
                    assert!(code.is_some_and(|code| [0, 1, 130].contains(&code)), "{place}: {status}");
                }
            }
            Part::Program => self.run_program(&step.text, place),
            Part::Picture => {}
            Part::Script(_) | Part::Message(_) | Part::Configuration | Part::Server { .. } | Part::Shown(_) => {
                panic!("{place}: on a page whose every block is executed, {:?} cannot be", step.part);
            }
        }
    }

    fn run(&mut self, commands: &str, exit: i32, place: &str) {
        let mut terminal = self.terminal(commands);
        let status = terminal.end();
        self.printed = terminal.printed();
        self.last_background = None;
        assert_eq!(status.code(), Some(exit), "{place}: `{}` printed:\n{}", commands.trim(), self.printed);
    }

    fn compare(&mut self, wanted: &str, place: &str) {
        let background = self.last_background.as_ref().and_then(|name| self.backgrounds.get_mut(name)?.last_mut());
        if let Some(terminal) = background {
            terminal.prints(|printed| page::shows(printed, wanted));
            return;
        }
        assert!(
            page::shows(&self.printed, wanted),
            "{place} says\n{wanted}\nand what was printed is\n{}",
            self.printed
        );
    }

    /// Bash, where the commands before it have left it.
    fn terminal(&mut self, commands: &str) -> Terminal {
        let state = self.home.join(".state");
        let commands = format!(
            "cd \"$(cat {state}/cwd)\"; . {state}/env\ntrap 'pwd > {state}/cwd; export -p > {state}/env' EXIT\n{commands}",
            state = state.display()
        );
        let mut shell = Command::new("bash");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_of_this_test)) {
            shell.env_remove(name);
        }
        shell.envs(self.environment());
        self.transcripts += 1;
        Terminal::start(shell, &commands, &state.join(format!("{}.log", self.transcripts)))
    }

    /// What differs from the environment of this test.
    fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let of_the_home_before = |variable: &str, folder: &str| {
            let home = || PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(folder);
            std::env::var_os(variable).map_or_else(home, PathBuf::from)
        };
        let port = |number: usize| PathBuf::from(&self.ports[number].1);
        vec![
            ("CARGO_HOME", of_the_home_before("CARGO_HOME", ".cargo")),
            ("RUSTUP_HOME", of_the_home_before("RUSTUP_HOME", ".rustup")),
            // Where everything that a page's crate depends on has been built already.
            ("CARGO_TARGET_DIR", target()),
            ("CARGO_TERM_COLOR", "never".into()),
            ("NO_COLOR", "1".into()),
            ("HOME", self.home.clone()),
            ("MLX_NATS__EMBEDDED__PORT", port(0)),
            ("MLX_NATS__EMBEDDED__HTTP_PORT", port(1)),
        ]
    }

    fn with_free_ports(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (port, free)| text.replace(port, free))
    }

    /// Compiles a Rust program in a crate of its own and runs it beside a worker, in a folder with `config/cluster.yaml`.
    fn run_program(&mut self, code: &str, place: &str) {
        let folder = self.home.join("program");
        std::fs::create_dir_all(folder.join("src")).unwrap();
        std::fs::create_dir_all(folder.join("config")).unwrap();
        std::fs::write(folder.join("src/main.rs"), code).unwrap();
        let crates = ["mlx-config", "mlx-embedded", "mlx-errors", "mlx-nats", "mlx-types"]
            .map(|name| format!("{name} = {{ path = \"{}/crates/{name}\" }}", self.root.display()))
            .join("\n");
        let package = "[package]\nname = \"program-of-a-page\"\nedition = \"2024\"\n\n[dependencies]\n";
        std::fs::write(folder.join("Cargo.toml"), format!("{package}{crates}{PROGRAM_NEEDS}")).unwrap();
        std::fs::copy(self.root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
        let config = folder.join("config/cluster.yaml");
        std::fs::copy(self.root.join("config/cluster.yaml"), &config).unwrap();

        self.run(&format!("cd {}\ncargo build", folder.display()), 0, place);
        let mut program = self.terminal("cargo run");
        let url: NatsUrl = format!("nats://127.0.0.1:{}", self.ports[0].1).parse().unwrap();
        // The worker finds the server at its first attempt, or ends: the program announces nothing of its own.
        program.prints(|_| std::net::TcpStream::connect(("127.0.0.1", url.port())).is_ok());
        let worker = env!("CARGO_BIN_EXE_test-worker");
        let _worker = WorkerProcess::start(worker, &config, &url, WorkerId::new(), &["--pause-ms", "0"]);
        let status = program.end();
        self.printed = program.printed();
        self.last_background = None;
        assert!(status.success(), "{place}: the program ended with {status} and printed:\n{}", self.printed);
        // Each token of that worker is its number.
        assert!(self.printed.contains("012345"), "{place}: no answer is printed:\n{}", self.printed);
    }
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("`tmp` in the target folder").to_owned()
}

/// Whether cargo set this variable for this test alone: build scripts that watch it would run again.
fn is_of_this_test(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_PRIMARY_PACKAGE"
}

/// So many ports that nobody has at the moment.
fn free_ports(count: usize) -> Vec<String> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port().to_string()).collect()
}
