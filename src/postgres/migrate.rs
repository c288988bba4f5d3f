//! `postbell migrate`: brings a database to the schema that this binary works with.
//!
//! Numbered and forward only. Each migration is one transaction and is recorded with the digest of its text; the
//! triggers follow, in one more. Everything that could refuse is asked before anything is changed.

mod copied;
mod embedded;
mod mend;
pub mod policies;
mod state;
mod status;
mod triggers;

pub use embedded::{MIGRATIONS, Migration, TRIGGERS, Trigger, version_wanted};
pub use state::{SERVER_VERSION_MIN, SchemaState, schema_state};
pub use status::{Status, StatusLine, status};

use super::adopt::{self, Adoption};
use super::connection::{Connection, Target};
use super::error::StoreError;
use embedded::{ADOPTING, EXTENDING, digest};
use state::Found;

const BOOTSTRAP: &str = include_str!("../../sql/queries/migrations_bootstrap.sql");
const LOCK: &str = include_str!("../../sql/queries/migrations_lock.sql");
const UNLOCK: &str = include_str!("../../sql/queries/migrations_unlock.sql");
const RECORD: &str = include_str!("../../sql/queries/migrations_record.sql");

/// The advisory lock that one migration at a time holds ("postbell" in ASCII).
const LOCK_KEY: i64 = 0x706f_7374_6265_6c6c;

/// How long a migration waits for another one to end, which is ordinary when several brokers deploy at once.
const LOCK_WAIT_SECONDS: u64 = 60;

/// Begins the transaction of a migration. A table that somebody holds for longer than this makes it fail: while it
/// waits for the lock, every reader and writer of that table would wait behind it.
const BEGIN: &str = "begin; set local lock_timeout = '5s'";

/// A migration may have to scan a large table, and the planner switches of the broker's statements (which keep them
/// on an index) would make such a scan slow.
const SESSION: &str = "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; \
                       set enable_seqscan = on; set enable_hashjoin = on; set enable_mergejoin = on; \
                       select set_config('search_path', quote_ident(current_schema()) || ', pg_temp', false)";

/// What is to be done, or was.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Migrations, by their labels.
    pub migrations: Vec<String>,
    /// Triggers to install, by their names in Postgres.
    pub triggers: Vec<String>,
    /// What becomes of the user's tables, where a migration touches them.
    pub adoption: Option<Adoption>,
    /// What differs from this version's schema, and is mended or was.
    pub mends: Vec<String>,
    /// What differs and only the user can mend, with what to do.
    pub left: Vec<String>,
    /// After a migration: how many deliveries were made for messages that waited. `None`: the route trigger was
    /// there all the time, or nothing was done yet.
    pub deliveries: Option<u64>,
}

impl Plan {
    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.migrations.is_empty() && self.triggers.is_empty() && self.mends.is_empty() && self.left.is_empty()
    }
}

/// Brings the database up to date and says what was done; a second call does nothing.
///
/// # Errors
/// A sentence: the database cannot be used, its tables are something else (then nothing was changed), it is newer
/// than this binary, or another migration takes too long.
pub async fn migrate(target: &Target) -> Result<Plan, StoreError> {
    let connection = Connection::open(target).await?;
    connection.batch(SESSION).await?;
    lock(&connection).await?;
    let done = migrate_locked(&connection).await;
    // The end of the session would do it too, but a pooler may keep that.
    let unlocked = connection.query(UNLOCK, &[&LOCK_KEY]).await;
    let done = done?;
    unlocked?;
    Ok(done)
}

/// What [`migrate`] would do, or why it would refuse; changes nothing.
///
/// # Errors
/// Those of [`migrate`].
pub async fn plan(connection: &Connection) -> Result<Plan, StoreError> {
    Ok(plan_from(connection, &Found::read(connection).await?).await?.0)
}

async fn lock(connection: &Connection) -> Result<(), StoreError> {
    connection.batch(&format!("set lock_timeout = '{LOCK_WAIT_SECONDS}s'")).await?;
    match connection.query(LOCK, &[&LOCK_KEY]).await {
        Ok(_) => connection.batch("set lock_timeout = 0").await,
        Err(error) if error.sqlstate() == Some("55P03") => Err(StoreError::unavailable(format!(
            "another `postbell migrate` has been running on this database for {LOCK_WAIT_SECONDS} s: wait until it \
             has ended, then try again"
        ))),
        Err(error) => Err(error),
    }
}

async fn plan_from(connection: &Connection, found: &Found) -> Result<(Plan, Vec<&'static Migration>), StoreError> {
    refuse(found)?;
    let migrations = found.pending();
    let of_pending = |all: &[(i32, &'static str)]| -> Vec<&'static str> {
        let is_pending = |version| migrations.iter().any(|m| m.version == version);
        all.iter().filter(|(version, _)| is_pending(*version)).map(|(_, table)| *table).collect()
    };
    let (taken, extended) = (of_pending(ADOPTING), of_pending(EXTENDING));
    let adoption = match taken.is_empty() && extended.is_empty() {
        true => None,
        false => Some(adopt::check(connection, &found.tables, &taken, &extended).await?),
    };
    let (mut mends, mut left) = (Vec::new(), Vec::new());
    for difference in found.drift.iter().filter(|d| d.needed.kind != "trigger" && !d.is_only_slow()) {
        match difference.cure() {
            Some(_) => mends.push(difference.sentence()),
            None => left.push(mend::told(difference)),
        }
    }
    let plan = Plan {
        migrations: migrations.iter().map(|m| m.label()).collect(),
        triggers: found.stale_triggers().iter().map(|t| t.full_name()).collect(),
        adoption,
        mends,
        left,
        deliveries: None,
    };
    Ok((plan, migrations))
}

/// What no migration can mend.
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

async fn migrate_locked(connection: &Connection) -> Result<Plan, StoreError> {
    let mut found = Found::read(connection).await?;
    let (mut done, mut migrations) = plan_from(connection, &found).await?;
    if found.version() == 0 {
        copied::settle(connection, &found).await?;
        found = Found::read(connection).await?;
        if found.version() > 0 {
            done = Plan { mends: vec!["the record of migrations is missing".to_owned()], ..Plan::default() };
            migrations = found.pending();
        }
    }
    if !migrations.is_empty() {
        connection.batch(BOOTSTRAP).await?;
    }
    for migration in migrations {
        apply(connection, migration).await?;
        tracing::debug!(migration = migration.label(), "applied");
    }
    finish(connection, &mut done).await?;
    Ok(done)
}

/// Everything that is as it is now and not history: what differs is mended, then the triggers are installed.
async fn finish(connection: &Connection, done: &mut Plan) -> Result<(), StoreError> {
    let had_drift = !Found::read(connection).await?.drift.is_empty();
    if had_drift {
        // The plan said what differed then; this is what was done.
        done.mends.retain(|m| m.starts_with("the record"));
        done.mends.extend(mend::mend(connection).await?);
    }
    let found = Found::read(connection).await?;
    let left: Vec<_> = found.drift.iter().filter(|d| d.needed.kind != "trigger" && !d.is_only_slow()).collect();
    if !left.is_empty() {
        // Triggers on what is not whole would only fail.
        done.triggers.clear();
        done.left = left.into_iter().map(mend::told).collect();
        return Ok(());
    }
    let triggers = found.stale_triggers();
    done.triggers = triggers.iter().map(|t| t.full_name()).collect();
    done.deliveries = triggers::install(connection, &found, &triggers).await?;
    // Messages that came while something was wrong have no deliveries; a missing trigger was made up for when it was made.
    if !done.mends.is_empty() || had_drift && done.deliveries.is_none() {
        let ready = mend::look(connection).await?;
        done.deliveries = done.deliveries.map(|n| n + ready).or(Some(ready).filter(|n| *n > 0));
    }
    let (granted, lacking) = mend::rights(connection).await?;
    done.mends.extend(granted);
    done.left = mend::left(connection).await?;
    done.left.extend(lacking);
    Ok(())
}

async fn apply(connection: &Connection, migration: &Migration) -> Result<(), StoreError> {
    let result = apply_in_transaction(connection, migration).await;
    if let Err(error) = result {
        roll_back(connection).await;
        let label = migration.label();
        return Err(StoreError::refused(format!(
            "migration {label} was not applied, and nothing of it remains: {error}"
        )));
    }
    Ok(())
}

async fn apply_in_transaction(connection: &Connection, migration: &Migration) -> Result<(), StoreError> {
    connection.batch(BEGIN).await?;
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&migration.version, &migration.name, &digest(migration.sql)];
    connection.execute(RECORD, &params).await?;
    connection.batch(migration.sql).await?;
    connection.batch("commit").await
}

/// Ends a transaction that failed. If even that fails the connection is lost, and the server rolls back itself.
async fn roll_back(connection: &Connection) {
    if let Err(error) = connection.batch("rollback").await {
        tracing::debug!(%error, "the rollback was left to the server");
    }
}
