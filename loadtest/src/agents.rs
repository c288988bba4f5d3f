//! The agents: the public client, which takes each delivery, notes when, and acknowledges it by itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::stream::{StreamExt, TryStreamExt, iter};
use postbell_client::{Builder, Client, Deliveries};
use tokio::task::JoinHandle;

use crate::broker::Broker;
use crate::ledger::{Ledger, number};
use crate::stage::Sql;

/// Every agent's token. The brokers of a load test listen on loopback, for minutes, on databases that are dropped.
pub(crate) const TOKEN: &str = "pb_loadtest";
/// Connections that are opened side by side: the broker's pool authenticates them.
const CONNECT_AT_ONCE: usize = 64;
/// The window of an agent, unless a scenario asks for another.
pub(crate) const WINDOW: u32 = 100;

/// Registers agents `name-0`, `name-1`, … by plain SQL; gives their names.
///
/// # Errors
/// The server refuses.
pub(crate) async fn register(sql: &Sql, name: &str, count: usize) -> anyhow::Result<Vec<String>> {
    let insert = "insert into agent_registry (agent_id, agent_name, agent_type, environment, status, token_hash) \
                  select $1::text || '-' || i, $1::text || '-' || i, 'loadtest', 'loadtest', 'offline', \
                         sha256(convert_to($3::text, 'UTF8')) \
                  from generate_series(0, $2::int - 1) i";
    sql.execute(insert, &[&name, &(count as i32), &TOKEN]).await?;
    sql.batch_execute("analyze agent_registry").await?;
    Ok((0..count).map(|i| format!("{name}-{i}")).collect())
}

/// Connects as an agent, without taking its deliveries yet.
///
/// # Errors
/// The broker refuses.
pub(crate) async fn connect(
    broker: &Broker,
    name: &str,
    window: u32,
) -> anyhow::Result<(Client, Deliveries)> {
    let builder = Builder::new(&broker.url, name, TOKEN).window(window);
    builder.connect().await.with_context(|| format!("agent {name} cannot connect"))
}

/// An agent at work.
pub(crate) struct Agent {
    client: Client,
    task: JoinHandle<()>,
}

impl Agent {
    /// Connects and begins. Message `n` is line `n * lines_each + line` of the ledger: with several recipients a
    /// message has a line for each.
    ///
    /// # Errors
    /// The broker refuses.
    pub(crate) async fn start(
        broker: &Broker,
        name: &str,
        window: u32,
        ledger: &Arc<Ledger>,
        (lines_each, line): (usize, usize),
    ) -> anyhow::Result<Self> {
        let (client, mut deliveries) = connect(broker, name, window).await?;
        let ledger = ledger.clone();
        let task = tokio::spawn(async move {
            while let Some(delivery) = deliveries.next().await {
                let at = Instant::now();
                // A payload without a number is not ours. The impossible line spoils the count, so that this shows.
                let n = number(delivery.payload()).map_or(usize::MAX, |n| n * lines_each + line);
                ledger.receive(n, at);
                delivery.ack().await;
            }
        });
        Ok(Self { client, task })
    }

    /// Starts many agents, for messages with one recipient each.
    ///
    /// # Errors
    /// The broker refuses one.
    pub(crate) async fn start_all(
        broker: &Broker,
        names: &[String],
        window: u32,
        ledger: &Arc<Ledger>,
    ) -> anyhow::Result<Vec<Self>> {
        Self::start_each(broker, names, window, ledger, |_| (1, 0)).await
    }

    /// Starts many agents, for broadcasts: the ledger has a line for each message and agent.
    ///
    /// # Errors
    /// The broker refuses one.
    pub(crate) async fn start_audience(
        broker: &Broker,
        names: &[String],
        window: u32,
        ledger: &Arc<Ledger>,
    ) -> anyhow::Result<Vec<Self>> {
        Self::start_each(broker, names, window, ledger, |i| (names.len(), i)).await
    }

    /// `lines` gives the last argument of [`start`](Self::start) for the agent at a position.
    async fn start_each(
        broker: &Broker,
        names: &[String],
        window: u32,
        ledger: &Arc<Ledger>,
        lines: impl Fn(usize) -> (usize, usize),
    ) -> anyhow::Result<Vec<Self>> {
        let starts =
            names.iter().enumerate().map(|(i, name)| Self::start(broker, name, window, ledger, lines(i)));
        iter(starts).buffer_unordered(CONNECT_AT_ONCE).try_collect().await
    }

    /// Writes the last acks and leaves.
    pub(crate) async fn stop(self) {
        self.client.close().await;
        // The task ends with the client. A panic in it would have lost receipts, which the ledger would show.
        let _ = self.task.await;
    }
}

/// All these agents leave.
pub(crate) async fn stop_all(agents: Vec<Agent>) {
    iter(agents).for_each_concurrent(CONNECT_AT_ONCE, Agent::stop).await;
}

/// Waits until every delivery of these inboxes is settled in the table: acknowledged and committed.
///
/// # Errors
/// The server refuses, or a delivery is still not settled after half a minute.
pub(crate) async fn wait_until_settled(sql: &Sql, inbox_like: &str) -> anyhow::Result<()> {
    let since = Instant::now();
    let asked = sql
        .prepare("select exists (select from postbell.deliveries where inbox like $1 and state = 'ready')")
        .await?;
    while sql.query_one(&asked, &[&inbox_like]).await?.get::<_, bool>(0) {
        anyhow::ensure!(
            since.elapsed() < Duration::from_secs(30),
            "deliveries of {inbox_like} are not settled"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
