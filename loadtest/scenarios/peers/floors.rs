//! The floors, which take turns with the contestants: each is what no queue on this Postgres can be faster than.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::contestants::BARE_TABLE;
use super::opened::{PAYLOAD_BYTES, PeerProducer, tidy};
use super::turn::{PeerSizes, WRITERS};
use crate::agents::register;
use crate::bench::Bench;
use crate::ledger::Ledger;
use crate::load::{Numbers, fill_with, insert_at_full_speed, make_bare_table, moments, payload};
use crate::scenarios::drain::{by_sql, floor_connection};
use crate::scenarios::idle_latency::{FLOOR, FLOOR_INSERT, listen, wait_until_it_listens};
use crate::stage::Sql;

const EVERY: Duration = Duration::from_millis(20);

/// The floors of one round.
pub(super) struct FloorTurn {
    /// Latencies of a bare NOTIFY and SELECT.
    pub(super) idle: Vec<Duration>,
    /// Rows a second into a table without a trigger.
    pub(super) written: f64,
    /// Messages a second that one connection reads and settles in batches.
    pub(super) drained: f64,
}

/// The floors, in the scenario's own database.
pub(super) struct Floors<'a> {
    bench: &'a Bench<'a>,
    sql: Sql,
    producers: Vec<PeerProducer>,
    inboxes: Vec<String>,
    heard: Arc<Ledger>,
    listening: JoinHandle<anyhow::Result<()>>,
    sizes: PeerSizes,
}

impl<'a> Floors<'a> {
    /// Makes the tables, and connects.
    ///
    /// # Errors
    /// The server refuses.
    pub(super) async fn open(bench: &'a Bench<'a>, rounds: usize, sizes: PeerSizes) -> anyhow::Result<Self> {
        let sql = bench.database.sql().await?;
        sql.batch_execute(FLOOR).await?;
        make_bare_table(&sql).await?;
        let inboxes = register(&sql, "floor", rounds).await?;
        let mut producers = Vec::new();
        for _ in 0..WRITERS {
            producers.push(PeerProducer::sql(bench.database, &BARE_TABLE, &Value::Null).await?);
        }
        let heard = Arc::new(Ledger::new(rounds * sizes.idle));
        let listening = tokio::spawn(listen(bench.database.url().to_owned(), heard.clone()));
        wait_until_it_listens(&sql).await?;
        Ok(Self { bench, sql, producers, inboxes, heard, listening, sizes })
    }

    /// The floors' turn in a round.
    ///
    /// # Errors
    /// The server refuses, or a notification was lost.
    pub(super) async fn take(&self, round: usize) -> anyhow::Result<FloorTurn> {
        let (sizes, to) = (self.sizes, [String::new()]);
        self.bench.progress.set_message("the floors");
        let idle = self.idle(round).await?;
        let no_end = Numbers::up_to(usize::MAX);
        insert_at_full_speed(&self.producers, &to, sizes.warm, &no_end, None).await?;
        let written = insert_at_full_speed(&self.producers, &to, sizes.lasting, &no_end, None).await?;
        self.sql.batch_execute("truncate bare_messages").await?;

        let inbox = &self.inboxes[round];
        let unseen = Ledger::new(sizes.backlog);
        fill_with(&self.sql, inbox, 0..sizes.backlog, PAYLOAD_BYTES, &unseen).await?;
        tidy(&self.sql).await?;
        let seconds = by_sql(&floor_connection(self.bench).await?, inbox).await?;
        Ok(FloorTurn { idle, written, drained: sizes.backlog as f64 / seconds })
    }

    async fn idle(&self, round: usize) -> anyhow::Result<Vec<Duration>> {
        let messages = self.sizes.idle;
        let lines = round * messages..(round + 1) * messages;
        let raw = self.sql.prepare(FLOOR_INSERT).await?;
        let mut told = moments(messages, EVERY);
        for n in lines.clone() {
            let at = told.recv().await.context("the clock stopped")?;
            self.heard.intend(n, at);
            self.sql.execute(&raw, &[&payload(n, PAYLOAD_BYTES)]).await?;
            self.heard.commit(n);
        }
        self.heard.wait_for(lines.end).await;
        ensure!(self.heard.received() == lines.end, "the floor's client missed notifications");
        Ok(lines.filter_map(|n| self.heard.latency(n)).collect())
    }

    /// Ends the client that listens.
    pub(super) fn close(self) {
        self.listening.abort();
    }
}
