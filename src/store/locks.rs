//! Locks for tasks that several agents could do: one holds a lock for a time, under a fence, a number that grows.

use std::time::Duration;

use super::agents::RoleLimits;
use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;
use crate::store::sql::queries;

/// How often to ask for a lock whose key is new. The loser of a race does not see the winner's row in its snapshot
/// and asks again; the winner may have given the lock back at once, so asking may be needed several times.
const ASK_MAX: u32 = 5;

/// The answer to a request for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LockAnswer {
    /// The asking agent holds the lock, under this fence.
    Held(i64),
    /// Another agent holds the lock, or the task is done.
    Taken(Taken),
    /// This agent may not hold this lock.
    Forbidden,
    /// This agent holds as many locks as it may.
    TooMany,
}

/// The answer to giving a lock back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// The lock is given back, or its task is marked as done.
    Yes,
    /// The lock was no longer held under this fence.
    NotHeld,
    /// This agent has marked as many tasks as it may.
    TooMany,
}

/// The agent that asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker<'a> {
    /// The agent's name, under which the lock is held.
    pub agent: &'a str,
    /// The agent's role in the registry.
    pub role: &'a str,
    /// The limits of that role.
    pub limits: &'a RoleLimits,
}

/// The reason why a lock cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The holder, or the agent that did the task; `None` if the lock was given back this moment.
    pub holder: Option<String>,
    /// The time left, unless the holder extends it.
    pub left: Duration,
    /// Whether the task is done.
    pub is_done: bool,
}

/// Acquires a lock. With the fence of a lock that the agent holds, extends that lock.
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn acquire(
    pool: &Pool,
    asker: Asker<'_>,
    key: &str,
    ttl: Duration,
    fence: Option<i64>,
) -> Result<LockAnswer, StoreError> {
    let Asker { agent, role, limits } = asker;
    let (most, ttl_ms) = (at_most(limits.locks_held), ttl.as_millis() as i64);
    let mut asked = 0;
    let row = loop {
        let row =
            pool.query_one(queries::LOCK_ACQUIRE, &[&key, &agent, &ttl_ms, &fence, &most, &role]).await?;
        if !row.cell::<_, bool>("may")? {
            return Ok(LockAnswer::Forbidden);
        }
        if row.cell("is_full")? {
            return Ok(LockAnswer::TooMany);
        }
        if let Some(fence) = row.cell("fence")? {
            return Ok(LockAnswer::Held(fence));
        }
        asked += 1;
        let holder: Option<&str> = row.cell("holder")?;
        if holder.is_some() || fence.is_some() || asked == ASK_MAX {
            break row;
        }
    };
    let left_ms: Option<i64> = row.cell("left_ms")?;
    Ok(LockAnswer::Taken(Taken {
        holder: row.cell("holder")?,
        left: Duration::from_millis(left_ms.unwrap_or(0).max(0) as u64),
        is_done: row.cell::<_, Option<bool>>("is_done")?.unwrap_or(false),
    }))
}

/// Gives a lock back, or marks its task as done.
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn release(
    pool: &Pool,
    asker: Asker<'_>,
    key: &str,
    fence: i64,
    done: bool,
) -> Result<Released, StoreError> {
    let most = at_most(asker.limits.locks_done);
    let row = pool.query_one(queries::LOCK_RELEASE, &[&key, &asker.agent, &fence, &done, &most]).await?;
    Ok(match (row.cell("was_held")?, row.cell("is_full")?) {
        (true, _) => Released::Yes,
        (false, true) => Released::TooMany,
        (false, false) => Released::NotHeld,
    })
}

fn at_most(limit: Option<u64>) -> Option<i64> {
    limit.map(|n| i64::try_from(n).unwrap_or(i64::MAX))
}
