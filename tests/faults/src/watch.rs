//! Watches the brokers during the campaign: the rows that the tail found late, the memory, and whether agents can be
//! led to them.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::broker::{is_ready, metric};
use crate::load::SharedLedger;
use crate::proxy::Up;
use crate::schedule::letter;

const LOOK_EVERY: Duration = Duration::from_millis(500);
const LATE: &str = "postbell_tail_late_total";
const MEMORY: &str = "process_resident_memory_bytes";

/// The safety round found something that the bell should have announced.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Late {
    /// When it was seen, in milliseconds of the campaign; the event itself was up to one look earlier.
    pub at_ms: u32,
    /// The letter of the broker.
    pub broker: char,
    /// How many rows.
    pub rows: u64,
}

/// The observations of a broker.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Each time that the tail was late.
    pub late: Vec<Late>,
    /// The most memory that any of its lives took.
    pub memory_bytes_max: u64,
}

/// Watches a broker until `stop` is set. A broker that is started again counts from 0.
pub async fn watch(
    broker: usize,
    http: SocketAddr,
    ledger: SharedLedger,
    mut stop: watch::Receiver<bool>,
) -> Watched {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut watched, mut last) = (Watched::default(), 0);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return watched,
        }
        // No answer comes while the broker is stopped or killed.
        let Some(now) = metric(http, LATE).await else { continue };
        let rows = if now < last { now } else { now - last };
        last = now;
        if rows > 0 {
            let at_ms = ledger.lock().now_ms();
            watched.late.push(Late { at_ms, broker: letter(broker), rows });
        }
        watched.memory_bytes_max = watched.memory_bytes_max.max(metric(http, MEMORY).await.unwrap_or(0));
    }
}

/// Keeps the agents' proxy from leading connections to a broker that is not ready, as a load balancer does.
pub async fn check(brokers: Vec<SocketAddr>, up: Up) {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (http, up) in brokers.iter().zip(up.iter()) {
            up.store(is_ready(*http).await, Ordering::Relaxed);
        }
    }
}
