//! Writing settings in nats-server's own format.

use std::fmt::Write as _;
use std::path::Path;

use super::{Access, Cluster, JetStream, Settings, Tls};

/// The name by which the servers of a cluster know one another.
const ROUTE_USER: &str = "route";

impl Settings {
    /// The text of the settings file; nats-server leaves its ports file in `ports_dir`.
    pub(crate) fn render(&self, ports_dir: &Path) -> String {
        let mut file = Block::default();
        file.text("host", &self.host);
        file.port("port", self.port);
        file.path("ports_file_dir", ports_dir);
        if let Some(monitoring) = &self.monitoring {
            file.text("http", &host_port(&monitoring.host, monitoring.port));
        }
        file.number("max_payload", self.max_payload_bytes);
        // The time is when we read the line. The protocol trace holds payloads, so prompts: never.
        file.word("logtime", "false");
        file.word("debug", if self.debug { "true" } else { "false" });
        file.word("trace", "false");
        // The least that it takes. What a stop with notice may cost: see `EmbeddedServer::stop_lame_duck`.
        file.word("lame_duck_duration", "30s");
        file.word("lame_duck_grace_period", "1s");
        if let Some(authorization) = self.access.render() {
            file.block("authorization", &authorization);
        }
        if let Some(jetstream) = &self.jetstream {
            file.block("jetstream", &jetstream.render());
        }
        if let Some(tls) = &self.tls {
            file.block("tls", &tls.render());
        }
        if let Some(cluster) = &self.cluster {
            file.text("server_name", &cluster.server_name);
            file.block("cluster", &cluster.render());
        }
        file.0
    }
}

impl Access {
    fn render(&self) -> Option<Block> {
        let mut block = Block::default();
        match self {
            Self::Anyone => return None,
            Self::User { name, password, probe } => {
                let user = format!("{{ user: {}, password: {} }}", quoted(name), quoted(password.stored.expose()));
                let nothing = "{ publish: { deny: \">\" }, subscribe: { deny: \">\" } }";
                let probe = format!("{{ nkey: {}, permissions: {nothing} }}", quoted(&probe.public()));
                block.line(&format!("users: [ {user}, {probe} ]"));
            }
            Self::Token(token) => block.text("token", token.stored.expose()),
        }
        Some(block)
    }
}

impl JetStream {
    fn render(&self) -> Block {
        let mut block = Block::default();
        block.path("store_dir", &self.store_dir);
        if let Some(bytes) = self.max_memory_bytes {
            block.number("max_memory_store", bytes);
        }
        if let Some(bytes) = self.max_file_bytes {
            block.number("max_file_store", bytes);
        }
        block
    }
}

impl Tls {
    fn render(&self) -> Block {
        let mut block = Block::default();
        block.path("cert_file", &self.cert_file);
        block.path("key_file", &self.key_file);
        block
    }
}

impl Cluster {
    fn render(&self) -> Block {
        let password = self.password.expose();
        let mut authorization = Block::default();
        authorization.text("user", ROUTE_USER);
        authorization.text("password", password);
        let url = |port| quoted(&format!("nats://{ROUTE_USER}:{password}@127.0.0.1:{port}"));
        let routes: Vec<String> = self.routes.iter().map(url).collect();
        let mut block = Block::default();
        block.text("name", &self.name);
        block.text("listen", &host_port("127.0.0.1", self.port));
        block.block("authorization", &authorization);
        block.line(&format!("routes: [ {} ]", routes.join(", ")));
        block
    }
}

/// Lines of settings. Whatever is not a number or one of our own words goes in quoted.
#[derive(Default)]
struct Block(String);

impl Block {
    fn text(&mut self, key: &str, value: &str) {
        self.line(&format!("{key}: {}", quoted(value)));
    }

    fn path(&mut self, key: &str, value: &Path) {
        self.text(key, &value.to_string_lossy());
    }

    fn number(&mut self, key: &str, value: u64) {
        self.line(&format!("{key}: {value}"));
    }

    fn word(&mut self, key: &str, value: &'static str) {
        self.line(&format!("{key}: {value}"));
    }

    fn port(&mut self, key: &str, port: u16) {
        self.line(&format!("{key}: {}", server_port(port)));
    }

    fn block(&mut self, key: &str, block: &Block) {
        self.line(&format!("{key} {{"));
        block.0.lines().for_each(|line| self.line(&format!("  {line}")));
        self.line("}");
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }
}

/// A string that nats-server reads back as `text`, whatever `text` holds.
///
/// The quotes of its format know `\"`, `\\` and `\xHH`. Everything below a space is written as the latter: a line end
/// could otherwise end the line, and NUL is what its reader takes for the end of the file.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            control if control.is_ascii_control() => {
                // Writing to a String cannot fail.
                let _ = write!(quoted, "\\x{:02X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn host_port(host: &str, port: u16) -> String {
    let port = server_port(port);
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// nats-server takes 0 for its default port, and -1 for a free one.
fn server_port(port: u16) -> i32 {
    if port == 0 { -1 } else { i32::from(port) }
}
