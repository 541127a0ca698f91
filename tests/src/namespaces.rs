//! Tests that need a machine of their own: each runs itself again in namespaces where it may arrange one, and nobody else sees it.

use std::process::Command;

/// Set in the environment of a test that runs in its own namespaces.
const INSIDE: &str = "MLX_TEST_IN_OWN_NAMESPACES";

/// Whether this process is in namespaces of its own; if not, `test` (its path in its binary) has now passed in some. `more` are
/// options of `unshare`, such as `--net` for a network.
pub fn own_namespaces(test: &str, more: &[&str]) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let again = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount"])
        .args(more)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare, of util-linux");
    let [said, complaints] = [again.stdout, again.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(again.status.success() && said.contains("1 passed"), "{said}{complaints}");
    false
}
