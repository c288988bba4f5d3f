//! Applies migrations, one after the other.

use super::concurrently;
use super::embedded::{Migration, digest};
use super::{BEGIN, roll_back};
use crate::store::connection::{Connection, Target};
use crate::store::error::StoreError;
use crate::store::sql::queries;

/// Applies these migrations, and returns the indexes that were built outside of a transaction. `is_first`: nothing was
/// applied to this database before.
pub(super) async fn all(
    connection: &Connection,
    target: &Target,
    migrations: &[&'static Migration],
    is_first: bool,
) -> Result<Vec<String>, StoreError> {
    let mut built = Vec::new();
    for (place, migration) in migrations.iter().enumerate() {
        let before = &migrations[..place];
        let due = concurrently::due(connection, migration).await;
        let due = due.map_err(|error| not_applied(migration, before, &[], &error))?;
        if let Err(error) = concurrently::make(connection, target, &due).await {
            return Err(not_applied(migration, before, &due.builds(), &error));
        }
        let sql = if migration.concurrently { "" } else { migration.sql };
        if let Err(error) = in_transaction(connection, migration, sql, is_first && place == 0).await {
            roll_back(connection).await;
            return Err(not_applied(migration, before, &due.builds(), &error));
        }
        built.extend(due.builds());
        tracing::debug!(migration = migration.label(), "applied");
    }
    Ok(built)
}

async fn in_transaction(
    connection: &Connection,
    migration: &Migration,
    sql: &str,
    is_first: bool,
) -> Result<(), StoreError> {
    connection.batch(BEGIN).await?;
    if is_first {
        // In the same transaction, so that a first migration that fails leaves no schema behind either.
        connection.batch(queries::MIGRATIONS_BOOTSTRAP).await?;
    }
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&migration.version, &migration.name, &digest(migration.sql)];
    connection.execute(queries::MIGRATIONS_RECORD, &params).await?;
    connection.batch(sql).await?;
    connection.batch("commit").await
}

/// Why a migration was not applied, and where that leaves the database. `before` are the migrations that this call has applied
/// already; they stay. `built` may be there of this one.
fn not_applied(
    migration: &Migration,
    before: &[&'static Migration],
    built: &[String],
    error: &StoreError,
) -> StoreError {
    let label = migration.label();
    let there = match (before, built) {
        ([], []) => " Nothing was changed.".to_owned(),
        ([], _) => String::new(),
        ([one], _) => format!(" Migration {} was applied before it and stays.", one.label()),
        ([first, .., last], _) => {
            format!(" Migrations {} to {} were applied before it and stay.", first.label(), last.label())
        }
    };
    let nothing = match built {
        [] => "nothing of it remains".to_owned(),
        _ => format!("nothing of it remains but what was built of {}, which harms nothing", built.join(", ")),
    };
    let sentence = format!(
        "migration {label} was not applied, and {nothing}: {error}.{there} When that is mended run `postbell migrate` again: \
         it goes on with {label}"
    );
    match error.is_retryable() {
        true => StoreError::unavailable(sentence),
        false => StoreError::refused(sentence),
    }
}
