//! Databases with Postbell's schema but without its record of migrations: copied by `pg_dump --schema-only`, as for a
//! branch of a Supabase project, or with `postbell.migrations` dropped.

use super::embedded::{MIGRATIONS, digest};
use super::state::Found;
use super::{BEGIN, BOOTSTRAP, RECORD, roll_back};
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::error::StoreError;

/// Removes the parts of an earlier Postbell that hold no rows.
pub(super) const CLEAR: &str = include_str!("../../../sql/queries/migrations_clear.sql");
const HOLDS: &str = include_str!("../../../sql/queries/schema_holds.sql");

/// Clears the schema for the migrations. A schema whose tables hold rows is not cleared: all migrations are recorded,
/// and `mend` then brings the tables to this version.
pub(super) async fn settle(connection: &Connection, found: &Found) -> Result<(), StoreError> {
    let result = match found.has_parts && holds(connection).await? {
        true => record_all(connection).await,
        false => clear(connection).await,
    };
    if let Err(error) = result {
        roll_back(connection).await;
        return Err(StoreError::refused(format!(
            "schema postbell is there without its record of migrations, and could not be put in order: {error}; connect as \
             its owner, or `drop schema postbell cascade` if nothing in it is needed, then run `postbell migrate`"
        )));
    }
    Ok(())
}

async fn holds(connection: &Connection) -> Result<bool, StoreError> {
    connection.query_one(HOLDS, &[]).await?.cell("holds")
}

async fn clear(connection: &Connection) -> Result<(), StoreError> {
    connection.batch(&format!("{BEGIN}; {CLEAR}; commit")).await
}

/// Records every migration as applied: the tables hold rows, so they are brought to this version as they are, and not
/// made anew.
async fn record_all(connection: &Connection) -> Result<(), StoreError> {
    // The record may exist and be unreadable because a column is missing.
    connection.batch(&format!("{BEGIN}; drop table if exists postbell.migrations; {BOOTSTRAP};")).await?;
    for migration in MIGRATIONS {
        let sha256 = digest(migration.sql);
        connection.execute(RECORD, &[&migration.version, &migration.name, &sha256]).await?;
    }
    connection.batch("commit").await
}
