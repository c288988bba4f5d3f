//! `postbell dev --demo`: two agents, and messages of mixed priority that plain SQL inserts.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{agent, output};
use crate::store::sql::queries;
use crate::store::{Connection, Pool, Target};
use postbell_client::{Builder, Client, Deliveries};

const AGENTS: [&str; 2] = ["demo-validator", "demo-reporter"];
/// Messages in the demonstration: half in an INSERT each, half in one INSERT.
const MESSAGES: usize = 12;
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two inserts, so that each message is seen to arrive by itself.
const BETWEEN: Duration = Duration::from_millis(120);

/// A message as an agent received it.
struct Seen {
    agent: &'static str,
    priority: u8,
    kind: String,
    payload: String,
    latency: Duration,
}

/// Runs the demonstration to its end.
pub(super) async fn run(pool: &Pool, target: &Target, url: &str, ca: Option<&Path>) -> anyhow::Result<()> {
    let (seen_tx, mut seen) = mpsc::channel(MESSAGES * AGENTS.len());
    let mut clients = Vec::new();
    for agent in AGENTS {
        let token = agent::token_of(pool, agent).await?;
        let mut builder = Builder::new(url, agent, token.reveal());
        if let Some(ca) = ca {
            builder = builder.ca_file(ca);
        }
        let (client, deliveries) = builder.connect().await?;
        tokio::spawn(be(agent, deliveries, seen_tx.clone()));
        clients.push(client);
    }
    drop(seen_tx);
    output::line(&format!(
        "Two agents are connected: {} and {}. Plain SQL inserts, they receive:\n",
        AGENTS[0], AGENTS[1]
    ));
    let sql = Connection::open(target).await?;
    let mut latencies = Vec::new();
    // One INSERT a message: each wakes the sleeping broker.
    for n in 0..MESSAGES / 2 {
        insert(&sql, n, 1).await?;
        latencies.push(show(&mut seen).await?);
        tokio::time::sleep(BETWEEN).await;
    }
    // Then several in one transaction: the urgent ones come first.
    let rest = MESSAGES - MESSAGES / 2;
    output::lines(&format!("\n{rest} at once, in one INSERT:"));
    insert(&sql, MESSAGES / 2, rest).await?;
    for _ in 0..rest {
        latencies.push(show(&mut seen).await?);
    }
    latencies.sort_unstable();
    output::lines(&format!(
        "\n{} messages from INSERT to agent: median {}, slowest {}",
        latencies.len(),
        milliseconds(latencies[latencies.len() / 2]),
        milliseconds(latencies[latencies.len() - 1])
    ));
    futures_util::future::join_all(clients.into_iter().map(Client::close)).await;
    Ok(())
}

async fn be(agent: &'static str, mut deliveries: Deliveries, seen: mpsc::Sender<Seen>) {
    while let Some(delivery) = deliveries.next().await {
        // Both clocks are this machine's, unless DATABASE_URL names a database elsewhere.
        let created = humantime::parse_rfc3339(delivery.created_at()).unwrap_or(SystemTime::now());
        let latency = created.elapsed().unwrap_or_default();
        let payload = delivery.payload().to_owned();
        let kind = delivery.message_type().to_owned();
        let priority = delivery.priority();
        delivery.ack().await;
        if seen.send(Seen { agent, priority, kind, payload, latency }).await.is_err() {
            return;
        }
    }
}

async fn insert(sql: &Connection, first: usize, count: usize) -> anyhow::Result<()> {
    sql.execute(queries::DEMO_INSERT, &[&(first as i32), &(count as i32), &AGENTS[0], &AGENTS[1]]).await?;
    Ok(())
}

async fn show(seen: &mut mpsc::Receiver<Seen>) -> anyhow::Result<Duration> {
    let seen = timeout(PATIENCE, seen.recv()).await.ok().flatten();
    let Seen { agent, priority, kind, payload, latency } =
        seen.context("a demo message did not arrive; `postbell doctor` looks for the cause")?;
    let text =
        format!("  {:>9}  {agent:<14} priority {priority:<2} {kind:<8} {payload}", milliseconds(latency));
    // Urgent red, middling yellow, the rest green.
    let colour = match priority {
        1..=3 => 31,
        4..=6 => 33,
        _ => 32,
    };
    match output::is_colourful(&std::io::stdout()) {
        true => output::coloured(colour, "", &text),
        false => output::line(&text),
    }
    Ok(latency)
}

fn milliseconds(latency: Duration) -> String {
    format!("{:.1} ms", latency.as_secs_f64() * 1_000.0)
}
