//! Access: the token and role that each session came in with, whether it may stay, and what its agent has left
//! of its limits.
//!
//! `agent_registry` notifies when somebody's access changed, and the heartbeats of presence notice the change
//! within ten seconds. So a lost notification costs ten seconds, and a mesh at rest costs no statement.

mod quota;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::store::agents::{AgentRow, Role, RoleLimits, TokenHash};
use crate::store::listen::Rope;
use crate::store::{Pool, access};
use postbell_client::protocol::ErrorCode;
use postbell_client::protocol::limits::LINE_BYTES_MAX;
use postbell_engine::inbox::SessionId;

pub use quota::{Outstanding, Quota, SLOW_DOWN_MIN};

/// How often the quotas of agents that left are looked at.
const FORGET_EVERY: Duration = Duration::from_secs(10);
/// How long to wait after the database did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The most bytes of all agents' messages that wait to be inserted: a thousand messages of the largest size
/// would not fit into a small container. When this is full, sessions that send wait before they read on.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(LINE_BYTES_MAX <= QUEUE_BYTES_MAX);

/// The sessions that are in, and the quotas of their agents; clones share them.
#[derive(Clone, Debug)]
pub struct Access(Arc<AccessState>);

#[derive(Debug)]
struct AccessState {
    rope: Arc<Rope>,
    inside: Mutex<Inside>,
    queue: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Inside {
    sessions: HashMap<SessionId, Stay>,
    /// Bounded by the agents of the mesh. An agent that left stays until nothing of its quota is used, so that
    /// coming again does not fill its buckets.
    agents: HashMap<Arc<str>, Share>,
}

/// As which process an agent comes in, and for which group, if it takes from one.
#[derive(Clone, Copy, Debug)]
pub struct ComesAs<'a> {
    /// The process's name.
    pub instance: Option<&'a str>,
    /// The group's name.
    pub group: Option<&'a str>,
}

/// A session, and what its access was checked by.
#[derive(Clone, Debug)]
struct Stay {
    agent: Arc<str>,
    token: TokenHash,
    role: Arc<str>,
    instance: Option<Arc<str>>,
    group: Option<Arc<str>>,
    end: Arc<EndSignal>,
}

/// The quota of an agent, and how many sessions share it.
#[derive(Debug)]
struct Share {
    quota: Arc<Quota>,
    sessions: u64,
}

/// Tells a session, once, that it must end.
#[derive(Debug, Default)]
struct EndSignal {
    code: OnceLock<ErrorCode>,
    told: Notify,
}

/// A session's permission to be here; given back when this is dropped.
#[derive(Debug)]
pub struct Ticket {
    access: Access,
    session: SessionId,
    end: Arc<EndSignal>,
    /// The role, which says what the agent may do.
    pub role: Role,
    /// The role as the registry spells it.
    pub role_word: Arc<str>,
    /// The role's limits at the time of the hello.
    pub limits: RoleLimits,
    /// The rest that the agent has of its limits.
    pub quota: Arc<Quota>,
}

impl Access {
    /// An access without sessions.
    pub fn new(rope: Arc<Rope>) -> Self {
        let queue = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
        Self(Arc::new(AccessState { rope, inside: Mutex::default(), queue }))
    }

    /// How many changes of access were heard so far: ask before authenticating, for [`enter`](Self::enter).
    pub fn heard(&self) -> u64 {
        self.0.rope.access()
    }

    /// Lets an authenticated session in. `heard` is from before the agent was looked up: if a change was heard
    /// since, the look-up may not have seen it, and all sessions are looked up again.
    ///
    /// # Errors
    /// The number of connections that the role allows, if the agent has so many already. A connection that
    /// takes over from the same instance is let in all the same.
    pub fn enter(
        &self,
        session: SessionId,
        agent: &AgentRow,
        token: TokenHash,
        instance: Option<&str>,
        heard: u64,
    ) -> Result<Ticket, u64> {
        self.enter_for(session, agent, token, ComesAs { instance, group: None }, heard)
    }

    /// [`enter`](Self::enter) for a session that takes from a group: it ends as well when the agent may not
    /// take from the group any more.
    ///
    /// # Errors
    /// See [`enter`](Self::enter).
    pub fn enter_for(
        &self,
        session: SessionId,
        agent: &AgentRow,
        token: TokenHash,
        ComesAs { instance, group }: ComesAs<'_>,
        heard: u64,
    ) -> Result<Ticket, u64> {
        let now = Instant::now();
        let end = Arc::<EndSignal>::default();
        let mut inside = self.inside();
        let inbox: Arc<str> = agent.agent_id.as_str().into();
        let most = agent.limits.connections.unwrap_or(u64::MAX);
        let share = inside.agents.get(&inbox);
        if share.is_some_and(|s| s.sessions >= most) && !inside.has_instance(&inbox, instance) {
            return Err(most);
        }
        let share = inside
            .agents
            .entry(inbox.clone())
            .or_insert_with(|| Share { quota: Arc::new(Quota::new(now, &agent.limits)), sessions: 0 });
        share.sessions += 1;
        share.quota.set_limits(now, &agent.limits);
        let quota = share.quota.clone();
        let stay = Stay {
            agent: inbox,
            token,
            role: agent.role.as_str().into(),
            instance: instance.map(Into::into),
            group: group.map(Into::into),
            end: end.clone(),
        };
        inside.sessions.insert(session, stay);
        drop(inside);
        if self.heard() != heard {
            self.0.rope.hear_access();
        }
        Ok(Ticket {
            access: self.clone(),
            session,
            end,
            role: Role::of(&agent.role),
            role_word: agent.role.as_str().into(),
            limits: agent.limits,
            quota,
        })
    }

    /// Waits for room to hold a message until it is inserted. The longest line fits into the whole, so the wait
    /// ends.
    pub async fn queue_room(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(QUEUE_BYTES_MAX)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        self.0.queue.clone().acquire_many_owned(bytes).await.ok()
    }

    /// Looks sessions up whenever a change of access is heard, and never ends.
    pub async fn run(self, pool: Pool) {
        let mut every = interval(FORGET_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.0.rope.access_changed() => while !self.check(&pool).await {
                    sleep(RETRY_AFTER).await;
                },
                _ = every.tick() => self.forget_unused(Instant::now()),
            }
        }
    }

    /// Ends the sessions that may not stay; false if the database did not answer.
    async fn check(&self, pool: &Pool) -> bool {
        let stays: Vec<(SessionId, Stay)> =
            self.inside().sessions.iter().map(|(id, stay)| (*id, stay.clone())).collect();
        if stays.is_empty() {
            return true;
        }
        let entries: Vec<access::SessionAccess<'_>> = stays
            .iter()
            .map(|(id, stay)| access::SessionAccess {
                session: *id,
                agent: &stay.agent,
                token: &stay.token,
                role: &stay.role,
                group: stay.group.as_deref(),
            })
            .collect();
        match access::lost(pool, &entries).await {
            Ok(lost) => {
                let inside = self.inside();
                for (session, may_connect) in lost {
                    if let Some(stay) = inside.sessions.get(&session) {
                        stay.end.tell(may_connect);
                    }
                }
                true
            }
            Err(e) => {
                tracing::warn!(error = %e, "whether the agents here may stay could not be read; trying again");
                false
            }
        }
    }

    fn forget_unused(&self, now: Instant) {
        self.inside().agents.retain(|_, share| share.sessions > 0 || !share.quota.is_unused(now));
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn has_instance(&self, agent: &Arc<str>, instance: Option<&str>) -> bool {
        instance.is_some()
            && self.sessions.values().any(|s| s.agent == *agent && s.instance.as_deref() == instance)
    }
}

impl EndSignal {
    fn tell(&self, may_connect: bool) {
        let code = if may_connect { ErrorCode::RoleChanged } else { ErrorCode::Disabled };
        if self.code.set(code).is_ok() {
            self.told.notify_one();
        }
    }
}

impl Ticket {
    /// Waits until the session must end; returns the code.
    pub async fn ended(&self) -> ErrorCode {
        loop {
            if let Some(code) = self.end.code.get() {
                return *code;
            }
            self.end.told.notified().await;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inside = self.access.inside();
        if let Some(stay) = inside.sessions.remove(&self.session)
            && let Some(share) = inside.agents.get_mut(&stay.agent)
        {
            share.sessions -= 1;
        }
    }
}
