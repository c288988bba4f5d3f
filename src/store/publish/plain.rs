//! Publishing where the table does not take the usual insert. With a rule of the user's, Postgres takes neither ON CONFLICT nor, with
//! some rules, RETURNING; a status or a priority that the table computes must be left out.
//!
//! Both are made up for by looking, in the same transaction: before, for dedupe keys that are known, and after, for messages that a
//! rule kept out. Two transactions with one key meet at its unique index.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::columns::Columns;
use super::{NewMessage, Stored, firsts};
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::error::StoreError;
use crate::store::sql::queries;

/// unique_violation: another transaction was first with a dedupe key; the next look finds its message.
const TAKEN: &str = "23505";
/// Other keys may be taken meanwhile.
const TRIES_MAX: u32 = 3;

/// As [`Writer::publish`](super::Writer::publish) does it.
pub(super) async fn publish(
    connection: &Connection,
    batch: &[&NewMessage],
) -> Result<Vec<Stored>, StoreError> {
    let mut tries = 1;
    loop {
        match in_transaction(connection, batch).await {
            Err(error) if error.sqlstate() == Some(TAKEN) && tries < TRIES_MAX => tries += 1,
            published => return published,
        }
    }
}

async fn in_transaction(connection: &Connection, batch: &[&NewMessage]) -> Result<Vec<Stored>, StoreError> {
    connection.batch("begin").await?;
    let published = insert(connection, batch).await;
    let ended = match connection.is_closed() {
        true => Ok(()),
        false => connection.end(published.is_ok()).await,
    };
    published.and_then(|stored| ended.map(|()| stored))
}

async fn insert(connection: &Connection, batch: &[&NewMessage]) -> Result<Vec<Stored>, StoreError> {
    let keyed: Vec<&NewMessage> = batch.iter().copied().filter(|o| o.send.dedupe_key.is_some()).collect();
    let mut firsts = if keyed.is_empty() { HashMap::new() } else { firsts(connection, &keyed).await? };
    let new = without_known(batch, &mut firsts);
    let there = there(connection, &new).await?;
    let ours: HashSet<Uuid> = new.iter().map(|o| o.id).collect();
    let stored = |o: &&NewMessage| {
        let first = firsts.get(&o.id).copied().unwrap_or(o.id);
        if ours.contains(&first) && !there.contains(&first) { Stored::KeptOut } else { Stored::As(first) }
    };
    Ok(batch.iter().map(stored).collect())
}

/// Leaves the messages that are the first with their key; `firsts` then says which is the first of each other one.
fn without_known<'a>(batch: &[&'a NewMessage], firsts: &mut HashMap<Uuid, Uuid>) -> Vec<&'a NewMessage> {
    let mut new = Vec::with_capacity(batch.len());
    let mut keys: HashMap<(&str, &str), Uuid> = HashMap::new();
    for &o in batch {
        if firsts.contains_key(&o.id) {
            continue;
        }
        let key = o.send.dedupe_key.as_deref().map(|key| (&*o.from, key));
        match key.and_then(|key| keys.get(&key)) {
            Some(first) => _ = firsts.insert(o.id, *first),
            None => {
                keys.extend(key.map(|key| (key, o.id)));
                new.push(o);
            }
        }
    }
    new
}

async fn there(connection: &Connection, new: &[&NewMessage]) -> Result<HashSet<Uuid>, StoreError> {
    if new.is_empty() {
        return Ok(HashSet::new());
    }
    let columns = Columns::of(new);
    connection.execute(queries::PUBLISH_PLAIN, &columns.params()).await?;
    connection.query(queries::PUBLISH_THERE, &[&columns.ids]).await?.iter().map(|row| row.cell(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The columns that publish.sql writes, each with its value.
    fn written() -> Vec<(&'static str, &'static str)> {
        let (_, rest) = queries::PUBLISH.split_once("insert into agent_messages (").expect("it inserts");
        let (columns, rest) = rest.split_once(")\nselect ").expect("a list of columns");
        let (values, _) = rest.split_once("\nfrom unnest").expect("a list of values");
        let columns = columns.split(',').map(str::trim);
        columns.zip(values.split(',').map(str::trim)).collect()
    }

    #[test]
    fn both_inserts_write_the_same() {
        let plain = include_str!("../../../sql/schema.sql");
        let written = written();
        assert_eq!(written.len(), 17);
        for (n, (column, value)) in written.into_iter().enumerate() {
            let pair = format!("({}, '{column}', '{}')", n + 1, value.replace('\'', "''"));
            assert!(plain.contains(&pair), "insert_messages has no {pair}");
        }
    }
}
