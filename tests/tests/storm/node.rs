//! A client behind a bad network of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mlx_errors::ErrorCode;
use mlx_nats::{Client, ClientOptions, ConnectionState};
use mlx_tests::ledger::Window;
use mlx_tests::{FaultProxy, LIMIT, TestServer, millis};
use mlx_types::config::NatsConfig;
use tokio::sync::watch;

/// How long a request, a flush or a silent stream may take. Far longer than a stall lasts before it is found.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) client: Client,
    pub(crate) proxy: Arc<FaultProxy>,
}

impl Node {
    /// One that finds a half-open connection within 600 ms and never gives up.
    pub(crate) async fn start(server: &TestServer, change: impl FnOnce(&mut NatsConfig)) -> Self {
        let proxy = FaultProxy::start(server).await;
        let mut config = proxy.in_front(server.config());
        config.max_reconnect_attempts = 100_000;
        // So soon that the new connection may stand before the news of the drop is around.
        config.reconnect_time_wait = millis(1);
        config.ping_interval_ms = millis(200);
        config.connect_timeout_ms = millis(500);
        config.request_timeout_ms = millis(5000);
        change(&mut config);
        let options = ClientOptions::default()
            .first_token_timeout(TIMEOUT)
            .inter_token_timeout(TIMEOUT)
            .offline_timeout(LIMIT * 10);
        let client = Client::connect_with(&config, options).await.unwrap();
        Self { client, proxy: Arc::new(proxy) }
    }

    /// Waits until it is connected.
    pub(crate) async fn connected(&self) {
        if let Err(error) = self.client.wait_connected(LIMIT).await {
            panic!("{error}; it is {}", self.client.state());
        }
    }

    /// The epoch while connected.
    pub(crate) fn epoch(&self) -> Option<u64> {
        match self.client.state() {
            ConnectionState::Connected { epoch } => Some(epoch),
            _ => None,
        }
    }

    /// Notes when the connection stood, until it is finished and for one last flush.
    pub(crate) async fn windows(self, finished: watch::Receiver<bool>) -> Vec<Window> {
        let mut windows = Vec::new();
        loop {
            self.connected().await;
            let Some(epoch) = self.epoch() else { continue };
            let (dropped, from) = (self.proxy.dropped_bytes(), Instant::now());
            let mut until = None;
            loop {
                let last = *finished.borrow();
                let began = Instant::now();
                let flushed = self.client.flush(TIMEOUT).await.map_err(|error| error.code());
                if self.epoch() != Some(epoch) {
                    break;
                }
                match flushed {
                    Ok(()) => until = Some(began),
                    // Of this connection nothing more is known until another flush comes back.
                    Err(ErrorCode::NatsTimeout) => {}
                    Err(_) => break,
                }
                if last {
                    windows.extend(until.map(|until| self.window(from, until, dropped)));
                    return windows;
                }
                tokio::time::sleep(Duration::from_millis(20)).await; // the resolution of what is known
            }
            windows.extend(until.map(|until| self.window(from, until, dropped)));
        }
    }

    fn window(&self, from: Instant, until: Instant, dropped: u64) -> Window {
        Window { from, until, garbled: self.proxy.dropped_bytes() != dropped }
    }
}
