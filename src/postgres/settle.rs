//! Settling: outcomes become the truth in the table, many by one statement.

use uuid::Uuid;

use super::cell::Cells;
use super::connection::{Connection, Params};
use super::error::StoreError;
use crate::inbox::event::{DeadCause, Outcome, Settle};

const ACK: &str = include_str!("../../sql/queries/settle_ack.sql");
const RETRY: &str = include_str!("../../sql/queries/settle_retry.sql");
const DEAD: &str = include_str!("../../sql/queries/settle_dead.sql");
const EXPIRED: &str = include_str!("../../sql/queries/settle_expired.sql");
const RELANE: &str = include_str!("../../sql/queries/settle_relane.sql");
const MARK: &str = include_str!("../../sql/queries/mark_delivered.sql");

/// The arrays of one kind of outcome.
#[derive(Default)]
struct Arrays<'a> {
    ids: Vec<i64>,
    attempts: Vec<i16>,
    added: Vec<i16>,
    delays_ms: Vec<i64>,
    reasons: Vec<Option<&'a str>>,
}

impl<'a> Arrays<'a> {
    fn push(&mut self, settle: &'a Settle, added: i16, delay_ms: i64, reason: Option<&'a str>) {
        self.ids.push(settle.delivery_id);
        self.attempts.push(i16::try_from(settle.attempt).unwrap_or(i16::MAX));
        self.added.push(added);
        self.delays_ms.push(delay_ms);
        self.reasons.push(reason);
    }
}

/// What a batch changed: an outcome that came too late changes nothing, and is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Acknowledged.
    pub acked: u64,
    /// Ready again, or scheduled.
    pub again: u64,
    /// Dead letters.
    pub dead: u64,
    /// Expired.
    pub expired: u64,
}

/// Writes a batch, one statement and so one transaction a kind. When this returns all are committed.
///
/// # Errors
/// See [`StoreError`]; then it may or may not be committed, and writing it again changes nothing more.
pub async fn settle(connection: &Connection, batch: &[Settle]) -> Result<Changed, StoreError> {
    let (mut acks, mut again, mut dead, mut expired) =
        (Arrays::default(), Arrays::default(), Arrays::default(), Arrays::default());
    let (mut relaned, mut lanes) = (Arrays::default(), Vec::new());
    for settle in batch {
        match &settle.outcome {
            Outcome::Ack { .. } => acks.push(settle, 0, 0, None),
            Outcome::Release { delay } => again.push(settle, 0, delay.as_millis() as i64, None),
            Outcome::Fail { delay, reason, .. } => {
                again.push(settle, 1, delay.as_millis() as i64, Some(reason));
            }
            Outcome::Spare { reason } => again.push(settle, 0, 0, Some(reason)),
            Outcome::Relane { lane } => {
                relaned.push(settle, 0, 0, None);
                lanes.push(i16::try_from(*lane).unwrap_or(i16::MAX));
            }
            Outcome::Dead { cause, reason } => {
                // What could not be pushed was not tried.
                let added = i16::from(*cause != DeadCause::PayloadTooLarge);
                dead.push(settle, added, 0, Some(reason));
            }
            Outcome::Expired => expired.push(settle, 0, 0, None),
        }
    }
    count(connection, &relaned, RELANE, &[&relaned.ids, &relaned.attempts, &lanes]).await?;
    Ok(Changed {
        acked: count(connection, &acks, ACK, &[&acks.ids, &acks.attempts]).await?,
        again: count(
            connection,
            &again,
            RETRY,
            &[&again.ids, &again.attempts, &again.added, &again.delays_ms, &again.reasons],
        )
        .await?,
        dead: count(connection, &dead, DEAD, &[&dead.ids, &dead.attempts, &dead.added, &dead.reasons])
            .await?,
        expired: count(connection, &expired, EXPIRED, &[&expired.ids, &expired.attempts]).await?,
    })
}

async fn count(
    connection: &Connection,
    arrays: &Arrays<'_>,
    sql: &'static str,
    params: Params<'_>,
) -> Result<u64, StoreError> {
    if arrays.ids.is_empty() {
        return Ok(0);
    }
    connection.query_one(sql, params).await?.count("count")
}

/// Marks messages that are with an agent for longer.
///
/// # Errors
/// See [`StoreError`].
pub async fn mark_delivered(connection: &Connection, messages: &[Uuid]) -> Result<(), StoreError> {
    connection.execute(MARK, &[&messages]).await?;
    Ok(())
}
