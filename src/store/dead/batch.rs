//! Redriving and purging: many dead letters by one statement; if a row of the user's refuses that, halves of them,
//! down to that row.

use tokio::time::Instant;

use super::done::{Done, Partly, Refusal};
use super::{Chosen, ruled};
use crate::store::blame;
use crate::store::cell::Cells;
use crate::store::cut_off;
use crate::store::error::{Fault, StoreError};
use crate::store::pool::Pool;
use crate::store::sql::queries;
use postbell_engine::inbox::DeliveryId;

/// The most dead letters that one transaction redrives or purges. A hundred thousand at once would be a long lock,
/// and a wave.
const BATCH_ROWS: i64 = 5_000;
/// The trigger is looked up for at most so many refused rows; the others say what the database said.
const EXPLAINED_MAX: usize = 20;
/// feature_not_supported: a rule of the table does not go with a statement that writes to several tables.
const NOT_WITH_A_RULE: &str = "0A000";

/// Makes dead letters ready again, with all their attempts, and rings. Returns how many.
///
/// # Errors
/// See [`Partly`].
pub async fn redrive(pool: &Pool, chosen: &Chosen<'_>) -> Result<i64, Partly> {
    all(&Write::new(pool, Op::Redrive), chosen).await
}

/// Deletes dead letters; their messages stay `failed` until retention. Returns how many.
///
/// # Errors
/// See [`Partly`].
pub async fn purge(pool: &Pool, chosen: &Chosen<'_>) -> Result<i64, Partly> {
    all(&Write::new(pool, Op::Purge), chosen).await
}

/// Redrives at most `most` dead letters: the `ids` (only those of the inbox, if one is given), or those of the inbox
/// with ids above `after`. One transaction redrives them all. If a row is refused, halves are tried until the time
/// `until`.
///
/// # Errors
/// See [`StoreError`]; nobody then knows which were redriven.
pub async fn redrive_some(
    pool: &Pool,
    ids: Option<&[i64]>,
    inbox: Option<&str>,
    (after, most): (DeliveryId, i64),
    until: Instant,
) -> Result<Done, StoreError> {
    some(&Write { until: Some(until), ..Write::new(pool, Op::Redrive) }, Range { ids, inbox, after, most })
        .await
}

/// Purges dead letters that are chosen as in [`redrive_some`].
///
/// # Errors
/// See [`redrive_some`].
pub async fn purge_some(
    pool: &Pool,
    ids: Option<&[i64]>,
    inbox: Option<&str>,
    (after, most): (DeliveryId, i64),
    until: Instant,
) -> Result<Done, StoreError> {
    some(&Write { until: Some(until), ..Write::new(pool, Op::Purge) }, Range { ids, inbox, after, most })
        .await
}

/// A change of dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Redrive,
    Purge,
}

impl Op {
    fn sql(self) -> &'static str {
        match self {
            Self::Redrive => queries::DEAD_REDRIVE,
            Self::Purge => queries::DEAD_PURGE,
        }
    }

    /// The status that a message has afterwards.
    fn status(self) -> &'static str {
        match self {
            Self::Redrive => "pending",
            Self::Purge => "failed",
        }
    }
}

#[derive(Clone, Copy)]
struct Write<'a> {
    pool: &'a Pool,
    op: Op,
    /// Halves are tried until this moment.
    until: Option<Instant>,
    /// A rule is on the user's table.
    is_ruled: bool,
}

impl<'a> Write<'a> {
    fn new(pool: &'a Pool, op: Op) -> Self {
        Self { pool, op, until: None, is_ruled: false }
    }
}

/// The dead letters that a statement is for.
#[derive(Clone, Copy)]
pub(super) struct Range<'a> {
    pub(super) ids: Option<&'a [i64]>,
    pub(super) inbox: Option<&'a str>,
    pub(super) after: DeliveryId,
    pub(super) most: i64,
}

async fn all(write: &Write<'_>, chosen: &Chosen<'_>) -> Result<i64, Partly> {
    let mut done = Done::default();
    let error = in_batches(write, chosen, &mut done).await.err();
    if error.is_none() && done.is_whole() { Ok(done.count) } else { Err(Partly { done, error }) }
}

async fn in_batches(write: &Write<'_>, chosen: &Chosen<'_>, done: &mut Done) -> Result<(), StoreError> {
    match *chosen {
        Chosen::Ids(ids) => all_of(write, Some(ids), None, done).await,
        Chosen::Inbox(inbox) => all_of(write, None, Some(inbox), done).await,
        Chosen::All => {
            for row in write.pool.query(queries::DEAD_INBOXES, &[]).await? {
                all_of(write, None, Some(row.cell("inbox")?), done).await?;
            }
            Ok(())
        }
    }
}

/// Repeats until a batch is not full. Each batch begins after the last one, so a letter that an agent fails at once
/// is not redriven again.
async fn all_of(
    write: &Write<'_>,
    ids: Option<&[i64]>,
    inbox: Option<&str>,
    done: &mut Done,
) -> Result<(), StoreError> {
    let mut after = DeliveryId::MIN;
    loop {
        let batch = some(write, Range { ids, inbox, after, most: BATCH_ROWS }).await?;
        let is_last = batch.looked < BATCH_ROWS;
        after = batch.last.unwrap_or(after);
        done.add(batch);
        if is_last {
            return Ok(());
        }
    }
}

async fn some(write: &Write<'_>, range: Range<'_>) -> Result<Done, StoreError> {
    let refused = match statement(write, range).await {
        Err(e) if is_of_a_row(&e) && (e.fault() == Fault::Slow || blame::begins(write.pool, &e).await) => e,
        done => return done,
    };
    let is_ruled = refused.sqlstate() == Some(NOT_WITH_A_RULE);
    let write = &Write { is_ruled, ..*write };
    match is_ruled {
        true => match statement(write, range).await {
            Err(e) if is_of_a_row(&e) => halves(write, range).await,
            done => done,
        },
        false => halves(write, range).await,
    }
}

async fn statement(write: &Write<'_>, range: Range<'_>) -> Result<Done, StoreError> {
    if write.is_ruled {
        return ruled::statements(write.pool, write.op, range).await;
    }
    let Range { ids, inbox, after, most } = range;
    let row = write.pool.write_one(write.op.sql(), &[&ids, &inbox, &after.0, &most]).await?;
    let kept: Vec<i64> = row.cell("kept")?;
    Ok(Done {
        count: row.cell("n")?,
        looked: row.cell("looked")?,
        last: row.cell::<_, Option<_>>("last")?.map(DeliveryId),
        held: row.cell("held")?,
        untried: 0,
        refused: kept.into_iter().map(Refusal::kept_out).collect(),
    })
}

/// Whether one of the rows may be to blame, once a search began: the server answered, and goes on.
fn is_of_a_row(e: &StoreError) -> bool {
    e.is_answered() && e.fault() != Fault::Ours
}

/// Tries halves of a range that was refused as a whole, until each refused row is alone.
async fn halves(write: &Write<'_>, range: Range<'_>) -> Result<Done, StoreError> {
    let Range { ids, inbox, after, most } = range;
    let rows = write.pool.query(queries::DEAD_CHOSEN, &[&ids, &inbox, &after.0, &most]).await?;
    let numbers = rows.iter().map(|row| row.cell("delivery_id")).collect::<Result<Vec<i64>, _>>()?;
    let (looked, last) = (numbers.len() as i64, numbers.last().copied().map(DeliveryId));
    let mut done = Done::default();
    let mut parts = vec![numbers.as_slice()];
    while let Some(part) = parts.pop() {
        if write.until.is_some_and(|until| Instant::now() >= until) {
            done.untried += part.len();
            continue;
        }
        let these = Range { ids: Some(part), inbox, after: DeliveryId::MIN, most: part.len() as i64 };
        match (statement(write, these).await, part) {
            (Ok(some), _) => done.add(some),
            (Err(e), &[delivery_id]) if is_of_a_row(&e) => {
                let is_explained = done.refused.len() < EXPLAINED_MAX;
                let why = if is_explained { why_refused(write, delivery_id).await } else { None };
                done.refused.push(Refusal { delivery_id, reason: why.unwrap_or_else(|| e.to_string()) });
            }
            (Err(e), part) if is_of_a_row(&e) => {
                parts.extend(cut_off::halves(part));
            }
            (Err(e), _) => return Err(e),
        }
    }
    // Letters that are gone by now count as looked at all the same.
    Ok(Done { looked, last, ..done })
}

/// The constraint or trigger that refuses a row, by name: found by writing the row once more, in a transaction that
/// is rolled back.
async fn why_refused(write: &Write<'_>, delivery_id: i64) -> Option<String> {
    let mut why = None;
    let read = |row: Option<&tokio_postgres::Row>| {
        why = row.and_then(|row| row.cell::<_, Option<String>>("why").ok().flatten());
        Err::<(), _>(StoreError::refused("rolled back"))
    };
    // An error here is the one for which the caller was refused already.
    let _ = write.pool.in_transaction(queries::DEAD_REFUSED, &[&delivery_id, &write.op.status()], read).await;
    why
}
