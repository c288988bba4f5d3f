//! Settling: writes outcomes to the tables, many by one statement, or one by one if the user's table refuses that.

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

/// How long rows of the user's are tried one by one, before the rest of a batch is set aside untried.
const TRY_MS: i32 = 300;
/// The reason of a row that is set aside untried.
const UNTRIED: &str =
    "the changes of agent_messages take too long, by slow triggers or by locks: it is tried again by itself";

/// A kind of outcome. Each has a statement of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The message was acknowledged.
    Ack,
    /// The delivery is ready again, at once or later.
    Retry,
    /// The delivery becomes a dead letter.
    Dead,
    /// The message expired.
    Expired,
    /// A reply goes to another lane. This changes only the delivery.
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

    /// Whether the outcome changes the user's message, too.
    pub fn marks(self) -> bool {
        self != Self::Relane
    }

    /// The word in `postbell.set_aside.kind`.
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

/// The result of writing an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// The outcome is written.
    Written,
    /// The delivery's own change is written. The message's row did not take its change, which is set aside.
    Aside,
    /// Nothing changed: the delivery was settled before, or the outcome is of another attempt.
    Stale,
    /// Nothing changed yet: another transaction holds the delivery.
    Held,
}

/// The results of writing a batch.
#[derive(Debug, Default)]
pub struct Settled {
    /// One for each outcome, in the order of the batch.
    pub became: Vec<Became>,
    /// The reason of the first outcome that was set aside.
    pub why: Option<String>,
}

/// The parameters of a statement, one array for each column.
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
                // A delivery that could not be pushed was not tried, so its attempts do not grow.
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

/// Opens a connection for writes to the user's tables, which gives up locks and slow triggers quickly.
///
/// # Errors
/// See [`StoreError`].
pub async fn open(target: &Target) -> Result<Connection, StoreError> {
    let connection = Connection::open(target).await?;
    connection.batch(SESSION).await?;
    Ok(connection)
}

/// Writes a batch of one kind by one statement, and so in one transaction. All of it is committed when this returns.
///
/// # Errors
/// See [`StoreError`]. After an error the batch may or may not be committed; writing it again changes nothing more.
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

/// Writes a batch one by one. A change that a row of the user's does not take is set aside. If `try_rows` is false,
/// no such row is tried and all these changes are set aside, so that the deliveries' own changes depend on nothing of
/// the user's.
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
        // If a delivery is in the batch twice, the first outcome is written and the second is stale.
        found.entry(row.cell::<_, i64>("delivery_id")?).or_insert(became);
        why = why.or(row.cell::<_, Option<String>>("why")?);
    }
    let became = ids.iter().map(|id| found.remove(id).unwrap_or(Became::Stale)).collect();
    Ok(Settled { became, why })
}

/// Marks messages that have been with an agent for a second.
///
/// # Errors
/// See [`StoreError`].
pub async fn mark_delivered(connection: &Connection, messages: &[Uuid]) -> Result<(), StoreError> {
    connection.execute(MARK, &[&messages]).await?;
    Ok(())
}

/// Marks messages one by one. Returns how many rows did not take the mark, and a reason.
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
