//! Redriving and purging where a rule of the user's is on agent_messages: Postgres then takes no UPDATE of it inside another
//! statement, so what is one statement elsewhere is several in one transaction.

use uuid::Uuid;

use super::batch::{Op, Range};
use super::done::{Done, Refusal};
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::error::StoreError;
use crate::store::pool::Pool;
use crate::store::sql::queries;
use postbell_engine::inbox::DeliveryId;

pub(super) async fn statements(pool: &Pool, op: Op, range: Range<'_>) -> Result<Done, StoreError> {
    let connection = pool.get().await?;
    connection.batch("begin").await?;
    let done = in_transaction(&connection, op, range).await;
    let ended = connection.end(done.is_ok()).await;
    // Why it was rolled back says more than that.
    let done = done?;
    ended?;
    Ok(done)
}

async fn in_transaction(connection: &Connection, op: Op, range: Range<'_>) -> Result<Done, StoreError> {
    let Range { ids, inbox, after, most } = range;
    let row = connection.query_one(queries::DEAD_FREE, &[&ids, &inbox, &after.0, &most]).await?;
    let (free, looked): (Vec<i64>, i64) = (row.cell("free")?, row.cell("looked")?);
    let kept: Vec<i64> = match op {
        Op::Redrive => {
            connection.execute(queries::DEAD_WAIT, &[&free]).await?;
            connection.query_one(queries::DEAD_READY, &[&free]).await?.cell("kept")?
        }
        Op::Purge => {
            let row = connection.query_one(queries::DEAD_DROP, &[&free]).await?;
            let messages: Vec<Uuid> = row.cell("messages")?;
            let reasons: Vec<Option<&str>> = row.cell("reasons")?;
            connection.execute(queries::DEAD_FAILED, &[&messages, &reasons]).await?;
            Vec::new()
        }
    };
    Ok(Done {
        count: (free.len() - kept.len()) as i64,
        looked,
        last: row.cell::<_, Option<_>>("last")?.map(DeliveryId),
        held: looked - free.len() as i64,
        untried: 0,
        refused: kept.into_iter().map(Refusal::kept_out).collect(),
    })
}
