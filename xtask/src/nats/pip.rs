//! The installers that can fetch a wheel, and how each one is asked to.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Ways to call an installer, in the order they are tried.
const KNOWN: [&[&str]; 5] = [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"], &["uv", "pip"]];

/// An installer of Python packages that runs on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Pip {
    words: &'static [&'static str],
    /// What its environment has besides that of this process.
    env: Vec<(&'static str, OsString)>,
}

impl Pip {
    /// The first one that answers.
    pub(crate) fn find() -> Option<Self> {
        Self::first(|pip| {
            let mut probe = pip.command();
            probe.arg(if pip.is_uv() { "--help" } else { "--version" });
            probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            probe.status().is_ok_and(|status| status.success())
        })
    }

    fn first(answers: impl Fn(&Self) -> bool) -> Option<Self> {
        KNOWN.iter().map(|words| Self { words, env: Vec::new() }).find(|pip| answers(pip))
    }

    /// The command that unpacks what `requirements` lists into `target`, checked by hash, and nothing else.
    pub(super) fn install(&self, requirements: &Path, target: &Path) -> Command {
        let mut command = self.command();
        command.args(["install", "--no-deps", "--only-binary=:all:", "--require-hashes"]);
        command.arg("--target").arg(target).arg("-r").arg(requirements);
        if !self.is_uv() {
            command.args(["--no-input", "--disable-pip-version-check"]);
        }
        // A person's settings may ask for these; both contradict --target.
        command.env("PIP_USER", "0").env("PIP_REQUIRE_VIRTUALENV", "0");
        // Its advice against root is about the system's packages, which this leaves alone.
        command.env("PIP_ROOT_USER_ACTION", "ignore");
        command
    }

    /// What may help where it fails.
    pub(super) fn advice(&self) -> &'static str {
        if self.is_uv() {
            return "";
        }
        "; a pip older than 20.3 does not know these wheels, and `python3 -m pip install --upgrade pip` helps"
    }

    fn is_uv(&self) -> bool {
        self.words.first() == Some(&"uv")
    }

    fn command(&self) -> Command {
        let (program, arguments) = self.words.split_first().unwrap_or((&"pip", &[]));
        let mut command = Command::new(program);
        command.args(arguments);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl fmt::Display for Pip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

/// What to type on this machine to get an installer.
pub(super) fn how_to_get_one() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    format!("install pip with `{}`", command_for(std::env::consts::OS, &release))
}

fn command_for(os: &str, os_release: &str) -> &'static str {
    if os == "macos" {
        return "brew install python";
    }
    let families = os_release.lines().filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")));
    let families: Vec<&str> = families.flat_map(|value| value.trim_matches('"').split_whitespace()).collect();
    [
        (["debian", "ubuntu"], "sudo apt install python3-pip"),
        (["fedora", "rhel"], "sudo dnf install python3-pip"),
        (["suse", "opensuse"], "sudo zypper install python3-pip"),
        (["arch", "archlinux"], "sudo pacman -S python-pip"),
        (["alpine", "postmarketos"], "sudo apk add py3-pip"),
    ]
    .iter()
    .find(|(names, _)| names.iter().any(|name| families.contains(name)))
    .map_or("python3 -m ensurepip --user", |(_, command)| command)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Pip {
        pub(in crate::nats) fn with_env(mut self, env: &[(&'static str, OsString)]) -> Self {
            self.env.extend_from_slice(env);
            self
        }
    }

    #[test]
    fn the_first_installer_that_answers_is_taken() {
        let with = |answering: &'static str| Pip::first(|pip| pip.to_string() == answering);
        for words in ["python3 -m pip", "python -m pip", "pip3", "pip", "uv pip"] {
            assert_eq!(with(words).map(|pip| pip.to_string()).as_deref(), Some(words));
        }
        assert!(with("conda").is_none());
        assert_eq!(Pip::first(|_| true).map(|pip| pip.to_string()).as_deref(), Some("python3 -m pip"));
    }

    #[test]
    fn nothing_is_installed_without_its_hash_nor_beside_the_target() {
        for words in KNOWN {
            let command =
                Pip { words, env: Vec::new() }.install(Path::new("/t/requirements.txt"), Path::new("/t/tree"));
            let said: Vec<_> = command.get_args().map(|part| part.to_str().unwrap()).collect();
            assert!(said.contains(&"--require-hashes") && said.contains(&"--no-deps"), "{said:?}");
            assert!(said.contains(&"--only-binary=:all:"), "{said:?}");
            assert!(said.windows(2).any(|pair| pair == ["--target", "/t/tree"]), "{said:?}");
        }
    }

    #[test]
    fn the_way_to_pip_is_that_of_the_platform() {
        assert_eq!(command_for("macos", ""), "brew install python");
        assert_eq!(command_for("linux", "NAME=x\nID=debian\n"), "sudo apt install python3-pip");
        assert_eq!(command_for("linux", "ID=mint\nID_LIKE=\"ubuntu debian\"\n"), "sudo apt install python3-pip");
        assert_eq!(
            command_for("linux", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"),
            "sudo dnf install python3-pip"
        );
        assert_eq!(command_for("linux", ""), "python3 -m ensurepip --user");
    }
}
