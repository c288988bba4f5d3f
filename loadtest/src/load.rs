//! The load: producers that insert by plain SQL, as any producer does.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio_postgres::Statement;

use crate::ledger::Ledger;
use crate::stage::{Database, Sql};

/// The size of a payload, unless a scenario asks for another: most messages between agents are as small.
pub(crate) const PAYLOAD_BYTES: usize = 100;

/// A payload with its number, about so many bytes long.
pub(crate) fn payload(n: usize, bytes: usize) -> String {
    let head = format!("{{\"n\": {n}, \"pad\": \"");
    let pad = bytes.saturating_sub(head.len() + 2);
    format!("{head}{:x<pad$}\"}}", "")
}

/// The table that a producer inserts into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// `agent_messages`, with the trigger.
    Messages,
    /// The same columns and indexes without any trigger: see [`make_bare_table`].
    Bare,
}

/// Makes the bare table: the floor of every insert.
///
/// # Errors
/// The server refuses.
pub(crate) async fn make_bare_table(sql: &Sql) -> anyhow::Result<()> {
    // The table is truncated, so nobody should pay for cleaning it.
    let make =
        "create table bare_messages (like agent_messages including all) with (autovacuum_enabled = off)";
    Ok(sql.batch_execute(make).await?)
}

/// A producer's connection with its prepared INSERT of one row.
pub(crate) struct Producer {
    sql: Sql,
    insert: Statement,
}

impl Producer {
    /// Connects.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn connect(database: &Database, table: Table) -> anyhow::Result<Self> {
        let sql = database.sql().await?;
        let table = match table {
            Table::Messages => "agent_messages",
            Table::Bare => "bare_messages",
        };
        let insert = sql
            .prepare(&format!(
                "insert into {table} (from_agent_id, to_agent_id, message_type, payload, priority) \
                 values ('loadtest', $1, 'data', ($2::text)::jsonb, $3)"
            ))
            .await?;
        Ok(Self { sql, insert })
    }

    /// Connects several producers.
    ///
    /// # Errors
    /// The server refuses one.
    pub(crate) async fn connect_many(
        database: &Database,
        table: Table,
        n: usize,
    ) -> anyhow::Result<Vec<Self>> {
        try_join_all((0..n).map(|_| Self::connect(database, table))).await
    }

    /// Inserts one message, in a transaction of its own.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn insert(&self, to: Option<&str>, payload: &str, priority: i32) -> anyhow::Result<()> {
        self.sql.execute(&self.insert, &[&to, &payload, &priority]).await?;
        Ok(())
    }
}

/// Something that sends one message at a time.
pub(crate) trait Produce {
    /// Sends message `n`, and waits until it is committed.
    async fn produce(&self, n: usize, to: &str) -> anyhow::Result<()>;
}

impl Produce for Producer {
    async fn produce(&self, n: usize, to: &str) -> anyhow::Result<()> {
        self.insert(Some(to), &payload(n, PAYLOAD_BYTES), 5).await
    }
}

/// Inserts the messages of these lines by one statement, each numbered, to the agents in turn.
///
/// # Errors
/// The server refuses.
pub(crate) async fn insert_many(
    sql: &Sql,
    to: &[String],
    lines: Range<usize>,
    payload_bytes: usize,
) -> anyhow::Result<()> {
    let insert = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) \
                  select 'loadtest', ($1::text[])[1 + n % cardinality($1::text[])], 'data', \
                         jsonb_build_object('n', n, 'pad', repeat('x', greatest($4 - 21 - length(n::text), 0))) \
                  from generate_series($2::int, $3::int) n";
    let (first, last) = (lines.start as i32, lines.end as i32 - 1);
    sql.execute(insert, &[&to, &first, &last, &(payload_bytes as i32)]).await?;
    Ok(())
}

/// Fills an inbox with the messages of these lines, in statements of ten thousand.
///
/// # Errors
/// The server refuses.
pub(crate) async fn fill(sql: &Sql, to: &str, lines: Range<usize>, ledger: &Ledger) -> anyhow::Result<()> {
    fill_with(sql, to, lines, PAYLOAD_BYTES, ledger).await
}

/// Like [`fill`], with payloads of another size.
///
/// # Errors
/// The server refuses.
pub(crate) async fn fill_with(
    sql: &Sql,
    to: &str,
    lines: Range<usize>,
    payload_bytes: usize,
    ledger: &Ledger,
) -> anyhow::Result<()> {
    const AT_ONCE: usize = 10_000;
    let to = [to.to_owned()];
    let mut first = lines.start;
    while first < lines.end {
        let chunk = first..(first + AT_ONCE).min(lines.end);
        let now = Instant::now();
        insert_many(sql, &to, chunk.clone(), payload_bytes).await?;
        ledger.commit_all(chunk.clone(), now);
        first = chunk.end;
    }
    Ok(())
}

/// Numbers for messages, handed out once each, up to a bound.
#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    next: Arc<AtomicUsize>,
    end: usize,
}

impl Numbers {
    pub(crate) fn up_to(end: usize) -> Self {
        Self { next: Arc::default(), end }
    }

    /// The next number; `None` once the ledger is full, which ends the load early.
    pub(crate) fn take(&self) -> Option<usize> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        (n < self.end).then_some(n)
    }

    /// How many were handed out.
    pub(crate) fn taken(&self) -> usize {
        self.next.load(Ordering::Relaxed).min(self.end)
    }
}

/// Every producer inserts as fast as it can, one row a transaction, for so long. Returns the rate a second.
///
/// # Errors
/// The server refuses.
pub(crate) async fn insert_at_full_speed<P: Produce>(
    producers: &[P],
    to: &[String],
    lasting: Duration,
    numbers: &Numbers,
    ledger: Option<&Ledger>,
) -> anyhow::Result<f64> {
    let began = Instant::now();
    let over = AtomicBool::new(false);
    let inserted = AtomicUsize::new(0);
    let work = producers.iter().map(|producer| async {
        while !over.load(Ordering::Relaxed) {
            let Some(n) = numbers.take() else { break };
            let now = Instant::now();
            if let Some(ledger) = ledger {
                ledger.intend(n, now);
            }
            producer.produce(n, &to[n % to.len()]).await?;
            if let Some(ledger) = ledger {
                ledger.commit(n);
            }
            inserted.fetch_add(1, Ordering::Relaxed);
            if began.elapsed() >= lasting {
                over.store(true, Ordering::Relaxed);
            }
        }
        anyhow::Ok(())
    });
    try_join_all(work).await?;
    Ok(inserted.into_inner() as f64 / began.elapsed().as_secs_f64())
}

/// The producers together insert `rate` rows a second for so long. A producer inserts each row at its intended
/// moment, or, if it is late, as soon as it can; the latency counts from the intended moment all the same. Returns
/// the numbers used.
///
/// # Errors
/// The server refuses.
pub(crate) async fn insert_at_rate<P: Produce>(
    producers: &[P],
    to: &[String],
    rate: f64,
    lasting: Duration,
    numbers: &Numbers,
    ledger: &Ledger,
) -> anyhow::Result<Range<usize>> {
    let before = numbers.taken();
    let every = Duration::from_secs_f64(producers.len() as f64 / rate);
    let rounds = (lasting.as_secs_f64() / every.as_secs_f64()).ceil() as u32;
    let began = Instant::now() + Duration::from_millis(5);
    let work = producers.iter().enumerate().map(|(i, producer)| async move {
        // The producers take turns at even distances.
        let first = began + every.mul_f64(i as f64 / producers.len() as f64);
        for round in 0..rounds {
            let intended = first + every * round;
            tokio::time::sleep_until(intended.into()).await;
            let Some(n) = numbers.take() else { break };
            ledger.intend(n, intended);
            producer.produce(n, &to[n % to.len()]).await?;
            ledger.commit(n);
        }
        anyhow::Ok(())
    });
    try_join_all(work).await?;
    Ok(before..numbers.taken())
}

/// Tells the intended moments one by one, from a thread of its own: the runtime's timer is good to a millisecond
/// only, and some latencies are no longer than that.
pub(crate) fn moments(count: usize, every: Duration) -> mpsc::Receiver<Instant> {
    let (tell, told) = mpsc::channel(count.max(1));
    std::thread::spawn(move || {
        let began = Instant::now() + every;
        for n in 0..count {
            let at = began + every * n as u32;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            if tell.blocking_send(at).is_err() {
                return;
            }
        }
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_its_number_and_its_size() {
        for bytes in [60, 100, 1_000] {
            let text = payload(12_345, bytes);
            assert_eq!(text.len(), bytes);
            assert_eq!(crate::ledger::number(&text), Some(12_345));
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }

    #[test]
    fn numbers_are_handed_out_once_up_to_their_bound() {
        let numbers = Numbers::up_to(2);
        assert_eq!([numbers.take(), numbers.take(), numbers.take()], [Some(0), Some(1), None]);
        assert_eq!(numbers.taken(), 2);
    }
}
