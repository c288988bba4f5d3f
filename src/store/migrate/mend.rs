//! Mends differences from the schema that this version needs, each part in a transaction of its own.

use super::state::Found;
use super::{BEGIN, Plan, concurrently, roll_back, triggers};
use crate::store::cell::Cells;
use crate::store::connection::{Connection, Target};
use crate::store::drift::{Difference, differences};
use crate::store::error::StoreError;
use crate::store::rights;
use crate::store::sql::queries;

/// The most rounds of mending. One part may need another: a view a column, a default a sequence.
const ROUNDS_MAX: usize = 8;

/// Brings everything that is not history to this version: mends differences, then installs the triggers.
pub(super) async fn finish(
    connection: &Connection,
    target: &Target,
    done: &mut Plan,
    applied: usize,
) -> Result<(), StoreError> {
    let had_drift = !Found::read(connection).await?.drift.is_empty();
    if had_drift {
        // The plan named the differences before the migrations; now those that were mended are named.
        done.mends.retain(|m| m.starts_with("the record"));
        done.mends.extend(mend(connection, target).await?);
    }
    let found = Found::read(connection).await?;
    let left: Vec<_> =
        found.drift.iter().filter(|d| d.needed.kind != "trigger" && !d.is_only_slow()).collect();
    if !left.is_empty() {
        // Triggers on tables that are not whole would only fail.
        done.triggers.clear();
        done.left = left.into_iter().map(told).collect();
        return Ok(());
    }
    let triggers = found.stale_triggers();
    done.triggers = triggers.iter().map(|t| t.full_name()).collect();
    done.deliveries = triggers::install(connection, &found, &triggers, applied).await?;
    // Messages that came while a part was missing have no deliveries. If the route trigger was missing, installing it
    // made them.
    if !done.mends.is_empty() || had_drift && done.deliveries.is_none() {
        let ready = look(connection).await?;
        done.deliveries = done.deliveries.map(|n| n + ready).or(Some(ready).filter(|n| *n > 0));
    }
    let (granted, lacking) = rights(connection).await?;
    done.mends.extend(granted);
    done.left = left_over(connection).await?;
    done.left.extend(lacking);
    Ok(())
}

/// Mends every part but the triggers, which triggers.rs installs. Returns a sentence for each part that was mended.
async fn mend(connection: &Connection, target: &Target) -> Result<Vec<String>, StoreError> {
    let mut mended = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let mut progress = false;
        for difference in differences(connection).await? {
            let sentence = difference.sentence();
            let Some(cure) = difference.cure() else { continue };
            match make(connection, target, &difference, &cure).await {
                Ok(()) => {
                    progress = true;
                    if !mended.contains(&sentence) {
                        mended.push(sentence);
                    }
                }
                Err(error) if error.is_retryable() => return Err(error),
                // If no later round mends the part, the end result names it with a way out.
                Err(error) => tracing::debug!(%error, sentence, "not mended"),
            }
        }
        if !progress {
            break;
        }
    }
    Ok(mended)
}

/// Makes one part anew. An index of a table of the user's is built while others write.
async fn make(
    connection: &Connection,
    target: &Target,
    difference: &Difference,
    cure: &str,
) -> Result<(), StoreError> {
    match difference.is_users_index() {
        true => concurrently::mend(connection, target, cure).await,
        false => apply(connection, cure).await,
    }
}

/// The differences that are left after the triggers were installed, each with what to do.
async fn left_over(connection: &Connection) -> Result<Vec<String>, StoreError> {
    Ok(differences(connection).await?.iter().filter(|d| !d.is_only_slow()).map(told).collect())
}

/// Grants this role the rights that a broker needs, as far as possible. Returns the rights that were granted, and
/// those that are still lacking.
async fn rights(connection: &Connection) -> Result<(Vec<String>, Vec<String>), StoreError> {
    let before = rights::lacking(connection).await?;
    for right in &before {
        if let Err(error) = apply(connection, &right.grant()).await {
            tracing::debug!(%error, right = right.sentence(), "not granted");
        }
    }
    // If nothing may be granted, Postgres only warns, and the statement succeeds. So the rights are read again.
    let after = rights::lacking(connection).await?;
    let granted = before.iter().filter(|right| !after.contains(right)).map(rights::Lack::sentence);
    let lacking = after.iter().map(|right| format!("{}: {}", right.sentence(), right.way_out()));
    Ok((granted.collect(), lacking.collect()))
}

/// A difference, and what to do about it.
pub(super) fn told(difference: &Difference) -> String {
    format!("{}: {}", difference.sentence(), difference.way_out())
}

/// Makes deliveries for messages that came before the schema was mended; returns how many.
async fn look(connection: &Connection) -> Result<u64, StoreError> {
    let ready: Option<i64> = connection.query_one(queries::SWEEP_ALL, &[]).await?.cell("ready")?;
    Ok(u64::try_from(ready.unwrap_or(0)).unwrap_or(0))
}

async fn apply(connection: &Connection, cure: &str) -> Result<(), StoreError> {
    // A function may name a table that is made after it.
    let result =
        connection.batch(&format!("{BEGIN}; set local check_function_bodies = off; {cure}; commit")).await;
    if result.is_err() {
        roll_back(connection).await;
    }
    result
}
