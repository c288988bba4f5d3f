//! Producers by plain SQL: single inserts, transactions that stay open for a while, and some that roll back.

use std::time::Duration;

use rand::RngExt;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Statement};

use super::{Draft, Source};
use crate::ledger::Fate;
use crate::postgres::{Sql, connect, inbox_name};

/// A statement that takes longer is given up, with its connection.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
const CONNECT_AGAIN: Duration = Duration::from_millis(100);
/// Rows of a longer transaction, and how long it stays open at most.
const ROWS_MAX: usize = 5;
const OPEN_MS_MAX: u64 = 400;

const INSERT: &str = "insert into agent_messages \
    (from_agent_id, to_agent_id, message_type, payload, priority, deliver_at, expires_at) \
    values ('producer', $1, 'data', ($2::text)::jsonb, $3, \
            now() + $4::bigint * interval '1 ms', now() + $5::bigint * interval '1 ms')";

/// How a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    Single,
    Commit,
    Rollback,
}

/// A connection with its statement.
struct Producer {
    sql: Sql,
    insert: Statement,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Producer {
    /// A hanging connection would otherwise live on.
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Inserts the source's messages until the load is over.
pub(super) async fn produce(url: String, mut source: Source) {
    let mut producer = None;
    while source.due().await {
        if producer.is_none() {
            producer = timeout(ANSWER_WAIT, open(&url)).await.ok().and_then(Result::ok);
        }
        let Some(connected) = &producer else {
            sleep(CONNECT_AGAIN).await;
            continue;
        };
        let ending = match source.dice.random_range(0..100) {
            0..4 => Ending::Commit,
            4..6 => Ending::Rollback,
            _ => Ending::Single,
        };
        let rows = if ending == Ending::Single { 1 } else { source.dice.random_range(1..=ROWS_MAX) };
        let open_for = Duration::from_millis(source.dice.random_range(0..OPEN_MS_MAX));
        let drafts: Vec<Draft> = (0..rows).map(|_| source.draft(None)).collect();
        let (fate, usable) = match ending {
            Ending::Single => connected.single(&drafts[0]).await,
            _ => connected.transaction(&drafts, ending, open_for).await,
        };
        drafts.iter().for_each(|draft| source.close(draft, fate));
        if !usable {
            producer = None;
        }
    }
}

async fn open(url: &str) -> Result<Producer, Error> {
    let (sql, driver) = connect(url).await?;
    let insert = sql.prepare(INSERT).await?;
    Ok(Producer { sql, insert, driver })
}

impl Producer {
    /// Inserts one message. Returns its fate, and whether the connection can be used again.
    async fn single(&self, draft: &Draft) -> (Fate, bool) {
        match timeout(ANSWER_WAIT, self.insert(draft)).await {
            Ok(Ok(())) => (Fate::Committed, true),
            Ok(Err(e)) => (fate_of(&e), !self.sql.is_closed()),
            Err(_) => (Fate::Unknown, false),
        }
    }

    async fn transaction(&self, drafts: &[Draft], ending: Ending, open_for: Duration) -> (Fate, bool) {
        let insert_all = async {
            self.sql.batch_execute("begin").await?;
            for draft in drafts {
                self.insert(draft).await?;
            }
            Ok::<_, Error>(())
        };
        // Before COMMIT is asked for, nothing can be there.
        if !matches!(timeout(ANSWER_WAIT, insert_all).await, Ok(Ok(()))) {
            return (Fate::Never, false);
        }
        sleep(open_for).await;
        if ending == Ending::Rollback {
            let rolled_back = timeout(ANSWER_WAIT, self.sql.batch_execute("rollback")).await;
            return (Fate::Never, matches!(rolled_back, Ok(Ok(()))));
        }
        match timeout(ANSWER_WAIT, self.sql.batch_execute("commit")).await {
            Ok(Ok(())) => (Fate::Committed, true),
            Ok(Err(_)) | Err(_) => (Fate::Unknown, false),
        }
    }

    async fn insert(&self, draft: &Draft) -> Result<(), Error> {
        let payload = serde_json::to_string(&draft.task).unwrap_or_default();
        let to = draft.to.map(inbox_name);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&to, &payload, &draft.priority, &draft.delay_ms, &draft.ttl_ms];
        self.sql.execute(&self.insert, &params).await.map(|_| ())
    }
}

/// The fate of a single statement that failed. An error is certain only if it refuses the statement itself; a server
/// that ends the connection may have committed before.
fn fate_of(error: &Error) -> Fate {
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL || code.code().starts_with("23") => Fate::Never,
        _ => Fate::Unknown,
    }
}
