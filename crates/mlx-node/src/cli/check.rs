//! `mlx-node check`: what a configuration says, and what is wrong with it.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use mlx_config::{Loader, Origin};
use mlx_errors::ErrorCode;

use super::arguments::{CheckArguments, Common};
use super::{EXIT_DONE, EXIT_FAILED, settings};
use crate::plan::unused;
use crate::terminal::note;

/// A file cannot be read.
const EXIT_UNREADABLE: u8 = 3;

/// How wide the column of values is at the most.
const VALUES: usize = 24;

pub(super) fn run(arguments: &CheckArguments, common: &Common) -> ExitCode {
    let sources = if arguments.files.is_empty() {
        settings::found(common).0
    } else {
        arguments.files.iter().fold(Loader::new(), Loader::file)
    };
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(error) => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            note(sources.draw(&error, colour).trim_end());
            return ExitCode::from(if error.code() == ErrorCode::ConfigRead { EXIT_UNREADABLE } else { EXIT_FAILED });
        }
    };
    for warning in loaded.warnings() {
        note(&format!("warning: {warning}"));
    }
    for unused in unused(loaded.config()) {
        note(&format!("warning: `{}` {}", unused.key, unused.reason));
    }
    let values = loaded.values();
    let lines: Vec<_> = values.iter().map(|(path, value, origin)| (path, value.to_string(), origin)).collect();
    let width = |of: fn(&(&String, String, &Origin)) -> usize| lines.iter().map(of).max().unwrap_or_default();
    let (paths, texts) = (width(|(path, ..)| path.len()), width(|(_, text, _)| text.len()).min(VALUES));
    let mut out = std::io::stdout().lock();
    for (path, value, origin) in &lines {
        // A reader that has seen enough, such as `head`, is no error.
        if writeln!(out, "{path:paths$}  {value:texts$}  # {origin}").is_err() {
            break;
        }
    }
    ExitCode::from(EXIT_DONE)
}
