//! Databases with Postbell's schema but without its record of migrations: copied by `pg_dump --schema-only`, as for a
//! branch of a Supabase project, or with `postbell.migrations` dropped.

use super::embedded::{MIGRATIONS, digest};
use super::state::Found;
use super::{BEGIN, roll_back};
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::error::StoreError;
use crate::store::sql::queries;

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
    connection.query_one(queries::SCHEMA_HOLDS, &[]).await?.cell("holds")
}

async fn clear(connection: &Connection) -> Result<(), StoreError> {
    connection.batch(&format!("{BEGIN}; {}; commit", queries::MIGRATIONS_CLEAR)).await
}

/// Records every migration as applied: the tables hold rows, so they are brought to this version as they are, and not
/// made anew.
async fn record_all(connection: &Connection) -> Result<(), StoreError> {
    // The record may exist and be unreadable because a column is missing.
    let bootstrap = queries::MIGRATIONS_BOOTSTRAP;
    connection.batch(&format!("{BEGIN}; drop table if exists postbell.migrations; {bootstrap};")).await?;
    for migration in MIGRATIONS {
        let sha256 = digest(migration.sql);
        connection
            .execute(queries::MIGRATIONS_RECORD, &[&migration.version, &migration.name, &sha256])
            .await?;
    }
    connection.batch("commit").await
}
