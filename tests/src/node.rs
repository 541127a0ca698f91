//! The program `mlx-node`, as its users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// `mlx-node` with the configuration in `config`, its bus and its gateway on free ports; a command of it is to follow.
pub fn mlx_node(config: &Path) -> Command {
    let mut command = Command::new(node_program());
    command
        .arg("--config")
        .arg(config)
        .env("MLX_NATS__EMBEDDED__PORT", "0")
        .env("MLX_NATS__EMBEDDED__HTTP_PORT", "0")
        .env_remove("OPENAI_API_KEY")
        .stdin(Stdio::null());
    command
}

/// The configuration that is shipped.
pub fn shipped_config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/cluster.yaml")
}

/// Where it is: beside the folder of the test, since cargo builds programs with the tests of a workspace.
pub fn node_program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("mlx-node");
    assert!(path.exists(), "build it with `cargo build -p mlx-node`");
    path
}
