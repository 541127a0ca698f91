//! Whether JetStream can write. A server that could not write once never tries again, and keeps silent towards those who ask:
//! its log says so, and only another start helps, once there is room.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// As much must fit before a start is worth it: JetStream writes some of it at once.
const ROOM: usize = 8 << 20;

/// What a line of the server's log says of a failure to write.
pub(super) fn trouble(message: &str) -> Option<String> {
    // Not every message that is not stored: a queue that is as full as it may be is no trouble, and no start helps it.
    let is_failure =
        message.contains("no space left on device") || message.to_ascii_lowercase().contains("critical write error");
    is_failure.then(|| {
        let cause = message.rsplit(": ").next().unwrap_or_default();
        format!("JetStream cannot write: {cause}")
    })
}

/// What is wrong with the folder, as far as can be seen from outside.
pub(super) fn missing(folder: &Path) -> Option<String> {
    (!folder.is_dir()).then(|| format!("JetStream's folder is gone: {}", folder.display()))
}

/// Whether there is room again, by writing and removing a file. Blocks for as long as that takes.
pub(super) fn has_room(folder: &Path) -> bool {
    let path = folder.join(".mlx-room");
    let written = write(&path);
    let removed = fs::remove_file(&path);
    written.and(removed).is_ok()
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = File::create(path)?;
    let piece = [0; 16 * 1024];
    for _ in 0..ROOM / piece.len() {
        file.write_all(&piece)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_of_a_full_disk_is_known() {
        let full =
            "JetStream failed to store a msg on stream '$G > S': write /data/msgs/1.blk: no space left on device";
        assert_eq!(trouble(full).unwrap(), "JetStream cannot write: no space left on device");
        let critical = "Filestore [S] Critical write error: write /data/msgs/1.blk: input/output error";
        assert_eq!(trouble(critical).unwrap(), "JetStream cannot write: input/output error");
        assert_eq!(trouble("Listening for client connections on 127.0.0.1:4222"), None);
        let full_queue = "JetStream failed to store a msg on stream '$G > S': maximum bytes exceeded";
        assert_eq!(trouble(full_queue), None);
    }

    #[test]
    fn a_folder_that_can_be_written_to_has_room_and_keeps_nothing_of_the_trial() {
        let folder = tempfile::tempdir().unwrap();
        assert!(has_room(folder.path()));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let gone = folder.path().join("gone");
        assert!(!has_room(&gone) && missing(&gone).is_some() && missing(folder.path()).is_none());
    }
}
