//! The private folder of one nats-server: its settings, and what it tells of its ports.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Once;

use tempfile::TempDir;

const PREFIX: &str = "mlx-nats-";
const LOCK: &str = "lock";

/// A folder that only this user may enter, removed on drop.
pub(crate) struct PrivateFolder {
    folder: TempDir,
    /// Held while the folder is in use, so that what a killed process left behind can be told from it.
    _lock: File,
}

impl PrivateFolder {
    pub(crate) fn create() -> io::Result<Self> {
        static SWEEP: Once = Once::new();
        let parent = std::env::temp_dir();
        SWEEP.call_once(|| sweep(&parent));
        Self::create_in(&parent)
    }

    fn create_in(parent: &Path) -> io::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix(PREFIX).permissions(Permissions::from_mode(0o700)).tempdir_in(parent)?;
        // Locked before it gets its name, so that nobody sees it unlocked.
        let unnamed = folder.path().join("lock.new");
        let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unnamed)?;
        lock.lock()?;
        std::fs::rename(unnamed, folder.path().join(LOCK))?;
        Ok(Self { folder, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The settings file.
    pub(crate) fn settings(&self) -> PathBuf {
        self.path().join("nats-server.conf")
    }

    /// Writes the settings file, readable by this user alone, in one step.
    pub(crate) fn write_settings(&self, text: &str) -> io::Result<()> {
        let unnamed = self.path().join("nats-server.conf.new");
        // Left there by a write that failed half-way.
        remove_if_there(&unnamed)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unnamed)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(unnamed, self.settings())
    }

    /// The ports file that nats-server leaves here, if it is there and whole.
    pub(crate) fn ports_file(&self) -> Option<serde_json::Value> {
        let path = self.ports_files().next()?;
        // It is not written in one step, so half of one is as good as none.
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Removes the ports file of an earlier run that had no time to do so.
    pub(crate) fn forget_ports(&self) {
        for path in self.ports_files() {
            let _ = std::fs::remove_file(path);
        }
    }

    fn ports_files(&self) -> impl Iterator<Item = PathBuf> {
        let entries = std::fs::read_dir(self.path()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|extension| extension == "ports"))
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the folders of processes that were killed: of this user, and with a lock that nobody holds.
fn sweep(parent: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own);
        if !ours {
            continue;
        }
        let path = entry.path();
        if File::open(path.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            // What cannot be removed now is tried again by the next process.
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m5_settings_are_readable_by_this_user_alone() {
        let folder = PrivateFolder::create().unwrap();
        folder.write_settings("port: 1").unwrap();
        folder.write_settings("port: 2").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(folder.path()), mode(&folder.settings())), (0o700, 0o600));
        assert_eq!(std::fs::read_to_string(folder.settings()).unwrap(), "port: 2");
        let path = folder.path().to_path_buf();
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_process_left_is_swept_and_what_is_in_use_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let live = PrivateFolder::create_in(parent.path()).unwrap();
        let dead = PrivateFolder::create_in(parent.path()).unwrap();
        let foreign = parent.path().join("mlx-nats-without-a-lock");
        std::fs::create_dir(&foreign).unwrap();
        // As after SIGKILL: the lock is gone with the process, the folder is not.
        let PrivateFolder { folder, _lock: lock } = dead;
        let dead = folder.keep();
        drop(lock);

        sweep(parent.path());
        assert!(live.settings().parent().unwrap().exists());
        assert!(foreign.exists());
        assert!(!dead.exists());
    }

    #[test]
    fn half_a_ports_file_is_none_yet() {
        let folder = PrivateFolder::create().unwrap();
        let path = folder.path().join("nats-server_1.ports");
        std::fs::write(&path, "{\"nats\":[\"na").unwrap();
        assert_eq!(folder.ports_file(), None);
        std::fs::write(&path, "{\"nats\":[]}").unwrap();
        assert!(folder.ports_file().is_some());
        folder.forget_ports();
        assert_eq!(folder.ports_file(), None);
    }
}
