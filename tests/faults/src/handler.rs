//! An agent's handling of deliveries: it does what the payload asks, and tells each step before taking it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postbell_client::{Deliveries, Delivery};

use crate::ledger::What;
use crate::task::{Task, Wish};

/// How soon a message that was given back comes again.
const AGAIN_AFTER: Duration = Duration::from_millis(30);
/// One line in so many is acknowledged without waiting for the confirmation.
const UNCONFIRMED_EVERY: u64 = 4;

/// Where an agent tells an event: the message's line, the event, and the attempt.
pub type Tell = dyn Fn(u64, What, u32) + Send + Sync;

/// Handles deliveries until the client is closed. `inbox` is the position of this agent's inbox.
pub async fn handle_all(mut deliveries: Deliveries, inbox: u8, tell: Arc<Tell>) {
    let released = Arc::new(Mutex::new(HashSet::new()));
    while let Some(delivery) = deliveries.next().await {
        let Ok(task) = delivery.payload_as::<Task>() else {
            // A message that the campaign did not send: a stranger, which the ledger counts.
            tell(u64::MAX, What::Delivered, delivery.attempt());
            delivery.dead("this is no task").await;
            continue;
        };
        let line = if task.each { task.n + u64::from(inbox) } else { task.n };
        tell(line, What::Delivered, delivery.attempt());
        // The window bounds how many run at once.
        tokio::spawn(handle(delivery, task, line, released.clone(), tell.clone()));
    }
}

async fn handle(
    delivery: Delivery,
    task: Task,
    line: u64,
    released: Arc<Mutex<HashSet<u64>>>,
    tell: Arc<Tell>,
) {
    let attempt = delivery.attempt();
    match task.wish {
        Wish::Release if released.lock().unwrap_or_else(PoisonError::into_inner).insert(line) => {
            tell(line, What::GivenBack, attempt);
            delivery.release(AGAIN_AFTER).await;
        }
        Wish::Fail if attempt == 1 => {
            tell(line, What::GivenBack, attempt);
            delivery.fail("the first attempt is to fail", Some(AGAIN_AFTER)).await;
        }
        Wish::Poison => {
            tell(line, What::GivenBack, attempt);
            delivery.fail("every attempt is to fail", Some(AGAIN_AFTER)).await;
        }
        Wish::Dead => {
            tell(line, What::Dead, attempt);
            delivery.dead("it is to be dead").await;
        }
        Wish::Ack | Wish::Hold | Wish::Release | Wish::Fail => {
            tokio::time::sleep(Duration::from_millis(task.ms.into())).await;
            tell(line, What::Handled, attempt);
            if line.is_multiple_of(UNCONFIRMED_EVERY) {
                delivery.ack().await;
            } else if delivery.ack_confirmed().await.is_ok() {
                tell(line, What::Confirmed, attempt);
            }
        }
    }
}
