//! Why a nats-server did not start, with the setting to change.

use std::net::SocketAddr;
use std::process::ExitStatus;
use std::time::Duration;

use mlx_errors::{Error, ErrorKind};

use crate::logs::{LastLines, Line};
use crate::settings::Settings;
use crate::{http, ready};

/// Lines of the server that go into an error.
const LINES_TOLD: usize = 10;

/// How long a stranger on our port may take to say who it is. An error may not take longer than 200 ms altogether.
const INTRODUCTION: Duration = Duration::from_millis(100);

/// The error for a server that ended before it was ready.
pub(crate) async fn ended(settings: &Settings, status: Option<ExitStatus>, lines: &LastLines) -> Error {
    let mut last_lines = lines.last(LINES_TOLD);
    let exit = status.map(describe);
    let complaint = complaint(&last_lines);
    let reason = if let Some(reason) = explain(settings, &complaint).await {
        // The one line that the reason was read from is evidence enough.
        last_lines.retain(|line| Line::parse(line).fatal);
        reason
    } else {
        let how = exit.as_deref().unwrap_or("it ended");
        if complaint.is_empty() { how.to_owned() } else { format!("{how}: {complaint}") }
    };
    Error::new(ErrorKind::ServerStart { reason, exit, last_lines })
}

/// The error for a server that was not ready in time and was killed.
pub(crate) fn too_slow(timeout: Duration, waited_for: &str, lines: &LastLines) -> Error {
    let reason = format!(
        "it was not ready within {} ms ({waited_for}); `nats.embedded.startTimeoutMs` gives it more time",
        timeout.as_millis()
    );
    Error::new(ErrorKind::ServerStart { reason, exit: None, last_lines: lines.last(LINES_TOLD) })
}

/// The error for a server that cannot be started at all.
pub(crate) fn not_started(what: &str, error: std::io::Error) -> Error {
    let reason = format!("cannot {what}");
    Error::with_source(ErrorKind::ServerStart { reason, exit: None, last_lines: Vec::new() }, error)
}

/// How a process ended, for example `it ended with exit status 1`.
pub(crate) fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit status {code}"),
        (None, Some(9)) => "it was killed with SIGKILL (by hand, or by the system for lack of memory)".to_owned(),
        (None, Some(signal)) => format!("it was killed by signal {signal}"),
        (None, None) => format!("it ended: {status}"),
    }
}

/// The line that says why: the fatal one, or else the last error.
fn complaint(lines: &[String]) -> String {
    let parsed: Vec<Line<'_>> = lines.iter().map(|line| Line::parse(line)).collect();
    let fatal = parsed.iter().rfind(|line| line.fatal);
    let line = fatal.or_else(|| parsed.iter().rfind(|line| line.severity >= crate::logs::Severity::Error));
    line.map(|line| line.message.trim_start_matches("nats-server: ").to_owned()).unwrap_or_default()
}

async fn explain(settings: &Settings, complaint: &str) -> Option<String> {
    let bind = bind_address(complaint);
    if complaint.contains("address already in use") {
        return Some(port_taken(settings, bind?).await);
    }
    if complaint.contains("bind: permission denied") {
        let address = bind?;
        let key = Key::of(settings, address)?;
        return Some(format!(
            "this user may not bind port {} on {}; set `{}` to a higher one, or 0 for a free one",
            address.port(),
            address.ip(),
            key.text()
        ));
    }
    if complaint.contains("cannot assign requested address") || complaint.contains("no such host") {
        return Some(format!(
            "{} is not an address of this machine; set `nats.embedded.host` to one that is",
            settings.host
        ));
    }
    if let Some(jetstream) = settings.jetstream.as_ref().filter(|_| is_about_storage(complaint)) {
        return Some(format!(
            "JetStream cannot use the folder {} (`nats.embedded.jetstream.storeDir`): {complaint}",
            jetstream.store_dir.display()
        ));
    }
    if let Some(tls) = settings.tls.as_ref().filter(|_| is_about_certificates(complaint)) {
        return Some(format!(
            "the certificate {} or its key {} cannot be used (`nats.tls.certFile`, `nats.tls.keyFile`): {}",
            tls.cert_file.display(),
            tls.key_file.display(),
            without_position(complaint)
        ));
    }
    None
}

fn is_about_storage(complaint: &str) -> bool {
    ["JetStream", "storage directory", "no space left", "read-only file system"]
        .iter()
        .any(|words| complaint.contains(words))
}

fn is_about_certificates(complaint: &str) -> bool {
    ["certificate", "x509", "X509", "tls:"].iter().any(|words| complaint.contains(words))
}

/// Without the place in the settings file, which nobody but us has written.
fn without_position(complaint: &str) -> &str {
    complaint.split_once(".conf:").and_then(|(_, rest)| rest.split_once(": ")).map_or(complaint, |(_, rest)| rest)
}

/// The address in `listen tcp 127.0.0.1:4222: bind: address already in use`.
fn bind_address(complaint: &str) -> Option<SocketAddr> {
    let (before, _) = complaint.split_once(": bind: ")?;
    let (_, address) = before.rsplit_once("listen tcp ")?;
    // Without a host where it is every address.
    if let Some(port) = address.strip_prefix(':') {
        return Some(SocketAddr::from(([0, 0, 0, 0], port.parse().ok()?)));
    }
    address.parse().ok()
}

/// The setting that a port comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Client,
    Monitoring,
}

impl Key {
    fn of(settings: &Settings, address: SocketAddr) -> Option<Self> {
        let port = address.port();
        if settings.port == port {
            Some(Self::Client)
        } else {
            settings.monitoring.as_ref().filter(|listen| listen.port == port).map(|_| Self::Monitoring)
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Client => "nats.embedded.port",
            Self::Monitoring => "nats.embedded.httpPort",
        }
    }
}

async fn port_taken(settings: &Settings, address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    let reachable = if ip.is_unspecified() { SocketAddr::from(([127, 0, 0, 1], port)) } else { address };
    let Some(key) = Key::of(settings, address) else {
        return format!("port {port} on {ip} is taken");
    };
    let holder = match key {
        Key::Client => nats_server_at(reachable).await,
        Key::Monitoring => monitoring_at(reachable).await,
    };
    let holder = holder.map_or_else(|| "another program".to_owned(), |which| format!("another nats-server ({which})"));
    format!(
        "port {port} on {ip} is taken by {holder}, which is left alone; set `{}` to another port, or 0 for a free one",
        key.text()
    )
}

async fn nats_server_at(address: SocketAddr) -> Option<String> {
    let greeting = tokio::time::timeout(INTRODUCTION, ready::greeting(address)).await.ok()?.ok()?;
    Some(introduction(&greeting.version, &greeting.server_name))
}

async fn monitoring_at(address: SocketAddr) -> Option<String> {
    let answer = http::get(address, "/varz", INTRODUCTION).await.ok()?;
    let varz: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    Some(introduction(varz.get("version")?.as_str()?, varz.get("server_name")?.as_str()?))
}

/// A stranger's words, so only what is harmless of them.
fn introduction(version: &str, name: &str) -> String {
    let harmless = |text: &str| text.chars().filter(char::is_ascii_graphic).take(64).collect::<String>();
    let (version, name) = (harmless(version), harmless(name));
    // A server without a name of its own shows its id.
    if name.len() == 56 && name.starts_with('N') { version } else { format!("{version}, {name}") }
}
