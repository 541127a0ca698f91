//! Where values come from: files, texts, the environment, overrides.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mlx_errors::{Error, ErrorKind, Location, Result, Violation};

use crate::suggest;
use crate::tree::Position;

/// Where the value of a key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A file, or a text under the name that was given for it.
    File(Location),
    /// An environment variable, by its name.
    Environment(String),
    /// A call of [`Loader::set`](crate::Loader::set).
    Override,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(location) => location.fmt(f),
            Self::Environment(variable) => write!(f, "${variable}"),
            Self::Override => f.write_str("override"),
        }
    }
}

/// The sources of one load, by index.
#[derive(Debug, Default)]
pub(crate) struct Sources(Vec<Source>);

#[derive(Debug)]
enum Source {
    Text { name: PathBuf },
    Variable(String),
    Override,
}

impl Sources {
    pub(crate) fn add_text(&mut self, name: PathBuf) -> usize {
        self.add(Source::Text { name })
    }

    pub(crate) fn add_variable(&mut self, name: &str) -> usize {
        self.add(Source::Variable(name.to_owned()))
    }

    pub(crate) fn add_override(&mut self) -> usize {
        self.add(Source::Override)
    }

    fn add(&mut self, source: Source) -> usize {
        self.0.push(source);
        self.0.len() - 1
    }

    /// The place in a file; none for what came from elsewhere.
    pub(crate) fn location(&self, place: Position) -> Option<Location> {
        match self.0.get(place.source) {
            Some(Source::Text { name }) if place.line > 0 => {
                Some(Location::new(name.clone(), place.line, place.column))
            }
            _ => None,
        }
    }

    /// Says where a value that has no place in a file came from.
    pub(crate) fn attribution(&self, place: Position) -> Option<String> {
        match self.0.get(place.source)? {
            Source::Text { .. } => None,
            Source::Variable(name) => Some(format!("set by the environment variable `{name}`")),
            Source::Override => Some("set by an override".to_owned()),
        }
    }

    pub(crate) fn origin(&self, place: Position) -> Origin {
        match self.0.get(place.source) {
            Some(Source::Text { name }) => Origin::File(Location::new(name.clone(), place.line, place.column)),
            Some(Source::Variable(name)) => Origin::Environment(name.clone()),
            Some(Source::Override) => Origin::Override,
            None => Origin::Default,
        }
    }
}

/// More than any configuration; what is larger was hardly meant to be one.
const MAX_BYTES: u64 = 1 << 20;

/// Reads a file as text.
pub(crate) fn read(path: &Path) -> Result<String> {
    let fail = |hint: String, error: io::Error| {
        Error::with_source(ErrorKind::ConfigRead { path: path.to_owned(), hint }, error)
    };
    let refuse = |hint: &str| Error::new(ErrorKind::ConfigRead { path: path.to_owned(), hint: hint.to_owned() });
    let metadata = fs::metadata(path).map_err(|error| fail(near_miss(path), error))?;
    if metadata.is_dir() {
        return Err(refuse("it is a folder; name the file in it"));
    }
    // Anything else may never end, or never begin: a pipe, a device.
    if !metadata.is_file() {
        return Err(refuse("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| fail(String::new(), error))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| fail(String::new(), error))?;
    text(bytes, path)
}

/// Checks the size and the encoding.
pub(crate) fn text(bytes: Vec<u8>, name: &Path) -> Result<String> {
    if bytes.len() as u64 > MAX_BYTES {
        let hint = format!("it is larger than {MAX_BYTES} bytes");
        return Err(Error::new(ErrorKind::ConfigRead { path: name.to_owned(), hint }));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid =
            String::from_utf8_lossy(error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default());
        let line = valid.matches('\n').count() + 1;
        let column = valid.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        let location = Some(Location::new(name.to_owned(), line, column));
        let suggestion = Some("save the file as UTF-8".to_owned());
        let violation = Violation::new("", "encoding", "not UTF-8").location(location).suggestion(suggestion);
        Error::new(ErrorKind::ConfigSyntax { violations: vec![violation].into() })
    })?;
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    // A line may end in a carriage return alone; what counts lines from here on looks for line feeds.
    let alone = |text: &str| text.contains('\r') && text.replace("\r\n", "").contains('\r');
    Ok(if alone(&text) { text.replace("\r\n", "\n").replace('\r', "\n") } else { text })
}

/// A file beside the missing one that may have been meant.
fn near_miss(path: &Path) -> String {
    let Some(wanted) = path.file_name().and_then(|name| name.to_str()) else { return String::new() };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Ok(entries) = fs::read_dir(folder) else {
        return format!("the folder {} cannot be read", folder.display());
    };
    let names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    match suggest::nearest(wanted, names.iter().map(String::as_str)) {
        Some(name) => format!("did you mean {}?", path.with_file_name(name).display()),
        None => String::new(),
    }
}
