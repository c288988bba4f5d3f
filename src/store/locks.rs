//! Locks for tasks that several could do: one holds it for a time, under a number that grows.

use std::time::Duration;

use super::agents::RoleLimits;
use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;

const ACQUIRE: &str = include_str!("../../sql/queries/lock_acquire.sql");
const RELEASE: &str = include_str!("../../sql/queries/lock_release.sql");

/// Who loses a race for a key that nobody had before does not see the winner's row in its snapshot, and asks again. So
/// often: who wins may give it back at once.
const ASK_MAX: u32 = 5;

/// What became of asking for a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It is held by whoever asked, under this fence.
    Held(i64),
    /// It is not.
    Taken(Taken),
    /// This agent may not hold it.
    Forbidden,
    /// This agent holds as many as it may.
    TooMany,
}

/// What became of giving one back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// It is given back, or done.
    Yes,
    /// It was not held under this fence any more.
    NotHeld,
    /// This agent has marked as many tasks as it may.
    TooMany,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Which agent.
    pub agent: &'a str,
    /// Its role, as the registry has it.
    pub role: &'a str,
    /// How much it allows.
    pub limits: &'a RoleLimits,
}

/// Why a lock cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whose it is, or was when the task was done; `None`: it was given back this moment.
    pub holder: Option<String>,
    /// For how long still, unless the holder says so again.
    pub left: Duration,
    /// The task is done.
    pub is_done: bool,
}

/// Takes a lock; with the fence of one that is held, holds it for longer.
///
/// # Errors
/// See [`StoreError`].
pub async fn acquire(
    pool: &Pool,
    asker: Asker<'_>,
    key: &str,
    ttl: Duration,
    fence: Option<i64>,
) -> Result<Acquired, StoreError> {
    let Asker { agent, role, limits } = asker;
    let (most, ttl_ms) = (at_most(limits.locks_held), ttl.as_millis() as i64);
    let mut asked = 0;
    let row = loop {
        let row = pool.query_one(ACQUIRE, &[&key, &agent, &ttl_ms, &fence, &most, &role]).await?;
        if !row.cell::<_, bool>("may")? {
            return Ok(Acquired::Forbidden);
        }
        if row.cell("is_full")? {
            return Ok(Acquired::TooMany);
        }
        if let Some(fence) = row.cell("fence")? {
            return Ok(Acquired::Held(fence));
        }
        asked += 1;
        let holder: Option<&str> = row.cell("holder")?;
        if holder.is_some() || fence.is_some() || asked == ASK_MAX {
            break row;
        }
    };
    let left_ms: Option<i64> = row.cell("left_ms")?;
    Ok(Acquired::Taken(Taken {
        holder: row.cell("holder")?,
        left: Duration::from_millis(left_ms.unwrap_or(0).max(0) as u64),
        is_done: row.cell::<_, Option<bool>>("is_done")?.unwrap_or(false),
    }))
}

/// Gives a lock back, or marks its task as done.
///
/// # Errors
/// See [`StoreError`].
pub async fn release(
    pool: &Pool,
    asker: Asker<'_>,
    key: &str,
    fence: i64,
    done: bool,
) -> Result<Released, StoreError> {
    let most = at_most(asker.limits.locks_done);
    let row = pool.query_one(RELEASE, &[&key, &asker.agent, &fence, &done, &most]).await?;
    Ok(match (row.cell("was_held")?, row.cell("is_full")?) {
        (true, _) => Released::Yes,
        (false, true) => Released::TooMany,
        (false, false) => Released::NotHeld,
    })
}

fn at_most(limit: Option<u64>) -> Option<i64> {
    limit.map(|n| i64::try_from(n).unwrap_or(i64::MAX))
}
