//! Presence: a session is the heartbeat. The registry is written at once when an agent comes or goes, and every
//! ten seconds in one batch for those that are here.

mod agents;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::postgres::listen::Rope;
use crate::postgres::presence::{self, SILENT_AFTER};
use crate::postgres::{Pool, StoreError};
use agents::{Agents, Change};

pub use crate::postgres::presence::{Absence, Card};

/// How often those that are here are written.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);

const _: () = assert!(HEARTBEAT_EVERY.as_secs() * 10 <= SILENT_AFTER.as_secs());

/// Who is connected to this broker.
#[derive(Clone, Debug)]
pub struct Presence(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    broker: Uuid,
    agents: Mutex<Agents>,
    changed: Notify,
    lapsed: Notify,
}

impl Presence {
    /// Nobody, yet.
    pub fn new(broker: Uuid) -> Self {
        let agents = Mutex::default();
        Self(Arc::new(Shared { broker, agents, changed: Notify::new(), lapsed: Notify::new() }))
    }

    /// A session of this agent began, and said so much of it.
    pub fn joined(&self, agent: &Arc<str>, card: Option<Card>) {
        if self.agents().join(agent, card) {
            self.0.changed.notify_one();
        }
    }

    /// A session of this agent ended; if it was the last one, this is why the agent is gone.
    pub fn left(&self, agent: &Arc<str>, absence: Absence) {
        if self.agents().leave(agent, absence) {
            self.0.changed.notify_one();
        }
    }

    /// Whether an agent has a session here.
    pub fn is_connected(&self, agent: &str) -> bool {
        self.agents().has(agent)
    }

    /// This broker's lease had ended: the others may have written its agents offline.
    pub fn lapsed(&self) {
        self.0.lapsed.notify_one();
    }

    fn agents(&self) -> std::sync::MutexGuard<'_, Agents> {
        self.0.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the registry for ever. What the heartbeats bring back of the agents' access is compared with the last time:
    /// a notification that was lost is made up for on `rope`, at no statement of its own.
    pub async fn run(self, pool: Pool, rope: Arc<Rope>) {
        let mut access = None;
        let mut heartbeat = Instant::now() + HEARTBEAT_EVERY;
        loop {
            tokio::select! {
                () = self.0.changed.notified() => {
                    self.write_changed(&pool).await;
                    continue;
                }
                () = self.0.lapsed.notified() => {}
                () = sleep_until(heartbeat) => {}
            }
            heartbeat = Instant::now() + HEARTBEAT_EVERY;
            // What could not be written before is written now.
            self.write_changed(&pool).await;
            let here = self.agents().here();
            let names: Vec<&str> = here.iter().map(|a| &**a).collect();
            if names.is_empty() {
                continue;
            }
            match presence::heartbeat(&pool, self.0.broker, &names).await {
                Ok(now) if access.as_ref() == Some(&now) => {}
                Ok(now) => {
                    access = Some(now);
                    rope.hear_access();
                }
                Err(e) => tracing::warn!(error = %e, "heartbeats could not be written; trying again"),
            }
        }
    }

    /// Writes those that came and went since the last time.
    pub async fn write_changed(&self, pool: &Pool) {
        let changed = self.agents().take_changed();
        if let Err(e) = self.write(pool, &changed).await {
            tracing::warn!(error = %e, "presence could not be written; trying again");
            self.agents().put_back(changed);
        }
    }

    async fn write(&self, pool: &Pool, changed: &[(Arc<str>, Change)]) -> Result<(), StoreError> {
        let (mut came, mut went) = (Vec::new(), Vec::new());
        for (agent, change) in changed {
            match change {
                Change::Came(card) => came.push((&**agent, card)),
                Change::Went(absence) => went.push((&**agent, *absence)),
            }
        }
        if !went.is_empty() {
            presence::disconnected(pool, self.0.broker, &went).await?;
        }
        match came.is_empty() {
            true => Ok(()),
            false => self.write_came(pool, &came).await,
        }
    }

    /// What a hello says may not suit the registry of an adopted mesh: one such agent must not keep the others from being
    /// online, nor itself.
    async fn write_came(&self, pool: &Pool, came: &[(&str, &Card)]) -> Result<(), StoreError> {
        let broker = self.0.broker;
        match presence::connected(pool, broker, came).await {
            Err(e) if !e.is_retryable() && came.iter().any(|(_, card)| !card.is_empty()) => {}
            written => return written,
        }
        for (agent, card) in came {
            match presence::connected(pool, broker, &[(*agent, *card)]).await {
                Err(e) if !e.is_retryable() && !card.is_empty() => {
                    tracing::warn!(agent, error = %e, "the registry does not take what this agent's hello says of it");
                    presence::connected(pool, broker, &[(*agent, &Card::default())]).await?;
                }
                written => written?,
            }
        }
        Ok(())
    }
}
