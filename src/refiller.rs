//! The refiller: reads on in the table for lanes that run low.

use tokio::sync::mpsc;

use crate::dispatch::Input;
use crate::inbox::event::{Event, Refill};
use crate::postgres::Pool;
use crate::postgres::refill::{self, Refilled};

/// Wait after a failed refill: the dispatcher asks again at once.
const PAUSE_AFTER_FAILURE: std::time::Duration = std::time::Duration::from_millis(250);

/// Runs until the dispatcher's task is gone.
pub async fn run(pool: Pool, mut batches: mpsc::Receiver<Vec<Refill>>, inputs: mpsc::WeakSender<Input>) {
    while let Some(refills) = batches.recv().await {
        let events: Vec<Event> = match refill::refill(&pool, &refills).await {
            Ok(all) => refills
                .into_iter()
                .zip(all)
                .map(|(refill, Refilled { lanes, keys })| Event::Refilled {
                    inbox: refill.inbox,
                    lanes,
                    keys,
                })
                .collect(),
            Err(e) => {
                tracing::warn!(error = %e, inboxes = refills.len(), "reading on failed; trying again");
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                refills.into_iter().map(|refill| Event::RefillFailed(refill.inbox)).collect()
            }
        };
        let Some(inputs) = inputs.upgrade() else { return };
        for event in events {
            if inputs.send(Input::Event(event)).await.is_err() {
                return;
            }
        }
    }
}
