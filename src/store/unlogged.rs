//! Tables that do not outlive a crash of the server.

use super::cell::Cells;
use super::connection::Connection;
use super::error::StoreError;
use super::sql::queries;

/// A sentence for each unlogged table.
pub(super) async fn warnings(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let rows = connection.query(queries::UNLOGGED, &[]).await?;
    let warning = |name: String| {
        format!(
            "{name} is unlogged: a crash of the server empties it, with every row that was committed, and no standby \
             has it. `alter table {name} set logged`"
        )
    };
    rows.iter().map(|row| Ok(warning(row.cell("name")?))).collect()
}
