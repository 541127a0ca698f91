//! Checks configuration files before a node runs on them.
//!
//! ```console
//! $ cargo run -p mlx-config --example check -- config/cluster.yaml
//! ```
//!
//! Prints the effective configuration with the origin of each value, secrets redacted; or, on standard error, everything
//! that is wrong, or what is no error and was hardly meant. With several files, each is laid over the ones before it.
//!
//! Exit codes: 0 where the configuration holds, 1 where it does not, 2 where the command line is wrong, 3 where a file
//! cannot be read.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use mlx_config::{Loader, Origin};
use mlx_errors::ErrorCode;

fn main() -> ExitCode {
    let files: Vec<_> = std::env::args_os().skip(1).collect();
    if files.is_empty() || files.iter().any(|file| file.to_string_lossy().starts_with('-')) {
        eprintln!("usage: check FILE...");
        return ExitCode::from(2);
    }
    let sources = files.iter().fold(Loader::new(), Loader::file);
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            eprint!("{}", sources.draw(&error, colour));
            return ExitCode::from(if error.code() == ErrorCode::ConfigRead { 3 } else { 1 });
        }
    };
    for warning in loaded.warnings() {
        eprintln!("warning: {warning}");
    }
    let values = loaded.values();
    let lines: Vec<_> = values.iter().map(|(path, value, origin)| (path, value.to_string(), origin)).collect();
    let width = |of: fn(&(&String, String, &Origin)) -> usize| lines.iter().map(of).max().unwrap_or_default();
    let (paths, texts) = (width(|(path, ..)| path.len()), width(|(_, text, _)| text.len()).min(24));
    let mut out = std::io::stdout().lock();
    for (path, value, origin) in &lines {
        // A reader that has seen enough, such as `head`, is no error.
        if writeln!(out, "{path:paths$}  {value:texts$}  # {origin}").is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}
