//! Messages at which the server fails in the middle of a statement that reads many, whatever it is asked for of them: a damaged
//! page, a policy of row level security that raises. The statements leave these out once they are known.

use std::collections::HashMap;
use std::sync::Arc;

use std::time::Instant;

use tokio_postgres::Row;
use uuid::Uuid;

use super::{NAMES_BYTES_MAX, Wary, is_of_the_row, may_be_a_row};
use crate::store::StoreError;
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::error::Fault;
use postbell_engine::inbox::Unfit;

const UNREADABLE: &str = include_str!("../../../sql/queries/unreadable.sql");

/// So many are known at once; with more, those that are known are dead letters first.
pub(super) const BLAMED_MAX: usize = 10_000;
/// Where so many failed, and none can be read, it is no message's fault.
const FRUITLESS_MAX: usize = 32;

/// The fault of such messages.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Blamed(HashMap<Uuid, Arc<str>>);

impl Blamed {
    pub(super) fn of(known: &HashMap<Uuid, (Instant, Arc<str>)>) -> Self {
        Self(known.iter().map(|(id, (_, why))| (*id, why.clone())).collect())
    }

    /// For a statement, which reads nothing of them.
    pub(in crate::store) fn ids(&self) -> Vec<Uuid> {
        self.0.keys().copied().collect()
    }

    /// Why the message of this row was not read, if it is one of them.
    ///
    /// # Errors
    /// The row has no message's id.
    pub(in crate::store) fn unfit(&self, row: &Row) -> Result<Option<Unfit>, StoreError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let why = self.0.get(&row.cell("message_id")?);
        Ok(why.map(|why| Unfit::Unreadable(why.to_string())))
    }
}

/// Looks among these for the messages that cannot be read, and remembers them.
///
/// # Errors
/// See [`StoreError`]: the database did not answer, or failed for another reason.
pub(in crate::store) async fn find(
    connection: &Connection,
    wary: &Wary,
    messages: &[Uuid],
) -> Result<(), StoreError> {
    let mut groups = vec![messages];
    let mut suspects: Vec<(Uuid, StoreError)> = Vec::new();
    let mut is_any_read = false;
    while let Some(group) = groups.pop() {
        match (connection.query_one(UNREADABLE, &[&group, &NAMES_BYTES_MAX]).await, group) {
            (Ok(row), _) => is_any_read |= row.cell::<_, Option<i64>>(0)?.is_some(),
            (Err(e), [message]) if is_of_the_row(&e) => wary.blame(*message, &e),
            (Err(e), [message]) if may_be_a_row(&e) => suspects.push((*message, e)),
            (Err(e), [_, _, ..]) if may_be_a_row(&e) => {
                let (one, other) = group.split_at(group.len() / 2);
                groups.extend([other, one]);
            }
            (Err(e), _) => return Err(e),
        }
        // An error that a user's function raises may be about the row or about anything: another row that can be read tells. A
        // message that is alone holds nobody up meanwhile.
        if is_any_read {
            suspects.drain(..).for_each(|(message, e)| wary.blame(message, &e));
        } else if suspects.len() >= FRUITLESS_MAX {
            break;
        }
    }
    Ok(())
}

/// Whether the server fails on something of the user's: a row may be to blame, or the tables as they are.
pub(super) fn is_of_the_tables(error: &StoreError) -> bool {
    error.fault() == Fault::Refused
}
