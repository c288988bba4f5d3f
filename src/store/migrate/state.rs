//! The schema that a database has, compared with the one that this binary knows.

use std::time::SystemTime;

use tokio_postgres::Row;

use super::embedded::{MIGRATIONS, Migration, TRIGGERS, Trigger, UNSEEN, digest, version_wanted};
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::drift::{Difference, differences};
use crate::store::error::StoreError;
use crate::store::sql::queries;

/// The oldest server version that works: 13 has `xid8`, snapshots of it and `gen_random_uuid()`.
pub const SERVER_VERSION_MIN: i32 = 130_000;

/// Whether a broker can work with the database as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// Nothing is installed.
    Missing,
    /// Some migrations were not applied.
    Older {
        /// The newest version that was applied.
        found: i32,
        /// The newest version that this binary has.
        wanted: i32,
    },
    /// A newer Postbell migrated the database.
    Newer {
        /// The newest version that was applied.
        found: i32,
        /// The newest version that this binary has.
        wanted: i32,
    },
    /// A migration was applied with another text than this binary has.
    Changed {
        /// The label of that migration.
        migration: String,
    },
    /// Postbell was installed for the tables of another schema.
    OtherSchema {
        /// The name of that schema.
        found: String,
        /// The schema of POSTBELL_SCHEMA; `None` if it does not exist.
        wanted: Option<String>,
    },
    /// There are tables of Postbell, but no record of migrations.
    Copied,
    /// These parts are missing or not as they must be.
    Drifted(Vec<String>),
    /// These triggers are missing, disabled, or of another version.
    TriggersStale(Vec<String>),
    /// All is well.
    Current,
}

impl SchemaState {
    /// Why a broker must not run on this schema and what to do, in a sentence; `None` if it may run.
    pub fn refusal(&self) -> Option<String> {
        Some(match self {
            Self::Current => return None,
            Self::Missing => "this database has no Postbell schema yet: run `postbell migrate`".to_owned(),
            Self::Older { found, wanted } => format!(
                "the database has schema version {found} and this postbell needs {wanted}: run `postbell migrate`"
            ),
            Self::Newer { found, wanted } => format!(
                "the database has schema version {found}, which is newer than the {wanted} that this postbell \
                 knows: install the newer postbell (a schema never goes back), then see `postbell migrate --status`"
            ),
            Self::Changed { migration } => format!(
                "migration {migration} was applied to this database with another text than this postbell has, so \
                 the tables may differ: use the postbell that migrated it (`postbell migrate --status` shows when)"
            ),
            Self::OtherSchema { found, wanted } => {
                let wanted = wanted.as_deref().unwrap_or("one that does not exist");
                format!(
                    "Postbell is installed in this database for the tables of schema {found}, but was asked to use \
                     {wanted}: set POSTBELL_SCHEMA={found}, or use another database, then run `postbell migrate`"
                )
            }
            Self::Copied => "schema postbell is there without its record of migrations, as after `pg_dump --schema-only`: run \
                             `postbell migrate`, which puts it in order"
                .to_owned(),
            Self::Drifted(sentences) => format!(
                "this database has drifted from what Postbell made: {}; run `postbell migrate`, which mends it or says how",
                sentences.join("; ")
            ),
            Self::TriggersStale(names) => format!(
                "the trigger {} is missing, disabled or out of date, so messages are not delivered, or presence and \
                 alerts not kept: run `postbell migrate`",
                names.join(", ")
            ),
        })
    }
}

/// Reads the state of the database.
///
/// # Errors
/// See [`StoreError`].
pub async fn schema_state(connection: &Connection) -> Result<SchemaState, StoreError> {
    Ok(Found::read(connection).await?.state())
}

/// A migration that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) version: i32,
    pub(super) name: String,
    pub(super) sha256: String,
    pub(super) applied_at: SystemTime,
    pub(super) by: String,
}

/// A trigger that was installed; it may have been dropped or disabled since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Installed {
    pub(super) name: String,
    pub(super) sha256: String,
    pub(super) applied_at: SystemTime,
    /// Postgres's letter for when the trigger fires; `None` if the trigger is gone.
    pub(super) enabled: Option<String>,
}

/// A trigger as it is for an ordinary INSERT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TriggerState {
    Missing,
    Disabled,
    Outdated,
    Current,
}

/// Everything that was found, in one reading.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) server_version_num: i32,
    pub(super) server_version: String,
    pub(super) schema: Option<String>,
    pub(super) installed_for: Option<String>,
    /// The tables of the mesh that exist.
    pub(super) tables: Vec<String>,
    pub(super) applied: Vec<Applied>,
    pub(super) triggers: Vec<Installed>,
    /// Whether there is more of Postbell than the record of migrations.
    pub(super) has_parts: bool,
    /// Differences from this version's schema; read only if this version was applied.
    pub(super) drift: Vec<Difference>,
}

impl Found {
    pub(super) async fn read(connection: &Connection) -> Result<Self, StoreError> {
        let row = connection.query_one(queries::SCHEMA_FOUND, &[]).await?;
        refuse_encoding(row.cell("encoding")?)?;
        let mut found = Self {
            server_version_num: row.cell("server_version_num")?,
            server_version: row.cell("server_version")?,
            schema: row.cell("schema")?,
            installed_for: row.cell("installed_for")?,
            tables: row.cell("tables")?,
            has_parts: row.cell("has_parts")?,
            ..Self::default()
        };
        if row.cell("has_migrations")? {
            let rows = unless_unreadable(connection.query(queries::MIGRATIONS_LIST, &[]).await)?;
            found.applied = rows.iter().map(applied).collect::<Result<_, _>>()?;
        }
        if row.cell("has_triggers")? {
            let rows = unless_unreadable(connection.query(queries::TRIGGERS_FOUND, &[]).await)?;
            found.triggers = rows.iter().map(installed).collect::<Result<_, _>>()?;
        }
        if found.version() == version_wanted() && found.schema.is_some() {
            found.drift = differences(connection).await?;
        }
        Ok(found)
    }

    /// Whether the schema is as its record says, so that changes to it can be rehearsed.
    pub(super) fn is_whole(&self) -> bool {
        self.drift.iter().all(Difference::is_only_slow) && (self.version() > 0 || !self.has_parts)
    }

    /// The newest migration that was applied.
    pub(super) fn version(&self) -> i32 {
        self.applied.last().map_or(0, |m| m.version)
    }

    /// The migrations that are still to be applied.
    pub(super) fn pending(&self) -> Vec<&'static Migration> {
        MIGRATIONS.iter().filter(|m| m.version > self.version()).collect()
    }

    pub(super) fn trigger_state(&self, trigger: &Trigger) -> TriggerState {
        let Some(found) = self.triggers.iter().find(|t| t.name == trigger.name) else {
            return TriggerState::Missing;
        };
        let difference =
            self.drift.iter().find(|d| d.needed.kind == "trigger" && d.needed.name == trigger.full_name());
        match (found.enabled.as_deref(), difference) {
            (None, _) => TriggerState::Missing,
            (Some("D"), _) => TriggerState::Disabled,
            // The trigger fires only while a replica applies changes, so not for a producer. `unseen` alone is meant
            // to.
            (Some("R"), _) if trigger.name != UNSEEN => TriggerState::Disabled,
            _ if found.sha256 != digest(trigger.sql) => TriggerState::Outdated,
            (_, Some(difference)) if difference.found.is_none() => TriggerState::Missing,
            (_, Some(difference)) if difference.is_disabled() => TriggerState::Disabled,
            (_, Some(_)) => TriggerState::Outdated,
            (_, None) => TriggerState::Current,
        }
    }

    /// The triggers that `migrate` would install.
    pub(super) fn stale_triggers(&self) -> Vec<&'static Trigger> {
        TRIGGERS.iter().filter(|t| self.trigger_state(t) != TriggerState::Current).collect()
    }

    pub(super) fn state(&self) -> SchemaState {
        let (found, wanted) = (self.version(), version_wanted());
        if found == 0 {
            return if self.has_parts { SchemaState::Copied } else { SchemaState::Missing };
        }
        if found > wanted {
            return SchemaState::Newer { found, wanted };
        }
        if let Some(migration) = self.tampered() {
            return SchemaState::Changed { migration: migration.label() };
        }
        if self.installed_for.is_some() && self.installed_for != self.schema {
            let found = self.installed_for.clone().unwrap_or_default();
            return SchemaState::OtherSchema { found, wanted: self.schema.clone() };
        }
        if found < wanted {
            return SchemaState::Older { found, wanted };
        }
        let drifted = self.drift.iter().filter(|d| d.needed.kind != "trigger" && !d.is_only_slow());
        let drifted: Vec<_> = drifted.map(Difference::sentence).collect();
        if !drifted.is_empty() {
            return SchemaState::Drifted(drifted);
        }
        let stale = self.stale_triggers();
        match stale.is_empty() {
            true => SchemaState::Current,
            false => SchemaState::TriggersStale(stale.iter().map(|t| t.full_name()).collect()),
        }
    }

    /// The first applied migration whose text is not this binary's.
    fn tampered(&self) -> Option<&'static Migration> {
        MIGRATIONS
            .iter()
            .find(|m| self.applied.iter().any(|a| a.version == m.version && a.sha256 != digest(m.sql)))
    }
}

/// Refuses every encoding but UTF8: SQL_ASCII lets any bytes into a text, and no other encoding can store most names
/// and payloads.
fn refuse_encoding(encoding: &str) -> Result<(), StoreError> {
    if encoding == "UTF8" {
        return Ok(());
    }
    Err(StoreError::refused(format!(
        "this database has the encoding {encoding}, and Postbell needs UTF8, in which every message can be written and \
         read: make another with `create database NAME encoding 'UTF8' template template0`, load a dump of this one \
         into it, and name it in the database URL"
    )))
}

/// Reads a table that lacks a column as empty; it is made anew.
fn unless_unreadable(rows: Result<Vec<Row>, StoreError>) -> Result<Vec<Row>, StoreError> {
    match rows {
        Err(error) if error.sqlstate() == Some("42703") => Ok(Vec::new()),
        rows => rows,
    }
}

fn applied(row: &Row) -> Result<Applied, StoreError> {
    Ok(Applied {
        version: row.cell("version")?,
        name: row.cell("name")?,
        sha256: row.cell("sha256")?,
        applied_at: row.cell("applied_at")?,
        by: row.cell("by")?,
    })
}

fn installed(row: &Row) -> Result<Installed, StoreError> {
    Ok(Installed {
        name: row.cell("name")?,
        sha256: row.cell("sha256")?,
        applied_at: row.cell("applied_at")?,
        enabled: row.cell("enabled")?,
    })
}

#[cfg(test)]
mod tests;
