//! Tries the life of a message, so that a constraint or a trigger that was added later is named before messages
//! suffer from it.

use super::Check;
use crate::store::connection::Connection;
use crate::store::error::StoreError;
use crate::store::rehearsal::{Before, rehearse};

/// Rehearses in a transaction that is rolled back, on the tables as they are. The transaction locks no table, only
/// rows of its own.
pub(super) async fn rehearsal(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let found = match rehearse(connection, &Before::default()).await {
        Ok(found) => found,
        Err(error) if error.is_retryable() && !connection.is_closed() => {
            let sentence = format!("the life of a message could not be tried now: {error}");
            return Ok(vec![Check::warn("rehearsal", sentence)]);
        }
        Err(error) => return Err(error),
    };
    let refusals = found.refusals.into_iter().map(|sentence| Check::fail("rehearsal", sentence));
    let warnings = found.warnings.into_iter().map(|sentence| Check::warn("rehearsal", sentence));
    let mut checks: Vec<_> = refusals.chain(warnings).collect();
    if checks.is_empty() {
        checks.push(Check::ok(
            "rehearsal",
            "a message was inserted, delivered, acknowledged, retried, dead and redriven in a transaction that was rolled back",
        ));
    }
    Ok(checks)
}
