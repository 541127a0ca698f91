//! The example of mlx-embedded, as its users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program `cluster` with the configuration in `config`, on free ports.
pub fn cluster_example(config: &Path) -> Command {
    let mut command = Command::new(program());
    command
        .arg("--config")
        .arg(config)
        .env("MLX_NATS__EMBEDDED__PORT", "0")
        .env("MLX_NATS__EMBEDDED__HTTP_PORT", "0")
        .stdin(Stdio::null());
    command
}

/// The configuration that is shipped.
pub fn shipped_config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/cluster.yaml")
}

/// Beside the folder of the test: cargo builds examples with the tests of a workspace.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples/cluster");
    assert!(path.exists(), "build it with `cargo build -p mlx-embedded --example cluster`");
    path
}
