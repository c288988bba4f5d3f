//! Rights beyond reading that the roles of Supabase's API have, and any right of theirs on schema postbell.

use tokio_postgres::Row;

use super::{Check, add, mesh};
use crate::store::cell::Cells;
use crate::store::connection::{Connection, Target};
use crate::store::error::StoreError;
use crate::store::sql::queries;

/// Rights that nobody should have.
pub(super) async fn open(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let checks: Vec<_> =
        connection.query(queries::DOCTOR_OPEN, &[]).await?.iter().map(check).collect::<Result<_, _>>()?;
    match checks.is_empty() {
        true => {
            Ok(vec![Check::ok("api roles", "neither anon nor authenticated can do more than policies allow")])
        }
        false => Ok(checks),
    }
}

/// Everything that is still open, reading included, because `postbell policies apply` could not close it.
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn still_open(target: &Target) -> Result<Vec<Check>, StoreError> {
    let connection = Connection::open(target).await?;
    let mut checks = Vec::new();
    add(&mut checks, "policies", mesh::policies(&connection).await);
    add(&mut checks, "api roles", open(&connection).await);
    checks.retain(|c| c.level != super::Level::Ok);
    Ok(checks)
}

fn check(row: &Row) -> Result<Check, StoreError> {
    let (object, problem): (String, String) = (row.cell("object")?, row.cell("problem")?);
    let who = row.cell::<_, Vec<String>>("roles")?.join(" and ");
    let apply = "`postbell policies apply` closes it";
    let sentence = match problem.as_str() {
        "writes" => {
            format!("{who} may write every row of {object}, since row level security is off: {apply}")
        }
        "truncate" => format!("{who} may TRUNCATE {object}, which no policy governs: {apply}"),
        "policy" => format!(
            "{who} may write any row of {object}: bind it to the role it is meant for; {apply} as well"
        ),
        "token_hash" => format!("{who} may read token_hash in {object}: {apply}"),
        "usage" => format!("{who} may look into {object}, which is the broker's alone: {apply}"),
        // The function must be mended by hand. An installed function is never like this (tests/it/policies.rs).
        _ => {
            return Ok(Check::fail(
                "api roles",
                format!(
                    "function {object} runs with its owner's rights and has no search_path of its own or can be \
                     called by everybody: drop it, or `revoke all on function {object} from public` and \
                     `alter function {object} set search_path = pg_catalog, pg_temp`"
                ),
            ));
        }
    };
    Ok(Check::warn("api roles", sentence))
}
