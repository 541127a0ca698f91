//! Where lines end up: standard error, a file that may be rotated, or a writer of the user's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often it is checked that the file is still the one that its path names.
const CHECK: Duration = Duration::from_secs(1);

/// Where lines are written.
pub(crate) enum Output {
    Stderr,
    File(LogFile),
    Writer(Box<dyn Write + Send>),
}

impl Output {
    /// Opens `path` for appending; makes missing folders.
    pub(crate) fn file(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        Ok(Self::File(LogFile { file, path: path.to_owned(), checked: Instant::now() }))
    }

    /// Writes some of `bytes`, at least one.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = match self {
            Self::Stderr => io::stderr().write(bytes),
            Self::File(file) => file.write(bytes),
            Self::Writer(writer) => guarded(|| writer.write(bytes)),
        }?;
        if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
    }

    /// Passes on what the output itself has buffered.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self {
            // Neither of them buffers.
            Self::Stderr | Self::File(_) => Ok(()),
            Self::Writer(writer) => guarded(|| writer.flush()),
        }
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.write(rest) {
                Ok(count) => rest = rest.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.flush()
    }

    /// Says on standard error that lines wait: the log itself cannot.
    pub(crate) fn complain(&self, error: &io::Error) {
        let place = match self {
            Self::Stderr => return,
            Self::File(file) => file.path.display().to_string(),
            Self::Writer(_) => "its writer".to_owned(),
        };
        // Where standard error fails too there is nobody left to tell.
        let _ = writeln!(io::stderr(), "mlx-log: cannot write to {place}: {error}; trying again");
    }
}

/// A panic of a user's writer would end the writing thread, and with it the log.
fn guarded<T>(write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(write)).unwrap_or_else(|_| Err(io::Error::other("the writer panicked")))
}

/// A file that is opened anew once its path names another one, so that rotation by renaming needs no signal.
/// It is opened for appending, so that rotation by copying and truncating works too.
pub(crate) struct LogFile {
    file: File,
    path: PathBuf,
    checked: Instant,
}

impl LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.checked.elapsed() >= CHECK {
            self.checked = Instant::now();
            // Where the new file cannot be opened, the old one is better than none.
            if self.is_rotated()
                && let Ok(file) = open(&self.path)
            {
                self.file = file;
            }
        }
        self.file.write(bytes)
    }

    #[cfg(unix)]
    fn is_rotated(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (fs::metadata(&self.path), self.file.metadata()) {
            (Ok(named), Ok(open)) => (named.dev(), named.ino()) != (open.dev(), open.ino()),
            (Err(error), _) => error.kind() == io::ErrorKind::NotFound,
            (Ok(_), Err(_)) => true,
        }
    }

    /// Elsewhere an open file cannot be renamed.
    #[cfg(not(unix))]
    fn is_rotated(&self) -> bool {
        false
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // At the level debug there may be prompts in it: not for everybody.
        options.mode(0o640);
    }
    let mut file = options.open(path)?;
    if ends_within_a_line(path) {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// Whether a process before us ended in the middle of a line: the next one is not to be part of it.
fn ends_within_a_line(path: &Path) -> bool {
    let last = || -> io::Result<Option<u8>> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() == 0 {
            return Ok(None);
        }
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(Some(last[0]))
    };
    last().is_ok_and(|last| last.is_some_and(|last| last != b'\n'))
}
