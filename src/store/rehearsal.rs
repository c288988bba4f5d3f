//! The rehearsal: tries everything that a broker does to the user's tables, on the tables as they are, in a
//! transaction that is rolled back.
//!
//! A catalog tells which columns exist. Only trying tells what constraints, triggers, rules and policies take. All
//! steps are one statement (`sql/queries/rehearsal.sql`), and each step is tried, whatever became of those before it.

mod cause;
mod fault;
mod steps;

use std::time::Duration;

use tokio::time::Instant;

use serde_json::{Value, json};

use super::cell::Cells;
use super::connection::Connection;
use super::error::StoreError;
use super::migrate::IndexWanted;
use crate::store::sql::queries;
use fault::Found;

/// How long the rehearsal waits for a table or row that somebody holds. If migrations are tried, all readers and
/// writers of the table wait behind the rehearsal.
pub(super) const REHEARSAL_LOCK_WAIT: Duration = Duration::from_secs(2);
/// How long the rehearsal may hold the tables; migrations scan large ones.
pub(super) const REHEARSAL_WAIT: Duration = Duration::from_secs(30);
/// The most waiting messages whose deliveries are written; beyond that, deliveries are only counted.
const ADOPTED_MAX: u32 = 10_000;
/// The longest inbox name that an index of deliveries can hold: a third of a page, less its other columns.
const INBOX_BYTES_MAX: u32 = 2_600;

const _: () = assert!(REHEARSAL_LOCK_WAIT.as_millis() < REHEARSAL_WAIT.as_millis());

/// The steps to try before the life of a message.
#[derive(Clone, Debug, Default)]
pub(super) struct Before {
    /// Migrations and triggers: a name for a sentence, and the text.
    pub(super) apply: Vec<(String, String)>,
    /// Indexes that are left out, each with the name of its migration: they are built later, while others write. For a unique
    /// one, rows that have the same key are looked for.
    pub(super) without: Vec<(String, IndexWanted)>,
    /// Whether deliveries are made for waiting messages.
    pub(super) adopts: bool,
}

/// The result of a rehearsal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rehearsed {
    /// Faults with which a broker could not work, in a sentence each.
    pub(super) refusals: Vec<String>,
    /// Faults with which a broker works although some outcomes fail, in a sentence each.
    pub(super) warnings: Vec<String>,
    /// How many deliveries the waiting messages would get.
    pub(super) deliveries: Option<u64>,
    /// How long the tables were held.
    pub(super) took: Duration,
}

/// Tries all steps and rolls back.
///
/// # Errors
/// A sentence: the rehearsal was impossible, because somebody holds a table, or the connection is lost.
pub(super) async fn rehearse(connection: &Connection, before: &Before) -> Result<Rehearsed, StoreError> {
    let began = Instant::now();
    let tried = in_transaction(connection, before).await;
    // If even this fails, the connection is lost and the server rolls back by itself.
    let ended = connection.batch("rollback").await;
    let mut rehearsed = tried?;
    ended?;
    rehearsed.took = began.elapsed();
    Ok(rehearsed)
}

async fn in_transaction(connection: &Connection, before: &Before) -> Result<Rehearsed, StoreError> {
    let given = given(before).to_string();
    connection
        .batch(&format!(
            "begin isolation level read committed; set local lock_timeout = {}; set local statement_timeout = {}; \
             set local idle_in_transaction_session_timeout = {}; set local postbell.broker = 'on'",
            REHEARSAL_LOCK_WAIT.as_millis(),
            REHEARSAL_WAIT.as_millis(),
            REHEARSAL_WAIT.as_millis(),
        ))
        .await?;
    connection.query(queries::REHEARSAL_GIVEN, &[&given]).await?;
    connection.batch(queries::REHEARSAL).await.map_err(took_too_long)?;
    let row = connection.query_one(queries::REHEARSAL_FOUND, &[]).await?;
    let found: Found = serde_json::from_str(row.cell(0)?)
        .map_err(|error| StoreError::refused(format!("the rehearsal's answer cannot be read: {error}")))?;
    found.judge()
}

fn given(before: &Before) -> Value {
    let unique = before.without.iter().filter(|(_, index)| index.is_unique);
    let mut steps: Vec<Value> = unique.map(|(name, index)| steps::unique(name, index)).collect();
    steps.extend(before.apply.iter().map(|(name, sql)| steps::apply(name, sql)));
    if before.adopts {
        steps.push(steps::adopt());
    }
    steps.extend(steps::life());
    let without: Vec<_> = before.without.iter().map(|(_, index)| &index.name).collect();
    json!({
        "steps": steps, "statements": steps::statements(), "longest": steps::longest(),
        "adopted_max": ADOPTED_MAX, "inbox_bytes_max": INBOX_BYTES_MAX, "without": without,
    })
}

fn took_too_long(error: StoreError) -> StoreError {
    match error.sqlstate() {
        Some("57014") => StoreError::refused(format!(
            "the rehearsal was ended after {} s, for which it had held the tables, and was rolled back: they are too large \
             to try migrations on while others wait. `postbell migrate --without-rehearsal` applies them one by one",
            REHEARSAL_WAIT.as_secs()
        )),
        _ => error,
    }
}
