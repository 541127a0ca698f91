//! Folders to look in.

use std::path::{Path, PathBuf};

/// `target/tools` of the workspace around the current folder or, failing that, around the current program.
///
/// The folder itself need not exist yet.
pub fn workspace_tools_dir() -> Option<PathBuf> {
    let current = std::env::current_dir().ok();
    let program = std::env::current_exe().ok();
    [current, program].into_iter().flatten().find_map(|start| tools_dir_above(&start))
}

/// `target/tools` of the closest workspace at or above `start`.
pub(super) fn tools_dir_above(start: &Path) -> Option<PathBuf> {
    start.ancestors().find_map(|folder| {
        if is_workspace(folder) {
            return Some(folder.join("target").join("tools"));
        }
        // A target folder of another name or place, by the file that cargo marks each of them with.
        folder.join("CACHEDIR.TAG").exists().then(|| folder.join("tools")).filter(|tools| tools.exists())
    })
}

/// Folders where the package managers of this platform put programs, whether or not they are on `PATH`: that of a
/// process started by launchd, systemd or cron is short.
pub(super) fn well_known(home: Option<&Path>) -> Vec<PathBuf> {
    let system: &[&str] = if cfg!(target_os = "macos") {
        &["/opt/homebrew/bin", "/usr/local/bin", "/opt/local/bin"]
    } else {
        &["/usr/local/bin", "/usr/bin", "/usr/sbin", "/home/linuxbrew/.linuxbrew/bin"]
    };
    let own = ["go/bin", ".local/bin"];
    let own = home.into_iter().flat_map(|home| own.map(|folder| home.join(folder)));
    system.iter().map(PathBuf::from).chain(own).collect()
}

fn is_workspace(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("Cargo.toml"))
        .is_ok_and(|manifest| manifest.lines().any(|line| line.trim_end() == "[workspace]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_looked_for_in_the_workspace_around_a_folder_and_in_a_target_folder_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let member = root.join("ws/crates/one/src");
        let deps = root.join("shared-target/debug/deps");
        for folder in [&member, &deps, &root.join("shared-target/tools")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(root.join("ws/Cargo.toml"), "[workspace]\nmembers = []\n").unwrap();
        std::fs::write(root.join("ws/crates/one/Cargo.toml"), "[package]\nname = \"one\"\n").unwrap();
        std::fs::write(root.join("shared-target/CACHEDIR.TAG"), "").unwrap();

        assert_eq!(tools_dir_above(&member), Some(root.join("ws/target/tools")));
        assert_eq!(tools_dir_above(&deps), Some(root.join("shared-target/tools")));
        assert_eq!(tools_dir_above(&root.join("ws-not")), None);
    }
}
