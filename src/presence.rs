//! Presence: a session is the heartbeat. The registry is written at once when an agent comes or goes, and every
//! ten seconds in one batch for those that are here.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::postgres::listen::Rope;
use crate::postgres::{Pool, StoreError, presence};

/// How often those that are here are written.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);

/// Who is connected to this broker.
#[derive(Clone, Debug, Default)]
pub struct Presence(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    agents: Mutex<Agents>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Agents {
    sessions: HashMap<Arc<str>, usize>,
    /// Came or went since the registry was written last. Bounded by the agents there are.
    changed: HashSet<Arc<str>>,
}

impl Presence {
    /// A session of this agent began.
    pub fn joined(&self, agent: &Arc<str>) {
        self.change(agent, |sessions| sessions + 1);
    }

    /// A session of this agent ended.
    pub fn left(&self, agent: &Arc<str>) {
        self.change(agent, |sessions| sessions.saturating_sub(1));
    }

    /// Whether an agent has a session here.
    pub fn is_connected(&self, agent: &str) -> bool {
        self.agents().sessions.contains_key(agent)
    }

    fn change(&self, agent: &Arc<str>, change: impl Fn(usize) -> usize) {
        let mut agents = self.agents();
        let before = agents.sessions.remove(agent).unwrap_or(0);
        let after = change(before);
        if after > 0 {
            agents.sessions.insert(agent.clone(), after);
        }
        if (before == 0) != (after == 0) {
            agents.changed.insert(agent.clone());
            self.0.changed.notify_one();
        }
    }

    fn agents(&self) -> std::sync::MutexGuard<'_, Agents> {
        self.0.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that came and those that went since the last call.
    fn take_changed(&self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let mut agents = self.agents();
        let changed = std::mem::take(&mut agents.changed);
        changed.into_iter().partition(|agent| agents.sessions.contains_key(agent))
    }

    /// Writes the registry for ever. What the heartbeats bring back of the agents' access is compared with the last time:
    /// a notification that was lost is made up for on `rope`, at no statement of its own.
    pub async fn run(self, pool: Pool, rope: Arc<Rope>) {
        let mut access = None;
        let mut heartbeat = Instant::now() + HEARTBEAT_EVERY;
        loop {
            tokio::select! {
                () = self.0.changed.notified() => self.write_changed(&pool).await,
                () = sleep_until(heartbeat) => {
                    heartbeat = Instant::now() + HEARTBEAT_EVERY;
                    // What could not be written before is written now.
                    self.write_changed(&pool).await;
                    let here: Vec<Arc<str>> = self.agents().sessions.keys().cloned().collect();
                    let names: Vec<&str> = here.iter().map(|a| &**a).collect();
                    if names.is_empty() {
                        continue;
                    }
                    match presence::heartbeat(&pool, &names).await {
                        Ok(now) if access.as_ref() == Some(&now) => {}
                        Ok(now) => {
                            access = Some(now);
                            rope.hear_access();
                        }
                        Err(e) => tracing::warn!(error = %e, "heartbeats could not be written; trying again"),
                    }
                }
            }
        }
    }

    /// Writes those that came and went since the last time.
    pub async fn write_changed(&self, pool: &Pool) {
        let (came, went) = self.take_changed();
        let write = async {
            let names: Vec<&str> = came.iter().map(|a| &**a).collect();
            if !names.is_empty() {
                presence::connected(pool, &names).await?;
            }
            let names: Vec<&str> = went.iter().map(|a| &**a).collect();
            if !names.is_empty() {
                presence::disconnected(pool, &names).await?;
            }
            Ok::<(), StoreError>(())
        };
        if let Err(e) = write.await {
            tracing::warn!(error = %e, "presence could not be written; trying again");
            self.agents().changed.extend(came.into_iter().chain(went));
        }
    }
}
