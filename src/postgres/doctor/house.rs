//! What Postbell itself installed, and what this role may do with it.

use super::Check;
use crate::postgres::cell::Cells;
use crate::postgres::connection::Connection;
use crate::postgres::error::StoreError;
use crate::postgres::migrate::{SchemaState, status, version_wanted};

const RIGHTS: &str = include_str!("../../../sql/queries/doctor_rights.sql");

/// The schema's version and the triggers.
pub(super) async fn schema(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let status = status(connection).await?;
    let refusal = status.state.refusal();
    let version = format!("version {}, as this postbell needs it", version_wanted());
    Ok(match (&status.state, refusal) {
        (SchemaState::TriggersStale(_), Some(sentence)) => {
            vec![Check::ok("schema", version), Check::fail("triggers", sentence)]
        }
        (_, Some(sentence)) => vec![Check::fail("schema", sentence)],
        (_, None) => {
            let triggers = status.lines.iter().filter(|l| l.kind == "trigger");
            let names: Vec<_> = triggers.map(|l| l.name.as_str()).collect();
            let found = format!("{} are installed and enabled", names.join(", "));
            vec![Check::ok("schema", version), Check::ok("triggers", found)]
        }
    })
}

/// Rights on the tables, and whether row level security hides rows from the broker.
pub(super) async fn rights(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let mut checks = Vec::new();
    let mut role = String::new();
    for row in connection.query(RIGHTS, &[]).await? {
        let (table, lacking): (String, Vec<String>) = (row.cell("name")?, row.cell("lacking")?);
        role = row.cell("role")?;
        if !lacking.is_empty() {
            let rights = lacking.join(", ");
            checks.push(Check::fail(
                "rights",
                format!(
                    "{role} lacks {rights} on {table}: connect as the owner of the tables, or `grant {rights} on \
                     {table} to {role}`"
                ),
            ));
        } else if row.cell("hides_rows")? {
            let forced = match row.cell("is_forced")? {
                true => format!(" or `alter table {table} no force row level security`"),
                false => String::new(),
            };
            checks.push(Check::fail(
                "rights",
                format!(
                    "row level security hides rows of {table} from {role}: connect as its owner, or `alter role \
                     {role} bypassrls`{forced}"
                ),
            ));
        }
    }
    // No row: there is no table yet, which another check says.
    if checks.is_empty() && !role.is_empty() {
        checks.push(Check::ok("rights", format!("{role} may do what the broker does, and sees every row")));
    }
    Ok(checks)
}
