//! Redriving and purging where a rule of the user's is on agent_messages: Postgres then takes no UPDATE of it inside another
//! statement, so what is one statement elsewhere is several in one transaction.

use uuid::Uuid;

use super::batch::{Op, Range};
use super::done::{Done, Refusal};
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::error::StoreError;
use crate::store::pool::Pool;

const FREE: &str = include_str!("../../../sql/queries/dead_free.sql");
const WAIT: &str = include_str!("../../../sql/queries/dead_wait.sql");
const READY: &str = include_str!("../../../sql/queries/dead_ready.sql");
const DROP: &str = include_str!("../../../sql/queries/dead_drop.sql");
const FAILED: &str = include_str!("../../../sql/queries/dead_failed.sql");

pub(super) async fn statements(pool: &Pool, op: Op, range: Range<'_>) -> Result<Done, StoreError> {
    let connection = pool.get().await?;
    connection.batch("begin").await?;
    let done = in_transaction(&connection, op, range).await;
    let ended = connection.batch(if done.is_ok() { "commit" } else { "rollback" }).await;
    // Why it was rolled back says more than that.
    let done = done?;
    ended?;
    Ok(done)
}

async fn in_transaction(connection: &Connection, op: Op, range: Range<'_>) -> Result<Done, StoreError> {
    let Range { ids, inbox, after, most } = range;
    let row = connection.query_one(FREE, &[&ids, &inbox, &after, &most]).await?;
    let (free, looked): (Vec<i64>, i64) = (row.cell("free")?, row.cell("looked")?);
    let kept: Vec<i64> = match op {
        Op::Redrive => {
            connection.execute(WAIT, &[&free]).await?;
            connection.query_one(READY, &[&free]).await?.cell("kept")?
        }
        Op::Purge => {
            let row = connection.query_one(DROP, &[&free]).await?;
            let messages: Vec<Uuid> = row.cell("messages")?;
            let reasons: Vec<Option<&str>> = row.cell("reasons")?;
            connection.execute(FAILED, &[&messages, &reasons]).await?;
            Vec::new()
        }
    };
    Ok(Done {
        count: (free.len() - kept.len()) as i64,
        looked,
        last: row.cell("last")?,
        held: looked - free.len() as i64,
        untried: 0,
        refused: kept.into_iter().map(Refusal::kept_out).collect(),
    })
}
