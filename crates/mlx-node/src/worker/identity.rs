//! The id of a worker, kept beside the configuration: the same one at every start. Two workers of one folder have one each.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use mlx_types::WorkerId;

use crate::plan::Identity;

/// The file's name; that of a second worker at the same time ends in `.2`, and so on.
const FILE: &str = "worker-id";

/// Workers of one folder that keep their ids.
const SLOTS: u32 = 64;

/// An id, and the lock that says that it is in use.
#[derive(Debug)]
pub(crate) struct OwnId {
    id: WorkerId,
    _lock: Option<File>,
}

impl OwnId {
    /// The id that is given, the one that is kept, or a new one: where nothing can be kept, for this run.
    pub(super) fn of(identity: &Identity) -> Self {
        match identity {
            Identity::Given(id) => Self { id: *id, _lock: None },
            Identity::KeptIn(folder) => Self::kept(folder).unwrap_or_else(|error| {
                let folder = folder.display();
                tracing::warn!(%error, %folder, "the worker's id cannot be kept there: it has a new one at the next start");
                Self { id: WorkerId::new(), _lock: None }
            }),
        }
    }

    /// Its value.
    pub(super) fn get(&self) -> WorkerId {
        self.id
    }

    fn kept(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        for slot in 1..=SLOTS {
            let name = if slot == 1 { FILE.to_owned() } else { format!("{FILE}.{slot}") };
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(folder.join(name))?;
            match file.try_lock() {
                Ok(()) => return Self::in_file(file),
                Err(TryLockError::WouldBlock) => {} // of a worker that runs
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Err(io::Error::other(format!("{SLOTS} workers of this folder run already")))
    }

    fn in_file(mut file: File) -> io::Result<Self> {
        let mut text = String::new();
        // Half a file, as a full disk leaves it, is no id: it gets a new one.
        if (&mut file).take(256).read_to_string(&mut text).is_ok()
            && let Ok(id) = text.trim().parse()
        {
            return Ok(Self { id, _lock: Some(file) });
        }
        let id = WorkerId::new();
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(format!("{id}\n").as_bytes())?;
        file.sync_all()?;
        Ok(Self { id, _lock: Some(file) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_a_worker_keeps_its_id_and_a_second_one_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Identity::KeptIn(folder.path().join("state"));
        let (first, second) = (OwnId::of(&kept), OwnId::of(&kept));
        assert_ne!(first.get(), second.get());
        let ids = [first.get(), second.get()];
        drop((first, second));
        let (first, second) = (OwnId::of(&kept), OwnId::of(&kept));
        assert_eq!([first.get(), second.get()], ids);
    }

    #[test]
    fn p1_half_an_id_is_replaced_and_a_folder_that_takes_nothing_costs_no_start() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "0195e5").unwrap();
        let kept = Identity::KeptIn(folder.path().to_owned());
        let id = OwnId::of(&kept).get();
        assert_eq!(OwnId::of(&kept).get(), id);
        let file = folder.path().join(FILE);
        assert_ne!(OwnId::of(&Identity::KeptIn(file.clone())).get(), OwnId::of(&Identity::KeptIn(file)).get());
    }
}
