//! The refiller: reads further deliveries from the table for lanes that run low.
//!
//! One statement serves all lanes that ask at once. An inbox with large payloads is then read apart, a few inboxes at
//! a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::Instant;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::pipeline::dispatch::Input;
use crate::store::payload::Wary;
use crate::store::refill::{Refilled, refill};
use crate::store::{Pool, StoreError};
use crate::watch::health::{Duty, Health};
use postbell_engine::inbox::event::{Event, Refill};

/// Pause after a failed refill, because the dispatcher asks again at once.
const PAUSE_AFTER_FAILURE: std::time::Duration = std::time::Duration::from_millis(250);
/// The most inboxes with large payloads that are read at once; the others wait for their turn. An inbox has one
/// refill at a time, so at most as many wait as there are inboxes.
const LARGE_AT_ONCE: usize = 2;

/// The channels and settings of the refiller.
#[derive(Clone)]
pub(crate) struct Refiller {
    /// The database to read.
    pub pool: Pool,
    /// The dispatcher, for the rows.
    pub inputs: mpsc::WeakSender<Input>,
    /// Whether rows have recently cost too much to be made text.
    pub wary: Arc<Wary>,
    /// Learns how refills end.
    pub health: Health,
}

impl Refiller {
    /// Runs until the dispatcher's task is gone.
    pub(crate) async fn run(self, mut batches: mpsc::Receiver<Vec<Refill>>) {
        let (turns, one_by_one) = (Arc::new(Semaphore::new(LARGE_AT_ONCE)), Arc::new(AtomicBool::new(false)));
        let mut unfinished = JoinSet::new();
        while let Some(refills) = batches.recv().await {
            while unfinished.try_join_next().is_some() {}
            self.health.began(Duty::Refill, Instant::now());
            match refill(&self.pool, &refills, &self.wary).await {
                Ok(all) => {
                    for refilled in all {
                        if !refilled.is_unfinished() {
                            self.bring(refilled).await;
                            continue;
                        }
                        let (this, turns, one_by_one) = (self.clone(), turns.clone(), one_by_one.clone());
                        unfinished.spawn(async move {
                            let Ok(_turn) = turns.acquire().await else { return };
                            this.finish(refilled, &one_by_one).await;
                        });
                    }
                }
                Err(e) => {
                    self.failed(&e, refills.len()).await;
                    for refill in refills {
                        self.tell(Event::RefillFailed(refill.inbox)).await;
                    }
                }
            }
        }
    }

    async fn finish(&self, mut refilled: Refilled, one_by_one: &AtomicBool) {
        match refilled.finish(&self.pool, one_by_one.load(Ordering::Relaxed)).await {
            Ok(()) => {
                one_by_one.store(false, Ordering::Relaxed);
                self.bring(refilled).await;
            }
            Err(e) => {
                // The next attempt reads payloads one by one, so that the size of a group cannot be why it fails.
                one_by_one.store(true, Ordering::Relaxed);
                self.failed(&e, 1).await;
                self.tell(Event::RefillFailed(refilled.inbox)).await;
            }
        }
    }

    async fn bring(&self, refilled: Refilled) {
        self.health.succeeded(Duty::Refill);
        let inbox = refilled.inbox.clone();
        let (lanes, keys) = refilled.into_rows();
        self.tell(Event::Refilled { inbox, lanes, keys }).await;
    }

    async fn failed(&self, error: &StoreError, inboxes: usize) {
        tracing::warn!(%error, inboxes, "reading on failed; trying again");
        self.health.failed(Duty::Refill, error.to_string());
        tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
    }

    async fn tell(&self, event: Event) {
        if let Some(inputs) = self.inputs.upgrade() {
            // The dispatcher's task may be gone: then nobody needs the event.
            let _ = inputs.send(Input::Event(event)).await;
        }
    }
}
