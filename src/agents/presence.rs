//! Presence: a session is the heartbeat. The registry is written at once when an agent comes or goes, and every
//! ten seconds in one batch for the agents that are here.

mod agents;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::store::listen::Rope;
use crate::store::presence::{self, Beaten, LEFT_BEHIND_AFTER, Left, SILENT_AFTER};
use crate::store::{Pool, StoreError};
use crate::watch::health::{Duty, Health};
use agents::{Agents, Change};

pub(crate) use crate::store::presence::{Absence, Card};

/// How often the heartbeats of the agents that are here are written.
pub(crate) const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);

const _: () = assert!(HEARTBEAT_EVERY.as_secs() * 10 <= SILENT_AFTER.as_secs());
const _: () = assert!(HEARTBEAT_EVERY.as_secs() * 3 <= LEFT_BEHIND_AFTER.as_secs());

/// How long to wait after the database refused a write.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// The agents that are connected to this broker.
#[derive(Clone, Debug)]
pub(crate) struct Presence(Arc<PresenceState>);

#[derive(Debug)]
struct PresenceState {
    broker: Uuid,
    agents: Mutex<Agents>,
    changed: Notify,
    lapsed: Notify,
}

impl Presence {
    /// A presence without agents.
    pub(crate) fn new(broker: Uuid) -> Self {
        let agents = Mutex::default();
        Self(Arc::new(PresenceState { broker, agents, changed: Notify::new(), lapsed: Notify::new() }))
    }

    /// A session of this agent began; the card is what its hello said.
    pub(crate) fn joined(&self, agent: &Arc<str>, card: Option<Card>) {
        if self.agents().join(agent, card) {
            self.0.changed.notify_one();
        }
    }

    /// A session of this agent ended. If it was the last one, the absence says why the agent is gone.
    pub(crate) fn left(&self, agent: &Arc<str>, absence: Absence) {
        if self.agents().leave(agent, absence) {
            self.0.changed.notify_one();
        }
    }

    /// Whether an agent has a session here.
    pub(crate) fn is_connected(&self, agent: &str) -> bool {
        self.agents().has(agent)
    }

    /// This broker's lease had ended: other brokers may have written its agents offline.
    pub(crate) fn lapsed(&self) {
        self.0.lapsed.notify_one();
    }

    fn agents(&self) -> std::sync::MutexGuard<'_, Agents> {
        self.0.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the registry, and never ends. The heartbeats bring back a digest of the agents' access. If the
    /// digest changed, `rope` is told: this makes up for a lost notification without a statement of its own.
    pub(crate) async fn run(self, pool: Pool, rope: Arc<Rope>, health: Health) {
        let (mut access, mut is_bare) = (None, false);
        // Agents that the last heartbeats left unwritten.
        let mut suspects: HashSet<String> = HashSet::new();
        let mut heartbeat = Instant::now() + HEARTBEAT_EVERY;
        loop {
            tokio::select! {
                () = self.0.changed.notified() => {
                    health.began(Duty::Presence, tokio::time::Instant::now());
                    let written = self.write_changed(&pool).await;
                    if written.is_err() {
                        heartbeat = heartbeat.min(Instant::now() + AFTER_FAILURE);
                    }
                    told(&health, written);
                    continue;
                }
                () = self.0.lapsed.notified() => {}
                () = sleep_until(heartbeat) => {}
            }
            heartbeat = Instant::now() + HEARTBEAT_EVERY;
            health.began(Duty::Presence, tokio::time::Instant::now());
            // Changes that could not be written before are written now.
            let changed = self.write_changed(&pool).await;
            let here = self.agents().here();
            if here.is_empty() {
                told(&health, changed);
                continue;
            }
            let (those, names): (Vec<&str>, Vec<&str>) =
                here.iter().map(|a| &**a).partition(|agent| suspects.contains(*agent));
            let beaten = presence::heartbeat(&pool, self.0.broker, &names, &those, is_bare).await;
            is_bare = beaten.as_ref().is_ok_and(|beaten| beaten.is_bare);
            match beaten {
                Ok(Beaten { access: now, left, .. }) => {
                    told(&health, changed);
                    self.say(&left);
                    suspects = left.unwritten.into_iter().collect();
                    if now != access || now.is_none() {
                        access = now;
                        rope.hear_access();
                    }
                }
                Err(e) => {
                    tracing::warn!(error = %e, "heartbeats could not be written; trying again");
                    heartbeat = Instant::now() + AFTER_FAILURE;
                    told(&health, Err(e));
                }
            }
        }
    }

    /// Writes the agents that came or went since the last time. If the row of an agent refuses the change or is
    /// locked, that agent is tried again with the next heartbeats, and the others are written.
    ///
    /// # Errors
    /// See [`StoreError`]; then all changes are tried again.
    pub(crate) async fn write_changed(&self, pool: &Pool) -> Result<(), StoreError> {
        let mut changed = self.agents().take_changed();
        match self.write(pool, &changed).await {
            Ok(left) => {
                self.say(&left);
                changed.retain(|(agent, _)| left.unwritten.iter().any(|l| **l == **agent));
            }
            Err(e) => {
                tracing::warn!(error = %e, "presence could not be written; trying again");
                self.agents().put_back(changed);
                return Err(e);
            }
        }
        if !changed.is_empty() {
            self.agents().put_back(changed);
        }
        Ok(())
    }

    async fn write(&self, pool: &Pool, changed: &[(Arc<str>, Change)]) -> Result<Left, StoreError> {
        let (mut came, mut went) = (Vec::new(), Vec::new());
        for (agent, change) in changed {
            match change {
                Change::Came(card) => came.push((&**agent, card)),
                Change::Went(absence) => went.push((&**agent, *absence)),
            }
        }
        let mut left = Left::default();
        if !went.is_empty() {
            left = presence::disconnected(pool, self.0.broker, &went).await?;
        }
        if !came.is_empty() {
            let came = presence::connected(pool, self.0.broker, &came).await?;
            left.unwritten.extend(came.unwritten);
            left.refused.extend(came.refused);
        }
        Ok(left)
    }

    /// Logs each refusal once for each agent and reason.
    fn say(&self, left: &Left) {
        for (agent, why) in &left.refused {
            if self.agents().is_news(agent, why) {
                tracing::warn!(agent, why, "the registry does not take this agent's presence");
            }
        }
    }
}

/// Reports the outcome of the duty.
fn told(health: &Health, written: Result<(), StoreError>) {
    match written {
        Ok(()) => health.succeeded(Duty::Presence),
        Err(e) => health.failed(Duty::Presence, e.to_string()),
    }
}
