//! Migrations: numbered, forward only, one transaction each; then the triggers, whose text may change.

mod adopt;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::connection::{Connection, Target};
use super::error::StoreError;

/// How long a migration waits for a table that somebody else holds; it is tried again by whoever ran it, and
/// producers that queue behind it must not wait longer.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How long it waits for another `migrate` to end.
const OTHER_WAIT: Duration = Duration::from_secs(60);
/// The advisory lock that only one `migrate` at a time holds: "postbell" in ASCII.
const LOCK: i64 = 0x706f_7374_6265_6c6c;
/// xid8 and pg_current_snapshot() are there since 13.
const SERVER_MIN: i32 = 130_000;

const BOOTSTRAP: &str = include_str!("../../sql/queries/migrations_bootstrap.sql");
const APPLIED: &str = include_str!("../../sql/queries/migrations_applied.sql");
const INSTALLED: &str = include_str!("../../sql/queries/triggers_installed.sql");
const WAITING: &str = include_str!("../../sql/queries/adopt_waiting.sql");

/// A migration of this version, or a trigger.
struct Script {
    name: &'static str,
    sql: &'static str,
}

macro_rules! scripts {
    ($folder:literal: $($name:literal)*) => {
        &[$(Script { name: $name, sql: include_str!(concat!("../../", $folder, "/", $name, ".sql")) }),*]
    };
}

/// In the order of their numbers, from 1. Never edited, only added to.
const MIGRATIONS: &[Script] = scripts!("sql/migrations": "0001_broker_tables" "0002_agent_tables");
/// `route` last: from its transaction on messages are routed.
const TRIGGERS: &[Script] = scripts!("triggers": "poller" "removed" "route");

fn digest(sql: &str) -> String {
    Sha256::digest(sql.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// One migration or trigger, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The file's name.
    pub name: String,
    /// Whether the database has it as it is in this version.
    pub applied: bool,
}

/// How the database's schema relates to this version of Postbell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaState {
    /// Every migration of this version, in order.
    pub migrations: Vec<Step>,
    /// Every trigger.
    pub triggers: Vec<Step>,
    /// Migrations that only a newer version knows.
    pub newer: Vec<String>,
    /// Migrations that were changed after they were applied.
    pub changed: Vec<String>,
}

impl SchemaState {
    /// Whether this version can run on it as it is.
    pub fn is_current(&self) -> bool {
        self.refusal().is_none()
    }

    /// Why `serve` does not run on it, and what to do.
    pub fn refusal(&self) -> Option<String> {
        if let Some(newest) = self.newer.last() {
            return Some(format!(
                "the database has migration {newest}, which this postbell {} does not know: run a newer postbell",
                env!("CARGO_PKG_VERSION")
            ));
        }
        if let Some(name) = self.changed.first() {
            return Some(format!(
                "migration {name} is recorded with another text than this postbell's: it was built from changed \
                 sources; run a released one"
            ));
        }
        let missing: Vec<&str> = self.missing().collect();
        match missing.as_slice() {
            [] => None,
            all if all.len() == self.migrations.len() + self.triggers.len() => {
                Some("the database is not set up for postbell: run `postbell migrate`".to_owned())
            }
            some => {
                Some(format!("the database lacks {}: run `postbell migrate`", some.join(", ")))
            }
        }
    }

    /// What `migrate` would apply, in order.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.migrations.iter().chain(&self.triggers).filter(|s| !s.applied).map(|s| s.name.as_str())
    }
}

/// Reads how the schema stands; changes nothing.
///
/// # Errors
/// The server is too old; or see [`StoreError`].
pub async fn schema_state(connection: &Connection) -> Result<SchemaState, StoreError> {
    let client = connection.client();
    let version: i32 =
        client.query_one("select current_setting('server_version_num')::int", &[]).await?.get(0);
    if version < SERVER_MIN {
        return Err(StoreError::refused(format!(
            "the server is PostgreSQL {}, postbell needs 13 or newer",
            version / 10_000
        )));
    }
    let exists: bool =
        client.query_one("select to_regclass('postbell.migrations') is not null", &[]).await?.get(0);
    let mut applied: BTreeMap<i32, (String, String)> = BTreeMap::new();
    let mut installed: HashMap<String, String> = HashMap::new();
    if exists {
        for row in client.query(APPLIED, &[]).await? {
            applied.insert(row.get(0), (row.get(1), row.get(2)));
        }
    }
    if client.query_one("select to_regclass('postbell.triggers') is not null", &[]).await?.get(0) {
        for row in client.query(INSTALLED, &[]).await? {
            installed.insert(row.get(0), row.get(1));
        }
    }
    let mut changed = Vec::new();
    let mut migrations = Vec::new();
    for (version, script) in (1..).zip(MIGRATIONS) {
        let recorded = applied.remove(&version);
        if recorded.as_ref().is_some_and(|(_, sha256)| *sha256 != digest(script.sql)) {
            changed.push(script.name.to_owned());
        }
        migrations.push(Step { name: script.name.to_owned(), applied: recorded.is_some() });
    }
    let triggers = TRIGGERS.iter().map(|script| Step {
        name: format!("trigger {}", script.name),
        applied: installed.get(script.name) == Some(&digest(script.sql)),
    });
    let newer = applied.into_values().map(|(name, _)| name).collect();
    Ok(SchemaState { migrations, triggers: triggers.collect(), newer, changed })
}

/// Brings the schema to this version and says what was applied; with `dry_run` only what would be.
///
/// # Errors
/// A table cannot be adopted, the schema is a newer version's, another `migrate` runs; or see [`StoreError`].
pub async fn migrate(target: &Target, dry_run: bool) -> Result<Vec<String>, StoreError> {
    let connection = Connection::open(target).await?;
    if dry_run {
        return plan(&connection).await;
    }
    connection
        .batch(&format!(
            "set lock_timeout = {}; select pg_advisory_lock({LOCK}); set lock_timeout = {}; \
             set statement_timeout = 0",
            OTHER_WAIT.as_millis(),
            LOCK_WAIT.as_millis()
        ))
        .await?;
    // The lock is the session's: it ends with the connection, however this ends.
    let missing = plan(&connection).await?;
    if missing.is_empty() {
        return Ok(missing);
    }
    connection.batch(BOOTSTRAP).await?;
    let state = schema_state(&connection).await?;
    for ((version, script), step) in (1..).zip(MIGRATIONS).zip(&state.migrations) {
        if !step.applied {
            apply(&connection, version, script).await?;
        }
    }
    let state = schema_state(&connection).await?;
    install_triggers(&connection, &state.triggers).await?;
    Ok(missing)
}

/// What is missing, once it is sure that it can be applied.
async fn plan(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let state = schema_state(connection).await?;
    if !state.newer.is_empty() || !state.changed.is_empty() {
        return Err(StoreError::refused(state.refusal().unwrap_or_default()));
    }
    adopt::check(connection).await?;
    Ok(state.missing().map(str::to_owned).collect())
}

async fn apply(connection: &Connection, version: i32, script: &Script) -> Result<(), StoreError> {
    let record = format!(
        "insert into postbell.migrations (version, name, sha256) values ({version}, '{}', '{}')",
        script.name,
        digest(script.sql)
    );
    in_transaction(connection, &format!("{}\n;{record}", script.sql), script.name).await
}

async fn install_triggers(connection: &Connection, steps: &[Step]) -> Result<(), StoreError> {
    let mut sql = String::new();
    for (script, _) in TRIGGERS.iter().zip(steps).filter(|(_, step)| !step.applied) {
        sql.push_str(script.sql);
        sql.push_str(&format!(
            "\n;insert into postbell.triggers (name, sha256) values ('{}', '{}') \
             on conflict (name) do update set sha256 = excluded.sha256, applied_at = now();\n",
            script.name,
            digest(script.sql)
        ));
    }
    if sql.is_empty() {
        return Ok(());
    }
    in_transaction(connection, &format!("{sql}{WAITING};"), "the triggers").await
}

async fn in_transaction(connection: &Connection, sql: &str, name: &str) -> Result<(), StoreError> {
    let result = connection.batch(&format!("begin;{sql};commit")).await;
    if let Err(e) = result {
        // The connection goes with its transaction; the sentence must name what failed.
        return Err(StoreError::refused(format!("{name} was not applied, nothing was changed by it: {e}")));
    }
    Ok(())
}
