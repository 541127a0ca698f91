//! Which events are logged: a level for everything, and directives for single targets.

use std::str::FromStr;

use mlx_errors::{Error, ErrorKind, Result};
use parking_lot::RwLock;
use tracing::metadata::LevelFilter;
use tracing::{Metadata, callsite};
use tracing_subscriber::filter::Targets;

use crate::Level;
use crate::component::COMPONENT_TARGET;
use crate::panic::PANIC_TARGET;

/// The filter in force, replaceable while running.
///
/// Targets are known statically, so `tracing` asks once per callsite and caches the answer: an event that is not
/// logged costs one atomic load, and no lock is taken for one that is.
#[derive(Debug)]
pub(crate) struct Filter {
    current: RwLock<Directives>,
}

impl Filter {
    pub(crate) fn new(directives: Directives) -> Self {
        Self { current: RwLock::new(directives) }
    }

    pub(crate) fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        matches!(metadata.target(), COMPONENT_TARGET | PANIC_TARGET)
            || self.read(|directives| directives.targets.would_enable(metadata.target(), metadata.level()))
    }

    /// At least `error`, at which the targets that no directive silences speak: `off` as the most verbose level would
    /// keep them from ever being asked for.
    pub(crate) fn most_verbose(&self) -> LevelFilter {
        self.read(|directives| {
            directives.targets.iter().map(|(_, level)| level).chain(directives.targets.default_level()).max()
        })
        .map_or(LevelFilter::ERROR, |level| level.max(LevelFilter::ERROR))
    }

    pub(crate) fn update(&self, change: impl FnOnce(&Directives) -> Directives) {
        {
            let mut current = self.current.write();
            *current = change(&current);
        }
        // Outside the lock: this asks `enabled` for every callsite known.
        callsite::rebuild_interest_cache();
    }

    pub(crate) fn to_text(&self) -> String {
        self.read(|directives| directives.targets.to_string())
    }

    fn read<T>(&self, look: impl FnOnce(&Directives) -> T) -> T {
        look(&self.current.read())
    }
}

/// A level for everything and for single targets, as `MLX_LOG` writes them: `info,mlx_nats=debug`.
#[derive(Clone, Debug)]
pub(crate) struct Directives {
    targets: Targets,
}

impl Directives {
    /// `text` over `level`: what the text does not speak of is logged at `level`.
    ///
    /// The text is a list, separated by commas, of levels and of `target=level`; a level is `off`, `error`, `warn`,
    /// `info`, `debug` or `trace`. A target matches by prefix of a module path; the longest match wins.
    pub(crate) fn parse(text: &str, level: Level) -> Result<Self> {
        let mut targets = Targets::new().with_default(tracing::Level::from(level));
        for directive in text.split(',').map(str::trim).filter(|directive| !directive.is_empty()) {
            targets = match directive.split_once('=') {
                Some((target, level)) => {
                    let target = target.trim();
                    if target.is_empty() || target.contains(|c: char| c.is_whitespace() || "[]{}\"".contains(c)) {
                        return Err(invalid(directive, "the part before `=` must be a module path such as `mlx_nats`"));
                    }
                    targets.with_target(target, level_filter(directive, level.trim())?)
                }
                // RUST_LOG reads a bare word as a target at `trace`; a misspelt level would then silence everything.
                None => targets.with_default(level_filter(directive, directive)?),
            };
        }
        Ok(Self { targets })
    }

    /// The same directives for single targets, with another level for everything else.
    pub(crate) fn with_level(&self, level: Level) -> Self {
        Self { targets: self.targets.clone().with_default(tracing::Level::from(level)) }
    }
}

fn level_filter(directive: &str, level: &str) -> Result<LevelFilter> {
    // The numbers that LevelFilter reads as levels are nobody's habit and easily a misplaced value.
    let is_name = level.chars().all(|c| c.is_ascii_alphabetic()) && !level.is_empty();
    match LevelFilter::from_str(level) {
        Ok(filter) if is_name => Ok(filter),
        Ok(_) | Err(_) => Err(invalid(
            directive,
            "write a level (off, error, warn, info, debug, trace) or `target=level`, separated by commas",
        )),
    }
}

fn invalid(directive: &str, rule: &str) -> Error {
    Error::new(ErrorKind::Log { reason: format!("`{}` is not a log directive: {rule}", directive.escape_debug()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Directives {
        Directives::parse(text, Level::Info).unwrap()
    }

    fn enabled(directives: &Directives, target: &str) -> LevelFilter {
        [
            tracing::Level::TRACE,
            tracing::Level::DEBUG,
            tracing::Level::INFO,
            tracing::Level::WARN,
            tracing::Level::ERROR,
        ]
        .into_iter()
        .find(|level| directives.targets.would_enable(target, level))
        .map_or(LevelFilter::OFF, LevelFilter::from_level)
    }

    #[test]
    fn directives_win_over_the_level_and_leave_the_rest_to_it() {
        let directives = parse("mlx_nats=trace, mlx_nats::codec=warn,,hyper=off");
        assert_eq!(enabled(&directives, "mlx_nats::client"), LevelFilter::TRACE);
        assert_eq!(enabled(&directives, "mlx_nats::codec"), LevelFilter::WARN);
        assert_eq!(enabled(&directives, "hyper::client"), LevelFilter::OFF);
        assert_eq!(enabled(&directives, "anything"), LevelFilter::INFO);
        assert_eq!(enabled(&parse("DEBUG"), "anything"), LevelFilter::DEBUG);
        assert_eq!(enabled(&parse(""), "anything"), LevelFilter::INFO);
    }

    #[test]
    fn a_new_level_keeps_the_directives_of_single_targets() {
        let directives = parse("warn,mlx_nats=trace").with_level(Level::Error);
        assert_eq!(enabled(&directives, "mlx_nats"), LevelFilter::TRACE);
        assert_eq!(enabled(&directives, "anything"), LevelFilter::ERROR);
    }

    #[test]
    fn a_directive_that_means_nothing_is_an_error_that_says_what_to_write() {
        for text in [
            "debg",
            "mlx_nats",
            "mlx_nats=",
            "=debug",
            "a=b=c",
            "mlx_nats=3",
            "5",
            "[span]=info",
            "a b=info",
            "in\u{1b}fo",
        ] {
            let message = Directives::parse(text, Level::Info).unwrap_err().to_string();
            assert!(message.contains("is not a log directive"), "{text}: {message}");
            assert!(!message.contains('\u{1b}'), "{message:?}");
        }
    }

    #[test]
    fn the_most_verbose_level_counts_targets_too() {
        assert_eq!(Filter::new(parse("warn")).most_verbose(), LevelFilter::WARN);
        assert_eq!(Filter::new(parse("warn,a=trace")).most_verbose(), LevelFilter::TRACE);
        assert_eq!(Filter::new(parse("off")).most_verbose(), LevelFilter::ERROR);
    }
}
