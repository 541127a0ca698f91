//! A nats-server that runs with a settings file of the test's own, for what the embedded one is never told.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use mlx_embedded::Binary;
use mlx_types::config::{NatsConfig, NatsMode};
use serde_json::Value;
use tempfile::TempDir;

use crate::{eventually, millis};

/// A server on a free port of loopback, killed with the value.
#[derive(Debug)]
pub struct ConfiguredServer {
    process: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl ConfiguredServer {
    /// Starts one with `settings`, in nats-server's own format and without any `listen` or port.
    pub async fn start(settings: &str) -> Self {
        Self::start_at("127.0.0.1:-1", settings).await
    }

    /// The same, at this address; a port of -1 is a free one.
    pub async fn start_at(listen: &str, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (file, ports) = (folder.path().join("server.conf"), folder.path().join("ports"));
        std::fs::create_dir(&ports).unwrap();
        std::fs::write(&file, whole(listen, &ports, settings)).unwrap();
        let process = Command::new(Binary::find(None).unwrap_or_else(|error| panic!("{error}")).path)
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut server = Self { process, address: ([127, 0, 0, 1], 0).into(), folder };
        let ports = ports.join(format!("nats-server_{}.ports", server.process.id()));
        eventually("the server's start", || match (server.process.try_wait().unwrap(), client_address(&ports)) {
            (Some(status), _) => {
                let log = std::fs::read_to_string(file.with_file_name("log")).unwrap();
                panic!("the server ended with {status}:\n{log}");
            }
            (None, Some(address)) => {
                server.address = address;
                true
            }
            (None, None) => false,
        })
        .await;
        server
    }

    /// Has it read other `settings`, and returns when it has.
    pub async fn reload(&self, settings: &str) {
        let reloads = || self.log().matches("Reloaded server configuration").count();
        let before = reloads();
        let folder = self.folder.path();
        std::fs::write(folder.join("server.conf"), whole("127.0.0.1:-1", &folder.join("ports"), settings)).unwrap();
        self.signal("-HUP");
        eventually("the server's reading of its settings", || reloads() > before).await;
    }

    /// Sends a signal, for example `-STOP`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.process.id().to_string()).status().unwrap();
        assert!(sent.success(), "kill {signal}: {sent}");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Settings of a client of this server: `scheme`, the host `localhost`, its port, and `userinfo` with its `@`.
    pub fn config(&self, scheme: &str, userinfo: &str) -> NatsConfig {
        let url = format!("{scheme}://{userinfo}localhost:{}", self.address.port());
        NatsConfig::default().mode(NatsMode::External).server_url(url.parse().unwrap()).reconnect_time_wait(millis(20))
    }
}

fn whole(listen: &str, ports: &Path, settings: &str) -> String {
    format!("listen: \"{listen}\"\nports_file_dir: \"{}\"\n{settings}\n", ports.display())
}

impl Drop for ConfiguredServer {
    fn drop(&mut self) {
        // One that has ended already cannot be killed, and need not be.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The address in the server's ports file, once it is complete.
fn client_address(ports: &std::path::Path) -> Option<SocketAddr> {
    let ports: Value = serde_json::from_slice(&std::fs::read(ports).ok()?).ok()?;
    let urls = ["nats", "tls"].iter().find_map(|scheme| ports.get(scheme)?.get(0)?.as_str())?;
    urls.split_once("://")?.1.parse().ok()
}
