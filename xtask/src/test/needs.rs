//! What some tests need that a machine may not have, and how those tests are known: by a word in their names.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use crate::api;
use crate::nats::{self, MLX_LM, NATS_PY, OPENAI, Package, Pip};
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
    pub(super) fn provide(workspace: &Workspace, clusters: bool) -> Self {
        let mut needs = Self::default();
        if clusters && std::env::var_os(OLD_SERVER_VARIABLE).is_none() {
            match nats::fetch(workspace, &nats::OLD_NATS_SERVER) {
                Ok(binary) => needs.environment.push((OLD_SERVER_VARIABLE, binary.path.into())),
                Err(error) => needs.missing.push((OLD_SERVER_TESTS, format!("{error:#}"))),
            }
        }
        let python = runs("python3");
        let pip = Pip::find();
        if !(python && pip.is_some()) {
            needs.missing.push((PIP_TESTS, "they need python3 with pip".to_owned()));
        }
        let python_pip = pip.as_ref().filter(|_| python);
        match model_server(workspace, python_pip) {
            Ok(path) => needs.environment.push((MODEL_SERVER_VARIABLE, path)),
            Err(reason) => needs.missing.push((MODEL_SERVER_TESTS, reason)),
        }
        match python_tree(workspace, python_pip, &OPENAI, OPENAI_VARIABLE, "import openai") {
            Ok(path) => needs.environment.push((OPENAI_VARIABLE, path)),
            Err(reason) => needs.missing.push((OPENAI_TESTS, reason)),
        }
        match pip.filter(|_| python).map(|pip| nats::provide_package(workspace, &NATS_PY, &pip)) {
            Some(Ok(path)) => needs.environment.push((PYTHONPATH_VARIABLE, path.into())),
            Some(Err(error)) => needs.missing.push((NATS_PY_TESTS, format!("nats-py could not be fetched: {error:#}"))),
            None => needs.missing.push((NATS_PY_TESTS, "they need python3, and pip to fetch nats-py".to_owned())),
        }
        if !runs("curl") {
            needs.missing.push((CURL_TESTS, "they need curl".to_owned()));
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
        needs
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

/// The model server's place, or why there is none.
fn model_server(workspace: &Workspace, pip: Option<&Pip>) -> Result<OsString, String> {
    if !cfg!(target_os = "linux") {
        return Err("the model server that is pinned for them is for Linux".to_owned());
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
) -> Result<OsString, String> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path);
    }
    let name = package.name;
    let pip = pip.ok_or_else(|| format!("they need python3, and pip to fetch {name}"))?;
    let path = nats::provide_package(workspace, package, pip)
        .map_err(|error| format!("{name} could not be fetched: {error:#}"))?;
    // What was fetched for one Python does not run on another.
    if !succeeds(Command::new("python3").args(["-c", import]).env("PYTHONPATH", &path)) {
        return Err(format!("python3 cannot load {name} in {}", workspace.relative(&path)));
    }
    Ok(path.into())
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
