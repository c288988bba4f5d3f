//! Settling: outcomes become the truth in the tables, many by one statement; where the user's table refuses that, one by one.

use std::collections::HashMap;

use uuid::Uuid;

use super::cell::Cells;
use super::connection::{Connection, Params, Target};
use super::error::StoreError;
use postbell_engine::inbox::event::{Outcome, Settle};

const ACK: &str = include_str!("../../sql/queries/settle_ack.sql");
const RETRY: &str = include_str!("../../sql/queries/settle_retry.sql");
const DEAD: &str = include_str!("../../sql/queries/settle_dead.sql");
const EXPIRED: &str = include_str!("../../sql/queries/settle_expired.sql");
const UNMARKED: &str = include_str!("../../sql/queries/settle_unmarked.sql");
const EACH: &str = include_str!("../../sql/queries/settle_each.sql");
const SESSION: &str = include_str!("../../sql/queries/settle_session.sql");
const RELANE: &str = include_str!("../../sql/queries/settle_relane.sql");
const MARK: &str = include_str!("../../sql/queries/mark_delivered.sql");
const MARK_EACH: &str = include_str!("../../sql/queries/mark_each.sql");

/// For how long rows of the user's are tried one by one, before the rest of a batch is set aside untried.
const TRY_MS: i32 = 300;
/// Why a row is set aside untried.
const UNTRIED: &str =
    "the changes of agent_messages take too long, by slow triggers or by locks: it is tried again by itself";

/// What a kind of outcome changes: each has a statement of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Acknowledged.
    Ack,
    /// Ready again, at once or later.
    Retry,
    /// A dead letter.
    Dead,
    /// Too late to deliver.
    Expired,
    /// A reply that goes to another lane: of the deliveries alone.
    Relane,
}

impl Kind {
    /// The kind of an outcome.
    pub fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Ack { .. } => Self::Ack,
            Outcome::Release { .. } | Outcome::Fail { .. } | Outcome::Spare { .. } => Self::Retry,
            Outcome::Dead { .. } => Self::Dead,
            Outcome::Expired => Self::Expired,
            Outcome::Relane { .. } => Self::Relane,
        }
    }

    /// Whether messages are changed as well, which are the user's.
    pub fn marks(self) -> bool {
        self != Self::Relane
    }

    /// As `postbell.set_aside.kind` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Retry => "retry",
            Self::Dead => "dead",
            Self::Expired => "expired",
            Self::Relane => "relane",
        }
    }
}

/// What became of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// It is written.
    Written,
    /// The delivery's own change is written; what the message's row does not take is set aside.
    Aside,
    /// It changed nothing: it was settled before, or is another attempt's.
    Stale,
    /// Another transaction holds the delivery: nothing is changed yet.
    Held,
}

/// What a call changed.
#[derive(Debug, Default)]
pub struct Settled {
    /// One for each outcome, in the order of the batch.
    pub became: Vec<Became>,
    /// Why something was set aside: of the first.
    pub why: Option<String>,
}

/// The arrays of one kind of outcome.
#[derive(Default)]
struct Arrays<'a> {
    kinds: Vec<&'static str>,
    ids: Vec<i64>,
    attempts: Vec<i16>,
    added: Vec<i16>,
    delays_ms: Vec<i64>,
    reasons: Vec<Option<&'a str>>,
    lanes: Vec<i16>,
}

impl<'a> Arrays<'a> {
    fn of(batch: &'a [Settle]) -> Self {
        let mut arrays = Self::default();
        for settle in batch {
            let (added, delay_ms, reason) = match &settle.outcome {
                Outcome::Ack { .. } | Outcome::Expired | Outcome::Relane { .. } => (0, 0, None),
                Outcome::Spare { reason } => (0, 0, Some(reason.as_str())),
                Outcome::Release { delay } => (0, delay.as_millis() as i64, None),
                Outcome::Fail { delay, reason, .. } => (1, delay.as_millis() as i64, Some(reason.as_str())),
                // What could not be pushed was not tried.
                Outcome::Dead { cause, reason } => (i16::from(cause.was_tried()), 0, Some(reason.as_str())),
            };
            arrays.kinds.push(Kind::of(&settle.outcome).as_str());
            arrays.ids.push(settle.delivery_id);
            arrays.attempts.push(i16::try_from(settle.attempt).unwrap_or(i16::MAX));
            arrays.added.push(added);
            arrays.delays_ms.push(delay_ms);
            arrays.reasons.push(reason);
            if let Outcome::Relane { lane } = &settle.outcome {
                arrays.lanes.push(i16::try_from(*lane).unwrap_or(i16::MAX));
            }
        }
        arrays
    }
}

/// A connection for what writes to the user's tables: it waits for no lock and no trigger for long.
///
/// # Errors
/// See [`StoreError`].
pub async fn open(target: &Target) -> Result<Connection, StoreError> {
    let connection = Connection::open(target).await?;
    connection.batch(SESSION).await?;
    Ok(connection)
}

/// Writes a batch of one kind by one statement, and so one transaction. When this returns all are committed.
///
/// # Errors
/// See [`StoreError`]; then it may or may not be committed, and writing it again changes nothing more.
pub async fn settle_kind(
    connection: &Connection,
    kind: Kind,
    batch: &[Settle],
) -> Result<Settled, StoreError> {
    let Arrays { ids, attempts, added, delays_ms, reasons, lanes, .. } = &Arrays::of(batch);
    let (sql, params): (_, Params<'_>) = match kind {
        Kind::Ack => (ACK, &[ids, attempts]),
        Kind::Retry => (RETRY, &[ids, attempts, added, delays_ms, reasons]),
        Kind::Dead => (DEAD, &[ids, attempts, added, reasons]),
        Kind::Expired => (EXPIRED, &[ids, attempts]),
        Kind::Relane => (RELANE, &[ids, attempts, lanes]),
    };
    let row = connection.query_one(sql, params).await?;
    if let Some(messages) = row.cell::<_, Option<Vec<Uuid>>>("unmarked")? {
        connection.execute(UNMARKED, &[&messages, &kind.as_str()]).await?;
    }
    let became = match row.cell::<_, Option<Vec<i64>>>("changed")? {
        None => vec![Became::Written; batch.len()],
        Some(changed) => {
            let changed: std::collections::HashSet<i64> = changed.into_iter().collect();
            let of = |id| if changed.contains(id) { Became::Written } else { Became::Stale };
            ids.iter().map(of).collect()
        }
    };
    Ok(Settled { became, why: None })
}

/// Writes a batch one by one: what a row of the user's does not take is set aside. With `try_rows` false none is tried, and all
/// that needs one is set aside: the deliveries' own changes then depend on nothing of the user's.
///
/// # Errors
/// See [`settle_kind`].
pub async fn settle_each(
    connection: &Connection,
    batch: &[Settle],
    try_rows: bool,
) -> Result<Settled, StoreError> {
    let Arrays { kinds, ids, attempts, added, delays_ms, reasons, .. } = &Arrays::of(batch);
    let try_ms = if try_rows { TRY_MS } else { 0 };
    let params: Params<'_> = &[kinds, ids, attempts, added, delays_ms, reasons, &try_ms, &UNTRIED];
    let mut found = HashMap::with_capacity(batch.len());
    let mut why = None;
    for row in connection.query(EACH, params).await? {
        let became = match row.cell("became")? {
            "written" => Became::Written,
            "aside" => Became::Aside,
            "held" => Became::Held,
            _ => Became::Stale,
        };
        // One delivery twice in a batch: the first is written, the second stale.
        found.entry(row.cell::<_, i64>("delivery_id")?).or_insert(became);
        why = why.or(row.cell::<_, Option<String>>("why")?);
    }
    let became = ids.iter().map(|id| found.remove(id).unwrap_or(Became::Stale)).collect();
    Ok(Settled { became, why })
}

/// Marks messages that are with an agent for longer.
///
/// # Errors
/// See [`StoreError`].
pub async fn mark_delivered(connection: &Connection, messages: &[Uuid]) -> Result<(), StoreError> {
    connection.execute(MARK, &[&messages]).await?;
    Ok(())
}

/// The same one by one; says how many rows do not take it, and why.
///
/// # Errors
/// See [`StoreError`].
pub async fn mark_each(
    connection: &Connection,
    messages: &[Uuid],
) -> Result<(i64, Option<String>), StoreError> {
    let row = connection.query_one(MARK_EACH, &[&messages]).await?;
    Ok((row.cell("refused")?, row.cell("why")?))
}
