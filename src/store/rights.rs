//! The rights of this role on the tables, sequences and functions that a broker needs.

use tokio_postgres::Row;

use super::cell::Cells;
use super::connection::Connection;
use super::error::StoreError;
use crate::store::sql::queries;

/// Rights that this role lacks on one table, sequence or function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lack {
    role: String,
    rights: String,
    on: String,
}

impl Lack {
    /// Names the missing rights, in a sentence.
    pub(crate) fn sentence(&self) -> String {
        format!("{} lacks {} on {}", self.role, self.rights, self.on)
    }

    /// Says what to do.
    pub(crate) fn way_out(&self) -> String {
        format!("connect as the owner of the tables, or `{}`", self.grant())
    }

    /// The SQL that grants them.
    pub(crate) fn grant(&self) -> String {
        format!("grant {} on {} to {}", self.rights, self.on, self.role)
    }
}

/// Returns the rights that this role lacks.
pub(crate) async fn lacking(connection: &Connection) -> Result<Vec<Lack>, StoreError> {
    let mut found = Vec::new();
    for row in connection.query(queries::DOCTOR_RIGHTS, &[]).await? {
        let lacking: Vec<String> = row.cell("lacking")?;
        if !lacking.is_empty() {
            found.push(Lack { role: row.cell("role")?, rights: lacking.join(", "), on: row.cell("name")? });
        }
    }
    Ok(found)
}

/// Returns a sentence for each table of which row level security hides rows although no right is lacking; and this
/// role's name, if there is any table.
pub(crate) async fn hidden(connection: &Connection) -> Result<(Vec<String>, Option<String>), StoreError> {
    let (mut found, mut role) = (Vec::new(), None);
    for row in connection.query(queries::DOCTOR_RIGHTS, &[]).await? {
        role = Some(row.cell::<_, String>("role")?);
        let lacking: Vec<String> = row.cell("lacking")?;
        if lacking.is_empty() && row.cell("hides_rows")? {
            found.push(sentence(&row)?);
        }
    }
    Ok((found, role))
}

fn sentence(row: &Row) -> Result<String, StoreError> {
    let (table, role): (String, String) = (row.cell("name")?, row.cell("role")?);
    let forced = match row.cell("is_forced")? {
        true => format!(" or `alter table {table} no force row level security`"),
        false => String::new(),
    };
    Ok(format!(
        "row level security hides rows of {table} from {role}: connect as its owner, or `alter role {role} bypassrls`{forced}"
    ))
}
