//! What the table tells the streams of their workers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use mlx_types::WorkerId;
use tokio::sync::broadcast::error::RecvError;

use super::Workers;
use super::watch::Shared;
use crate::stream::{Departure, Lifelines, Suspicion};

impl Lifelines for Workers {
    fn departure(&self, id: WorkerId) -> Pin<Box<dyn Future<Output = Departure> + Send>> {
        let mut departures = self.shared.departures.subscribe();
        self.shared.table().expect(id, Instant::now());
        // The follower may be asleep until a later expiry than this worker's, or for ever.
        self.shared.changes.send_replace(());
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            loop {
                match departures.recv().await {
                    Ok((departed, how)) if departed == id => return how,
                    Ok(_) => {}
                    Err(RecvError::Lagged(_)) if shared.table().contains(id) => {}
                    Err(RecvError::Lagged(_)) => return Departure::Gone,
                    // The follower ended with the client; those who wait learn that from the connection.
                    Err(RecvError::Closed) => return std::future::pending().await,
                }
            }
        })
    }

    fn answers(&self, id: WorkerId) {
        self.shared.table().answers(id, Instant::now());
        self.shared.changes.send_replace(());
    }

    fn suspect(&self, id: WorkerId) -> Box<dyn Suspicion> {
        let generation = self.shared.table().suspected(id, Instant::now());
        self.shared.changes.send_replace(());
        Box::new(Suspected { shared: Arc::clone(&self.shared), id, generation, heard: false })
    }
}

/// A worker that a stream waits for.
struct Suspected {
    shared: Arc<Shared>,
    id: WorkerId,
    /// The generation of its entry in the table, if it has one.
    generation: Option<u64>,
    heard: bool,
}

impl Suspicion for Suspected {
    fn refuted(mut self: Box<Self>) {
        self.heard = true;
    }
}

impl Drop for Suspected {
    fn drop(&mut self) {
        if let Some(generation) = self.generation {
            self.shared.table().trusted(self.id, generation, self.heard, Instant::now());
        }
    }
}
