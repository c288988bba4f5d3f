//! The tail and the leases tell the router what they know of the mesh, and the router tells the tail.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

/// How much the mesh does, and whether its router lives.
#[derive(Debug)]
pub(crate) struct Traffic {
    /// How many deliveries were ever made in the mesh.
    made: watch::Sender<u64>,
    /// Deliveries that this broker's router made and that its tail has not counted yet.
    routed: AtomicU64,
    /// Notified when the router is a broker that does not live.
    orphan: Notify,
}

impl Traffic {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self { made: watch::Sender::new(0), routed: AtomicU64::new(0), orphan: Notify::new() }
    }

    /// Tells how many deliveries were ever made. Returns how many the router made since the last call: while there are some,
    /// the tail stays awake.
    pub(crate) fn count(&self, made: u64) -> u64 {
        self.made.send_replace(made);
        self.routed.swap(0, Ordering::Relaxed)
    }

    /// How many deliveries were ever made.
    pub(crate) fn made(&self) -> watch::Receiver<u64> {
        self.made.subscribe()
    }

    /// Tells that the router made so many.
    pub(crate) fn routed(&self, made: u64) {
        self.routed.fetch_add(made, Ordering::Relaxed);
    }

    /// Tells that the router is a broker that does not live.
    pub(crate) fn found_orphan(&self) {
        self.orphan.notify_one();
    }

    /// Waits until that was told.
    pub(crate) async fn orphan(&self) {
        self.orphan.notified().await;
    }
}
