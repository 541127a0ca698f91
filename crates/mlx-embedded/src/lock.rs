//! One server for one JetStream folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

use mlx_errors::{Error, ErrorKind, Result};

/// The file in the folder that carries the lock. It stays, empty, when the lock is gone.
const FILE_NAME: &str = ".mlx-embedded.lock";

/// An advisory lock on a JetStream folder, held until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Creates `folder` where it is missing, and locks it.
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        let unusable = |error: io::Error| {
            let needed = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "a folder with space left, or make some",
                _ => "a folder that this user can write to",
            };
            let reason = format!(
                "the JetStream folder {} cannot be used; set `nats.embedded.jetstream.storeDir` to {needed}",
                folder.display()
            );
            Error::with_source(ErrorKind::ServerStart { reason, exit: None, last_lines: Vec::new() }, error)
        };
        std::fs::create_dir_all(folder).map_err(unusable)?;
        let path = folder.join(FILE_NAME);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::Error(error)) => Err(unusable(error)),
            Err(TryLockError::WouldBlock) => {
                let reason = format!(
                    "the JetStream folder {} is in use by another embedded server; set \
                     `nats.embedded.jetstream.storeDir` to a folder of this server's own",
                    folder.display()
                );
                Err(Error::new(ErrorKind::ServerStart { reason, exit: None, last_lines: Vec::new() }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m8_a_folder_is_locked_once_and_free_again_after() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        let lock = FolderLock::take(&folder).unwrap();
        let error = FolderLock::take(&folder).unwrap_err().to_string();
        assert!(error.contains(&folder.display().to_string()) && error.contains("in use"), "{error}");
        drop(lock);
        FolderLock::take(&folder).unwrap();
    }
}
