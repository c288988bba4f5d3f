//! `postbell migrate`: brings a database to the schema that this binary works with.
//!
//! Migrations are numbered and only go forward. Each is one transaction and is recorded with the digest of its text;
//! the triggers follow in one more transaction. An index on a table of the user's that holds rows is built outside of these
//! transactions, while others write (`migrate/concurrently.rs`). Every possible refusal is found before anything is changed:
//! first from the catalogs, then by a rehearsal of all migrations and of the life of a message, which is rolled back.

mod apply;
mod concurrently;
mod copied;
mod embedded;
mod holds;
mod mend;
pub mod policies;
mod state;
mod status;
mod triggers;

pub(in crate::store) use concurrently::IndexWanted;
pub use embedded::{MIGRATIONS, Migration, TRIGGERS, Trigger, version_wanted};
pub use holds::{Hold, StepLocks, step_locks};
pub use state::{SERVER_VERSION_MIN, SchemaState, schema_state};
pub use status::{SchemaStatus, StatusLine, status};

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::adopt::{self, Adoption};
use super::cell::Cells;
use super::connection::{Connection, Target};
use super::error::StoreError;
use super::rehearsal::{Before, Rehearsed, rehearse};
use super::unlogged;
use crate::store::sql::queries;
use concurrently::DueSteps;
use embedded::ADOPTING;
use state::Found;

/// The advisory lock that one migration at a time holds ("postbell" in ASCII).
const LOCK_KEY: i64 = 0x706f_7374_6265_6c6c;

/// How long a migration waits for another one to end, which is ordinary when several brokers deploy at once.
const LOCK_WAIT: Duration = Duration::from_secs(60);
/// How often it asks whether the other one has ended.
const LOCK_PAUSE: Duration = Duration::from_millis(200);

/// Begins the transaction of a migration. If somebody holds a table for longer than this, the migration fails: while
/// it waits for the lock, every reader and writer of that table would wait behind it. Functions are made without the
/// checks that a database may ask of its own ones (`extra_errors`), and tables are those that can be updated.
const BEGIN: &str = "begin; set local lock_timeout = '5s'; set local plpgsql.extra_errors = 'none'; \
                     set local plpgsql.extra_warnings = 'none'; set local default_table_access_method = 'heap'";

/// A migration may have to scan a large table. The planner's settings for the broker's statements, which keep those on an
/// index, would make such a scan slow: three million messages were read one by one in the order of their ids, for 25 s in which
/// the rehearsal held the table, instead of 0.5 s.
const SESSION: &str = "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; \
                       set enable_seqscan = on; set enable_hashjoin = on; set enable_mergejoin = on; \
                       set enable_bitmapscan = on; set enable_sort = on; reset random_page_cost;";

/// Lets the server end a build whose `postbell migrate` is gone, instead of when the build is done. Postgres 14 and newer know
/// this, on most systems.
const NOTICE_OUR_END: &str = "set client_connection_check_interval = '1s'";

/// The work of a migration: planned, or done.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Migrations, by their labels.
    pub migrations: Vec<String>,
    /// Triggers to install, by their names in Postgres.
    pub triggers: Vec<String>,
    /// Indexes that are built while others write, each with its table.
    pub builds: Vec<String>,
    /// Whom each step keeps out of which tables, and for how long; of a plan alone.
    pub holds: Vec<Hold>,
    /// The effect on the user's tables, if a migration touches them.
    pub adoption: Option<Adoption>,
    /// Differences from this version's schema that are or were mended.
    pub mends: Vec<String>,
    /// Differences that only the user can mend, with what to do.
    pub left: Vec<String>,
    /// How many deliveries are made for waiting messages, by the rehearsal or by the migration; `None` if the route
    /// trigger was installed before.
    pub deliveries: Option<u64>,
    /// Statements that will fail every time although a broker works, in a sentence each.
    pub warnings: Vec<String>,
    /// For how many milliseconds the rehearsal held the tables; `None` if there was none.
    pub rehearsed_ms: Option<u64>,
}

/// Whether a migration is rehearsed before it is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rehearsal {
    /// Rehearsed first, in a transaction that is rolled back.
    #[default]
    First,
    /// Not rehearsed, because the tables are too large to be held for so long. A fault then shows only half way.
    Without,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.migrations.is_empty()
            && self.triggers.is_empty()
            && self.mends.is_empty()
            && self.left.is_empty()
    }
}

/// Brings the database up to date and returns what was done. A second call does nothing.
///
/// # Errors
/// A sentence: the database cannot be used, its tables are something else (then nothing was changed), it is newer
/// than this binary, or another migration takes too long.
pub async fn migrate(target: &Target) -> Result<Plan, StoreError> {
    migrate_with(target, Rehearsal::First).await
}

/// [`migrate`] with the rehearsal or without.
///
/// # Errors
/// The errors of [`migrate`].
pub async fn migrate_with(target: &Target, rehearsal: Rehearsal) -> Result<Plan, StoreError> {
    let connection = locked(target).await?;
    let done = migrate_locked(&connection, target, rehearsal).await;
    unlocked(&connection, done).await
}

/// Applies these migrations and nothing else, as [`migrate`] applies those that are pending. Returns the indexes that were built
/// outside of a transaction.
///
/// # Errors
/// The errors of [`migrate`].
pub async fn apply(target: &Target, migrations: &[&'static Migration]) -> Result<Vec<String>, StoreError> {
    let connection = locked(target).await?;
    let built = apply::all(&connection, target, migrations, false).await;
    unlocked(&connection, built).await
}

/// Opens a connection that holds the migrations' lock.
async fn locked(target: &Target) -> Result<Connection, StoreError> {
    let connection = Connection::open(target).await?;
    connection.batch(SESSION).await?;
    if let Err(error) = connection.batch(NOTICE_OUR_END).await {
        tracing::debug!(%error, "the server would not notice the end of this process");
    }
    lock(&connection).await?;
    Ok(connection)
}

/// Gives the lock back. The end of the session would do so too, but a pooler may keep the session.
async fn unlocked<T>(connection: &Connection, done: Result<T, StoreError>) -> Result<T, StoreError> {
    let unlocked = connection.query(queries::MIGRATIONS_UNLOCK, &[&LOCK_KEY]).await;
    let done = done?;
    unlocked?;
    Ok(done)
}

/// Returns what [`migrate`] would do, or why it would refuse; changes nothing. Even if there is nothing to do, the
/// life of a message is rehearsed, since a constraint or a trigger may have been added.
///
/// # Errors
/// The errors of [`migrate`].
pub async fn plan(connection: &Connection) -> Result<Plan, StoreError> {
    let found = Found::read(connection).await?;
    let (mut plan, work) = plan_from(connection, &found).await?;
    plan.holds = holds::holds(connection, &found, &work).await?;
    if found.is_whole() {
        rehearse_work(connection, &found, &work, &mut plan).await?;
    }
    plan.warnings.extend(unlogged::warnings(connection).await?);
    Ok(plan)
}

async fn lock(connection: &Connection) -> Result<(), StoreError> {
    let until = Instant::now() + LOCK_WAIT;
    while !connection.query_one(queries::MIGRATIONS_LOCK, &[&LOCK_KEY]).await?.cell::<_, bool>("is_ours")? {
        if Instant::now() >= until {
            return Err(StoreError::unavailable(format!(
                "another `postbell migrate` has been running on this database for {} s: wait until it has ended, then try \
                 again",
                LOCK_WAIT.as_secs()
            )));
        }
        sleep(LOCK_PAUSE).await;
    }
    Ok(())
}

/// The migrations, each with the steps outside of its transaction, and the triggers.
struct Work {
    migrations: Vec<DueSteps>,
    triggers: Vec<&'static Trigger>,
}

async fn plan_from(connection: &Connection, found: &Found) -> Result<(Plan, Work), StoreError> {
    refuse(found)?;
    let pending = found.pending();
    let is_pending = |version| pending.iter().any(|m| m.version == version);
    let taken: Vec<_> = ADOPTING.iter().filter(|(v, _)| is_pending(*v)).map(|(_, table)| *table).collect();
    let adoption = match pending.is_empty() {
        true => None,
        false => Some(adopt::check(connection, &found.tables, &taken).await?),
    };
    let mut migrations = Vec::new();
    for migration in pending {
        migrations.push(concurrently::due(connection, migration).await.map_err(nothing_changed)?);
    }
    let triggers = found.stale_triggers();
    let (mut mends, mut left) = (Vec::new(), Vec::new());
    for difference in found.drift.iter().filter(|d| d.needed.kind != "trigger" && !d.is_only_slow()) {
        match difference.cure() {
            Some(_) => mends.push(difference.sentence()),
            None => left.push(mend::told(difference)),
        }
    }
    let plan = Plan {
        migrations: migrations.iter().map(|due| due.migration.label()).collect(),
        builds: migrations.iter().flat_map(DueSteps::builds).collect(),
        triggers: triggers.iter().map(|t| t.full_name()).collect(),
        adoption: adoption.filter(|_| !taken.is_empty()),
        mends,
        left,
        ..Plan::default()
    };
    Ok((plan, Work { migrations, triggers }))
}

fn nothing_changed(error: StoreError) -> StoreError {
    match error.sqlstate() {
        None if !error.is_retryable() => StoreError::refused(format!("{error}. Nothing was changed")),
        _ => error,
    }
}

/// Rehearses the work, and then the life of a message. All migrations run in one transaction, so that a fault of a
/// later one is found before an earlier one is applied. An index that is built while others write would keep them out here, so
/// it is left out, and only rows that it would refuse are looked for.
async fn rehearse_work(
    connection: &Connection,
    found: &Found,
    Work { migrations, triggers }: &Work,
    plan: &mut Plan,
) -> Result<(), StoreError> {
    let (mut apply, mut without) = (Vec::new(), Vec::new());
    if found.version() == 0 {
        apply.push(("what is left of an earlier Postbell".to_owned(), queries::MIGRATIONS_CLEAR.to_owned()));
    }
    if !migrations.is_empty() {
        apply.push(("the record of migrations".to_owned(), queries::MIGRATIONS_BOOTSTRAP.to_owned()));
    }
    for due in migrations {
        let name = format!("migration {}", due.migration.label());
        without.extend(due.indexes().map(|index| (name.clone(), index.clone())));
        apply.push((name, due.rehearsed()));
    }
    apply.extend(triggers.iter().map(|t| (format!("trigger {}", t.full_name()), t.sql.to_owned())));
    let before = Before { apply, without, adopts: triggers::makes_up(found, triggers) };
    let Rehearsed { refusals, warnings, deliveries, took } = rehearse(connection, &before).await?;
    if !refusals.is_empty() {
        let all: Vec<_> = refusals.into_iter().chain(warnings).collect();
        return Err(StoreError::refused(format!("{}. Nothing was changed", all.join(". "))));
    }
    plan.warnings = warnings;
    plan.deliveries = deliveries;
    plan.rehearsed_ms = u64::try_from(took.as_millis()).ok();
    Ok(())
}

/// Refuses a database that no migration can mend.
fn refuse(found: &Found) -> Result<(), StoreError> {
    if found.server_version_num < SERVER_VERSION_MIN {
        return Err(StoreError::refused(format!(
            "this server is Postgres {}; Postbell needs 13 or newer",
            found.server_version
        )));
    }
    match found.state() {
        _ if found.schema.is_none() && found.installed_for.is_none() => Err(StoreError::refused(
            "the schema of POSTBELL_SCHEMA does not exist in this database: create it (`create schema public`, where that was \
             dropped), or name the one that has (or is to have) agent_messages; then run `postbell migrate`",
        )),
        state @ (SchemaState::Newer { .. }
        | SchemaState::Changed { .. }
        | SchemaState::OtherSchema { .. }) => Err(StoreError::refused(state.refusal().unwrap_or_default())),
        _ => Ok(()),
    }
}

async fn migrate_locked(
    connection: &Connection,
    target: &Target,
    rehearsal: Rehearsal,
) -> Result<Plan, StoreError> {
    let mut found = Found::read(connection).await?;
    let (mut done, work) = plan_from(connection, &found).await?;
    if rehearsal == Rehearsal::First && !done.is_empty() && found.is_whole() {
        rehearse_work(connection, &found, &work, &mut done).await?;
    }
    let mut migrations: Vec<_> = work.migrations.iter().map(|due| due.migration).collect();
    if found.version() == 0 {
        copied::settle(connection, &found).await?;
        found = Found::read(connection).await?;
        if found.version() > 0 {
            done = Plan { mends: vec!["the record of migrations is missing".to_owned()], ..Plan::default() };
            migrations = found.pending();
        }
    }
    done.builds = apply::all(connection, target, &migrations, found.applied.is_empty()).await?;
    mend::finish(connection, target, &mut done, migrations.len()).await?;
    done.warnings.extend(unlogged::warnings(connection).await?);
    Ok(done)
}

/// Ends a transaction that failed. If even that fails, the connection is lost and the server rolls back by itself.
async fn roll_back(connection: &Connection) {
    if let Err(error) = connection.batch("rollback").await {
        tracing::debug!(%error, "the rollback was left to the server");
    }
}
