//! Whether the tables that are there can be adopted: many databases keep something else under these names.

use crate::postgres::connection::Connection;
use crate::postgres::error::StoreError;

const FAULTS: &str = include_str!("../../../sql/queries/adoption_faults.sql");

/// Refuses, naming the columns, where a table is something else.
///
/// # Errors
/// That refusal; or see [`StoreError`].
pub(super) async fn check(connection: &Connection) -> Result<(), StoreError> {
    let rows = connection.client().query(FAULTS, &[]).await?;
    let Some(first) = rows.first() else { return Ok(()) };
    let table: String = first.get("table_name");
    let mut missing = Vec::new();
    let mut other = Vec::new();
    for row in rows.iter().filter(|row| row.get::<_, &str>("table_name") == table) {
        let column: &str = row.get("column_name");
        let wanted: &str = row.get("wanted_type");
        match row.get::<_, Option<&str>>("type_name") {
            None => missing.push(column.to_owned()),
            Some(found) => other.push(format!("{column} is {found} instead of {wanted}")),
        }
    }
    let columns = connection
        .client()
        .query_one(
            "select string_agg(attname, ', ' order by attnum) from pg_attribute \
             where attrelid = to_regclass($1::text) and attnum > 0 and not attisdropped",
            &[&table],
        )
        .await?;
    let columns: Option<String> = columns.get(0);
    let mut faults = other;
    if !missing.is_empty() {
        faults.insert(0, format!("it lacks {}", missing.join(", ")));
    }
    Err(StoreError::refused(format!(
        "the table {table} that is there is something else and was not touched: {}. Its columns are {}. Rename it, \
         or let postbell use another schema (POSTBELL_SCHEMA)",
        faults.join("; "),
        columns.unwrap_or_default()
    )))
}
