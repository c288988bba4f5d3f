//! The state of every message in the tables at the end.

use anyhow::{bail, ensure};

use crate::checker::{Delivery, Found, Status};
use crate::inject::POISONER;
use crate::ledger::Ledger;
use crate::postgres::{Sql, inbox_name};

/// Topics of messages that the mesh itself sends: an agent was away for so long that an alert was raised, and passed on. The ledger
/// does not know them.
const ALERTS: &str = "alerts.%";
/// At most so many rows are read at once.
const PAGE_ROWS: i64 = 20_000;

/// Reads the tables. The result has an element for each line of the ledger.
///
/// # Errors
/// The server refuses, or has a message that nobody sent.
pub async fn read(sql: &Sql, ledger: &Ledger) -> anyhow::Result<Vec<Found>> {
    let mut found = vec![Found::default(); ledger.lines.len()];
    messages(sql, ledger, &mut found).await?;
    deliveries(sql, ledger, &mut found).await?;
    Ok(found)
}

async fn messages(sql: &Sql, ledger: &Ledger, found: &mut [Found]) -> anyhow::Result<()> {
    let page = "select message_id::text, (payload ->> 'n')::bigint, status, error_message is not null \
                from agent_messages where message_id > $1::text::uuid and from_agent_id <> $3 \
                  and coalesce(topic, '') not like $4 order by message_id limit $2";
    let page = sql.prepare(page).await?;
    let mut last = "00000000-0000-0000-0000-000000000000".to_owned();
    loop {
        let rows = sql.query(&page, &[&last, &PAGE_ROWS, &POISONER, &ALERTS]).await?;
        let Some(row) = rows.last() else { return Ok(()) };
        last = row.get(0);
        for row in &rows {
            let n: Option<i64> = row.get(1);
            let Some(n) = n else {
                bail!("the table has message {}, which nobody sent", row.get::<_, &str>(0))
            };
            ensure!((n as usize) < ledger.lines.len(), "the table has message {n}, which nobody sent");
            let status = match row.get::<_, &str>(2) {
                "processed" => Status::Processed,
                "failed" => Status::Failed,
                _ => Status::Pending,
            };
            for line in lines_of(ledger, n as usize) {
                let found = &mut found[line];
                found.rows = found.rows.saturating_add(1);
                found.status = status;
                found.has_reason |= row.get::<_, bool>(3);
            }
        }
    }
}

async fn deliveries(sql: &Sql, ledger: &Ledger, found: &mut [Found]) -> anyhow::Result<()> {
    let all = "select (m.payload ->> 'n')::bigint, d.inbox, d.state = 'dead', d.last_error is not null \
               from postbell.deliveries d join agent_messages m using (message_id) where m.from_agent_id <> $1 \
                 and coalesce(m.topic, '') not like $2 and m.payload ? 'n'";
    for row in sql.query(all, &[&POISONER, &ALERTS]).await? {
        let (n, inbox): (i64, &str) = (row.get(0), row.get(1));
        let line = lines_of(ledger, n as usize)
            .find(|line| !ledger.lines[*line].broadcast || inbox_name(ledger.lines[*line].inbox) == inbox);
        ensure!(line.is_some(), "message {n} has a delivery to {inbox}, which nobody asked for");
        if let Some(line) = line {
            let dead: bool = row.get(2);
            found[line].delivery = Some(if dead { Delivery::Dead } else { Delivery::Waiting });
            found[line].has_reason |= row.get::<_, bool>(3);
        }
    }
    Ok(())
}

/// The lines of a message: one a recipient.
fn lines_of(ledger: &Ledger, n: usize) -> impl Iterator<Item = usize> {
    let first = ledger.lines.get(n).map_or(u32::MAX, |line| line.first);
    (n..ledger.lines.len()).take_while(move |line| ledger.lines[*line].first == first)
}
