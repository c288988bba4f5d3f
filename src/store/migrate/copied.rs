//! Databases that have Postbell's schema and no record of how they came by it: copied by `pg_dump --schema-only`, as for a
//! branch of a Supabase project, or robbed of `postbell.migrations`.

use super::embedded::{MIGRATIONS, digest};
use super::state::Found;
use super::{BEGIN, BOOTSTRAP, RECORD, roll_back};
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::error::StoreError;

/// Removes what is left of an earlier Postbell and holds nothing.
pub(super) const CLEAR: &str = include_str!("../../../sql/queries/migrations_clear.sql");
const HOLDS: &str = include_str!("../../../sql/queries/schema_holds.sql");

/// Makes room for the migrations, or records them where their tables are in use: what differs is mended afterwards.
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

/// The tables hold something, so they are brought to this version as they are, not made anew.
async fn record_all(connection: &Connection) -> Result<(), StoreError> {
    // The record may be there and unreadable for want of a column.
    connection.batch(&format!("{BEGIN}; drop table if exists postbell.migrations; {BOOTSTRAP};")).await?;
    for migration in MIGRATIONS {
        let sha256 = digest(migration.sql);
        connection.execute(RECORD, &[&migration.version, &migration.name, &sha256]).await?;
    }
    connection.batch("commit").await
}
