//! Mends what differs from the schema that this version needs, each part in a transaction of its own.

use super::{BEGIN, roll_back};
use crate::postgres::connection::Connection;
use crate::postgres::drift::{Difference, differences};
use crate::postgres::error::StoreError;
use crate::postgres::rights;

const LOOK: &str = include_str!("../../../sql/queries/sweep_all.sql");

/// One part may need another: a view a column, a default a sequence.
const ROUNDS_MAX: usize = 8;

/// Mends all but the triggers, which triggers.rs installs; says what was mended, as it was.
pub(super) async fn mend(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let mut mended = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let mut progress = false;
        for difference in differences(connection).await? {
            let sentence = difference.sentence();
            let Some(cure) = difference.cure() else { continue };
            match apply(connection, &cure).await {
                Ok(()) => {
                    progress = true;
                    if !mended.contains(&sentence) {
                        mended.push(sentence);
                    }
                }
                Err(error) if error.is_retryable() => return Err(error),
                // Said at the end, with a way out, unless a later round mends it.
                Err(error) => tracing::debug!(%error, sentence, "not mended"),
            }
        }
        if !progress {
            break;
        }
    }
    Ok(mended)
}

/// What is left after the triggers were installed, each with what to do.
pub(super) async fn left(connection: &Connection) -> Result<Vec<String>, StoreError> {
    Ok(differences(connection).await?.iter().filter(|d| !d.is_only_slow()).map(told).collect())
}

/// Gives this role what it lacks of what a broker needs, where it may: says what, and what it may not.
pub(super) async fn rights(connection: &Connection) -> Result<(Vec<String>, Vec<String>), StoreError> {
    let (mut granted, mut lacking) = (Vec::new(), Vec::new());
    for right in rights::lacking(connection).await? {
        match apply(connection, &right.grant()).await {
            Ok(()) => granted.push(right.sentence()),
            Err(_) => lacking.push(format!("{}: {}", right.sentence(), right.way_out())),
        }
    }
    Ok((granted, lacking))
}

/// A difference, and what to do about it.
pub(super) fn told(difference: &Difference) -> String {
    format!("{}: {}", difference.sentence(), difference.way_out())
}

/// After something was mended: messages that came meanwhile have no deliveries.
pub(super) async fn look(connection: &Connection) -> Result<u64, StoreError> {
    let ready: Option<i64> = connection.query_one(LOOK, &[]).await?.try_get("ready")?;
    Ok(u64::try_from(ready.unwrap_or(0)).unwrap_or(0))
}

async fn apply(connection: &Connection, cure: &str) -> Result<(), StoreError> {
    // A function may name a table that comes after it.
    let result = connection.batch(&format!("{BEGIN}; set local check_function_bodies = off; {cure}; commit")).await;
    if result.is_err() {
        roll_back(connection).await;
    }
    result
}
