//! `mlx-node`: see `mlx-node --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    mlx_node::main()
}
