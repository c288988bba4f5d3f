//! Sends that are slow and yet stored in time, more of them than the publisher has time for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::timeout;

use super::{is_served, to};
use crate::mesh::{Mesh, PATIENCE};

#[tokio::test]
async fn an_agent_whose_sends_are_slow_is_written_apart_and_holds_up_nobody_else() {
    let mesh = Mesh::start().await;
    mesh.db
        .sql()
        .await
        .batch_execute(
            "create function slow() returns trigger language plpgsql as $$
               begin if new.from_agent_id = 'a' then perform pg_sleep(0.15); end if; return new; end $$;
             create trigger slow before insert on agent_messages for each row execute function slow()",
        )
        .await
        .unwrap();
    let ((a, _), (u, _)) = (mesh.connect("a", 0).await, mesh.connect("u", 0).await);
    let stop = Arc::new(AtomicBool::new(false));
    let floods = tokio::spawn({
        let stop = stop.clone();
        async move {
            let mut receipts = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                receipts.push(a.submit(to("r", &"slow")).await.unwrap());
                // An answer to some of them, so that the flood has a pace.
                if receipts.len() >= 20 {
                    for receipt in receipts.drain(..10) {
                        let _ = timeout(PATIENCE, receipt.committed()).await.expect("answered");
                    }
                }
            }
        }
    });
    // Found at the latest here, and from then on nobody waits for them.
    for n in 0..10 {
        timeout(PATIENCE, u.send(to("r", &n))).await.expect("answered").expect("stored");
    }
    is_served(&u, 100).await;
    stop.store(true, Ordering::Relaxed);
    floods.await.unwrap();
    mesh.stop().await;
}
