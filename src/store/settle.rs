//! Settling: writes outcomes to the tables, many by one statement, or one by one if the user's table refuses that.

use std::collections::HashMap;
use std::time::Duration;

use uuid::Uuid;

use super::cell::Cells;
use super::connection::{Connection, Params, Target, WriteLimit};
use super::error::{Fault, StoreError};
use super::halves::{SearchTime, by_halves};
use super::pool::only;
use crate::store::sql::queries;
use postbell_engine::inbox::UNSEEN;
use postbell_engine::inbox::event::{Outcome, Settle};

/// How long rows of the user's are tried one by one, before the rest of a batch is set aside untried.
const TRY_MS: i32 = 300;
/// How long messages are set aside apart whose rows kept their status.
const UNMARKED: SearchTime = SearchTime { a_try: Duration::from_millis(900), all: Duration::from_secs(1) };
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
            Outcome::Release { .. }
            | Outcome::Fail { .. }
            | Outcome::Spare { .. }
            | Outcome::Unseen { .. } => Self::Retry,
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
    /// Nothing changed yet: another transaction holds the delivery, or the time was over.
    Held,
    /// Nothing changed: the outcome can be written nowhere, since a part of Postbell's own tables does not take it.
    Hurt,
}

/// The results of writing a batch.
#[derive(Debug, Default)]
pub struct Settled {
    /// One for each outcome, in the order of the batch.
    pub became: Vec<Became>,
    /// The reason of the first outcome that was set aside.
    pub why: Option<String>,
    /// The reason of the first outcome that can be written nowhere.
    pub hurt: Option<String>,
}

impl Settled {
    /// A batch of so many outcomes that all became the same.
    pub fn all(became: Became, outcomes: usize) -> Self {
        Self { became: vec![became; outcomes], ..Self::default() }
    }

    /// A batch of so many outcomes that can be written nowhere, for this reason.
    pub fn all_hurt(outcomes: usize, why: &StoreError) -> Self {
        Self { hurt: Some(why.to_string()), ..Self::all(Became::Hurt, outcomes) }
    }

    /// After an answer was lost: outcomes found settled were written by the first try.
    pub fn count_stale_as_written(&mut self) {
        for became in self.became.iter_mut().filter(|became| **became == Became::Stale) {
            *became = Became::Written;
        }
    }
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
                Outcome::Unseen { delay } => (0, delay.as_millis() as i64, Some(UNSEEN)),
                Outcome::Release { delay } => (0, delay.as_millis() as i64, None),
                Outcome::Fail { delay, reason, .. } => (1, delay.as_millis() as i64, Some(reason.as_str())),
                // A delivery that could not be pushed was not tried, so its attempts do not grow.
                Outcome::Dead { cause, reason } => (i16::from(cause.was_tried()), 0, Some(reason.as_str())),
            };
            arrays.kinds.push(Kind::of(&settle.outcome).as_str());
            arrays.ids.push(settle.attempt.delivery_id.0);
            arrays.attempts.push(i16::try_from(settle.attempt.failed).unwrap_or(i16::MAX));
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
    connection.set(queries::SETTLE_SESSION).await?;
    Ok(connection)
}

/// A connection as [`open`] makes it, opened at its first use and again after it was lost.
pub struct SettleConnection {
    target: Target,
    open: Option<Connection>,
}

impl SettleConnection {
    /// Nothing is opened yet.
    pub fn new(target: Target) -> Self {
        Self { target, open: None }
    }

    /// The connection, which lives as far as is known.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn get(&mut self) -> Result<&Connection, StoreError> {
        let open = match self.open.take() {
            Some(open) if open.is_good().await => open,
            _ => open(&self.target).await?,
        };
        Ok(self.open.insert(open))
    }

    /// Ends the connection; the next use opens another.
    pub fn rest(&mut self) {
        self.open = None;
    }
}

/// Writes a batch of one kind by one statement, and so in one transaction. All of it is committed when this returns. The
/// bell is rung for deliveries that are to be read again and whose inbox another broker than `broker` owns by now.
///
/// # Errors
/// See [`StoreError`]. After an error the batch may or may not be committed; writing it again changes nothing more.
pub async fn settle_kind(
    connection: &Connection,
    broker: Uuid,
    kind: Kind,
    batch: &[Settle],
) -> Result<Settled, StoreError> {
    limited(connection, broker, kind, batch, WriteLimit::OfTheConnection).await
}

/// [`settle_kind`] for outcomes that may take this long at most.
///
/// # Errors
/// See [`settle_kind`]; also that the time was over, and then nothing is written.
pub async fn settle_within(
    connection: &Connection,
    broker: Uuid,
    kind: Kind,
    batch: &[Settle],
    wait: Duration,
) -> Result<Settled, StoreError> {
    limited(connection, broker, kind, batch, WriteLimit::Each(wait)).await
}

async fn limited(
    connection: &Connection,
    broker: Uuid,
    kind: Kind,
    batch: &[Settle],
    limit: WriteLimit,
) -> Result<Settled, StoreError> {
    let Arrays { ids, attempts, added, delays_ms, reasons, lanes, .. } = &Arrays::of(batch);
    let (sql, params): (_, Params<'_>) = match kind {
        Kind::Ack => (queries::SETTLE_ACK, &[ids, attempts]),
        Kind::Retry => (queries::SETTLE_RETRY, &[ids, attempts, added, delays_ms, reasons, &broker]),
        Kind::Dead => (queries::SETTLE_DEAD, &[ids, attempts, added, reasons]),
        Kind::Expired => (queries::SETTLE_EXPIRED, &[ids, attempts]),
        Kind::Relane => (queries::SETTLE_RELANE, &[ids, attempts, lanes, &broker]),
    };
    let row = match kind.marks() {
        true => only(connection.write(limit, sql, params).await?)?,
        false => connection.query_one(sql, params).await?,
    };
    if let Some(messages) = row.cell::<_, Option<Vec<Uuid>>>("unmarked")? {
        set_unmarked_aside(connection, &messages, kind).await?;
    }
    let became = match row.cell::<_, Option<Vec<i64>>>("changed")? {
        None => vec![Became::Written; batch.len()],
        Some(changed) => {
            let changed: std::collections::HashSet<i64> = changed.into_iter().collect();
            let of = |id| if changed.contains(id) { Became::Written } else { Became::Stale };
            ids.iter().map(of).collect()
        }
    };
    Ok(Settled { became, ..Settled::default() })
}

/// Sets messages aside whose rows kept their status though no error said so. The deliveries' own changes are committed, so a
/// message that cannot be set aside either is told and nothing else waits for it.
async fn set_unmarked_aside(
    connection: &Connection,
    messages: &[Uuid],
    kind: Kind,
) -> Result<(), StoreError> {
    let found = by_halves(messages, UNMARKED, |part| unmarked(connection, part, kind)).await?;
    for (message, error) in found.refused {
        if error.is_cut_off() {
            return Err(error);
        }
        tracing::warn!(%message, %error, "a trigger or a rule keeps a change of agent_messages out, and it could not be set aside");
    }
    Ok(())
}

async fn unmarked(connection: &Connection, messages: &[Uuid], kind: Kind) -> Result<u64, StoreError> {
    connection.execute(queries::SETTLE_UNMARKED, &[&messages, &kind.as_str()]).await
}

/// Changes lanes one by one, after a statement for all was refused. One that is refused alone can be written nowhere.
///
/// # Errors
/// See [`settle_kind`].
pub async fn relane_each(
    connection: &Connection,
    broker: Uuid,
    batch: &[Settle],
) -> Result<Settled, StoreError> {
    let mut all = Settled::default();
    let mut is_slow = false;
    for one in batch.chunks(1) {
        if is_slow {
            all.became.push(Became::Held);
            continue;
        }
        match settle_kind(connection, broker, Kind::Relane, one).await {
            Ok(settled) => all.became.extend(settled.became),
            Err(e) if e.sqlstate().is_some() && e.fault() != Fault::Passing => {
                is_slow = e.fault() == Fault::Slow;
                all.became.push(Became::Hurt);
                all.hurt = all.hurt.or(Some(e.to_string()));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// Writes a batch one by one. A change that a row of the user's does not take is set aside. If `try_rows` is false,
/// no such row is tried and all these changes are set aside, so that the deliveries' own changes depend on nothing of
/// the user's.
///
/// # Errors
/// See [`settle_kind`].
pub async fn settle_each(
    connection: &Connection,
    broker: Uuid,
    batch: &[Settle],
    try_rows: bool,
) -> Result<Settled, StoreError> {
    each(connection, broker, batch, if try_rows { TRY_MS } else { 0 }, UNTRIED).await
}

/// Writes a batch one by one without a look at the user's rows. All their changes are set aside, with this reason.
///
/// # Errors
/// See [`settle_kind`].
pub async fn settle_untried(
    connection: &Connection,
    broker: Uuid,
    batch: &[Settle],
    why: &str,
) -> Result<Settled, StoreError> {
    each(connection, broker, batch, 0, why).await
}

async fn each(
    connection: &Connection,
    broker: Uuid,
    batch: &[Settle],
    try_ms: i32,
    untried: &str,
) -> Result<Settled, StoreError> {
    let Arrays { kinds, ids, attempts, added, delays_ms, reasons, .. } = &Arrays::of(batch);
    let params: Params<'_> = &[kinds, ids, attempts, added, delays_ms, reasons, &try_ms, &untried, &broker];
    let mut found = HashMap::with_capacity(batch.len());
    let (mut why, mut hurt) = (None, None);
    for row in
        connection.looking(queries::SETTLE_EACH, connection.query(queries::SETTLE_EACH, params)).await?
    {
        let became = match row.cell("became")? {
            "written" => Became::Written,
            "aside" => Became::Aside,
            "held" => Became::Held,
            "hurt" => Became::Hurt,
            _ => Became::Stale,
        };
        // If a delivery is in the batch twice, the first outcome is written and the second is stale.
        found.entry(row.cell::<_, i64>("delivery_id")?).or_insert(became);
        let reason = if became == Became::Hurt { &mut hurt } else { &mut why };
        if reason.is_none() {
            *reason = row.cell("why")?;
        }
    }
    let became = ids.iter().map(|id| found.remove(id).unwrap_or(Became::Stale)).collect();
    Ok(Settled { became, why, hurt })
}

/// Marks messages that have been with an agent for a second.
///
/// # Errors
/// See [`StoreError`].
pub async fn mark_delivered(connection: &Connection, messages: &[Uuid]) -> Result<(), StoreError> {
    connection.write_count(WriteLimit::OfTheConnection, queries::MARK_DELIVERED, &[&messages]).await?;
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
    let (sql, params): (_, Params<'_>) = (queries::MARK_EACH, &[&messages]);
    let row = connection.looking(sql, connection.query_one(sql, params)).await?;
    Ok((row.cell("refused")?, row.cell("why")?))
}
