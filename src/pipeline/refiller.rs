//! The refiller: reads on in the table for lanes that run low.
//!
//! One statement for all that ask at once; then each inbox whose payloads are large by itself, a few at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::pipeline::dispatch::Input;
use crate::store::payload::Wary;
use crate::store::refill::{Refilled, refill};
use crate::store::{Pool, StoreError};
use crate::watch::health::{Duty, Health};
use postbell_engine::inbox::event::{Event, Refill};

/// Wait after a failed refill: the dispatcher asks again at once.
const PAUSE_AFTER_FAILURE: std::time::Duration = std::time::Duration::from_millis(250);
/// Inboxes with large payloads that are read at once; the others wait, in turn. There is one refill of an inbox at a time, so
/// no more wait than there are inboxes.
const LARGE_AT_ONCE: usize = 2;

/// What reading needs.
#[derive(Clone)]
pub struct Refiller {
    /// Where to read.
    pub pool: Pool,
    /// Where the rows go.
    pub inputs: mpsc::WeakSender<Input>,
    /// Whether rows have cost too much of late.
    pub wary: Arc<Wary>,
    /// Told of refills.
    pub health: Health,
}

impl Refiller {
    /// Runs until the dispatcher's task is gone.
    pub async fn run(self, mut batches: mpsc::Receiver<Vec<Refill>>) {
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
                // The next time a large group is no reason.
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
            // The dispatcher's task may be gone: then nobody reads on.
            let _ = inputs.send(Input::Event(event)).await;
        }
    }
}
