//! A model server that speaks OpenAI's protocol, as well or as badly as a test wants it.

mod answer;
mod real;
mod routes;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use answer::Answer;
pub use real::RealModelServer;

use answer::Step;

/// The model that a server has unless told otherwise.
const MODEL: &str = "tiny";

/// `GET /v1/models`, `POST /v1/chat/completions` and `POST /v1/completions` on a free port of 127.0.0.1.
///
/// Unless a test says otherwise, a request is answered with "You said:" and the words of its prompt, or of its last
/// message, each a token; where no stream is wanted, with "You". Dropping the server closes its port and its connections.
#[derive(Debug)]
pub struct ModelServer {
    address: SocketAddr,
    state: Arc<State>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Holds the port, on which nobody answers: connections are refused.
    Down(TcpSocket),
    Up {
        stop: watch::Sender<bool>,
        serving: JoinHandle<()>,
    },
}

/// A completion request as it came.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// `/v1/chat/completions` or `/v1/completions`.
    pub path: String,
    /// The header `authorization`.
    pub authorization: Option<String>,
    /// The body.
    pub body: Value,
}

#[derive(Debug)]
struct State(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    models: Vec<String>,
    key: Option<String>,
    health: Option<u16>,
    pace: Duration,
    answers: VecDeque<Answer>,
    seen: Vec<SeenRequest>,
    listings: usize,
    generating: usize,
    abandoned: usize,
}

impl ModelServer {
    /// A server that answers; must be called within a runtime.
    pub fn start() -> Self {
        let mut server = Self::not_yet();
        server.bring_up();
        server
    }

    /// A server that is still loading: its port refuses connections until [`bring_up`](Self::bring_up).
    pub fn not_yet() -> Self {
        let socket = bound("127.0.0.1:0".parse().unwrap());
        let address = socket.local_addr().unwrap();
        let inner = Inner {
            models: vec![MODEL.to_owned()],
            key: None,
            health: None,
            pace: Duration::ZERO,
            answers: VecDeque::new(),
            seen: Vec::new(),
            listings: 0,
            generating: 0,
            abandoned: 0,
        };
        Self { address, state: Arc::new(State(Mutex::new(inner))), phase: Phase::Down(socket) }
    }

    /// Begins to answer; must be called within a runtime. Nothing changes where it does already.
    pub fn bring_up(&mut self) {
        let Phase::Down(_) = &self.phase else { return };
        let (stop, stopped) = watch::channel(false);
        let router = routes::router(Arc::clone(&self.state), stopped.clone());
        // A placeholder port for an instant: the socket has to be taken out before it can listen.
        let phase = std::mem::replace(&mut self.phase, Phase::Down(TcpSocket::new_v4().unwrap()));
        let Phase::Down(socket) = phase else { unreachable!("looked at above") };
        let listener = socket.listen(128).unwrap();
        let serving = tokio::spawn(async move {
            axum::serve(listener, router).with_graceful_shutdown(routes::told(stopped)).await.unwrap();
        });
        self.phase = Phase::Up { stop, serving };
    }

    /// Breaks every connection and refuses new ones, on the same port, until [`bring_up`](Self::bring_up).
    pub async fn take_down(&mut self) {
        let Phase::Up { stop, serving } = &mut self.phase else { return };
        stop.send_replace(true);
        serving.await.unwrap();
        self.phase = Phase::Down(bound(self.address));
    }

    /// What to give to `--engine openai=`: `http://127.0.0.1:PORT/v1`.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has these models from now on; by default it has `tiny`.
    pub fn set_models<const N: usize>(&self, models: [&str; N]) {
        self.state.lock().models = models.map(str::to_owned).to_vec();
    }

    /// Answers 401 from now on to whoever does not bring this key.
    pub fn require_key(&self, key: &str) {
        self.state.lock().key = Some(key.to_owned());
    }

    /// Answers `GET /health` with this status from now on; by default it has no such address.
    pub fn set_health(&self, status: u16) {
        self.state.lock().health = Some(status);
    }

    /// The time that each token of an answer takes from now on; none by default.
    pub fn set_pace(&self, pace: Duration) {
        self.state.lock().pace = pace;
    }

    /// Answers the next completion request like this; several calls are for several requests, in their order.
    pub fn answer_next(&self, answer: Answer) {
        self.state.lock().answers.push_back(answer);
    }

    /// The completion requests so far.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.state.lock().seen.clone()
    }

    /// How often the models were listed.
    pub fn listings(&self) -> usize {
        self.state.lock().listings
    }

    /// Answers under way.
    pub fn generating(&self) -> usize {
        self.state.lock().generating
    }

    /// Answers that ended early because the client closed the connection: what a cancellation has to look like.
    pub fn abandoned(&self) -> usize {
        self.state.lock().abandoned
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        if let Phase::Up { stop, .. } = &self.phase {
            stop.send_replace(true);
        }
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

/// A socket that has the port without listening on it.
fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    // Connections of its last life may linger on the port.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::{eventually, within};

    #[tokio::test]
    async fn a_prompt_is_answered_word_by_word() {
        let server = ModelServer::start();
        let mut connection =
            ask(&server, r#"{"model":"tiny","prompt":"hello there","max_tokens":3,"stream":true}"#).await;
        let said = read_until(&mut connection, "[DONE]").await;
        assert!(said.starts_with("HTTP/1.1 200 OK") && said.contains("text/event-stream"), "{said}");
        assert!(said.contains(r#""text":"hello ""#) && !said.contains("there"), "{said}");
        assert!(said.contains(r#""finish_reason":"length""#), "{said}");
        eventually("the end of the answer", || server.generating() == 0).await;
        assert_eq!((server.abandoned(), server.requests()[0].body["max_tokens"].as_u64()), (0, Some(3)));
    }

    #[tokio::test]
    async fn a_client_that_closes_is_counted_while_the_server_is_silent() {
        let server = ModelServer::start();
        server.answer_next(Answer::stream().chat_token("a").silence());
        let mut connection = ask(&server, r#"{"model":"tiny","stream":true}"#).await;
        read_until(&mut connection, "data: ").await;
        assert_eq!((server.generating(), server.abandoned()), (1, 0));
        drop(connection);
        eventually("a generation given up", || server.abandoned() == 1 && server.generating() == 0).await;
    }

    #[tokio::test]
    async fn a_server_that_is_taken_down_breaks_answers_and_comes_back_on_its_port() {
        let mut server = ModelServer::not_yet();
        assert!(TcpStream::connect(server.address()).await.is_err(), "not up yet");
        for _ in 0..2 {
            server.bring_up();
            server.answer_next(Answer::endless());
            let mut connection = ask(&server, r#"{"model":"tiny","stream":true}"#).await;
            read_until(&mut connection, "data: ").await;
            within("the server's end", server.take_down()).await;
            let mut rest = Vec::new();
            let broken = within("the connection's end", connection.read_to_end(&mut rest)).await;
            assert!(broken.is_err() || !rest.ends_with(b"0\r\n\r\n"), "an answer that was cut looks whole");
            assert!(TcpStream::connect(server.address()).await.is_err(), "down again");
        }
        assert_eq!(server.abandoned(), 0, "it was the server that ended them");
    }

    async fn ask(server: &ModelServer, body: &str) -> TcpStream {
        let mut connection = TcpStream::connect(server.address()).await.unwrap();
        let length = body.len();
        let request = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        connection
    }

    async fn read_until(connection: &mut TcpStream, end: &str) -> String {
        let mut said = Vec::new();
        while !String::from_utf8_lossy(&said).contains(end) {
            let read = within("more of the answer", connection.read_buf(&mut said)).await.unwrap();
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&said));
        }
        String::from_utf8(said).unwrap()
    }
}
