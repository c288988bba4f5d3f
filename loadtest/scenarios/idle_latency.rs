//! `idle-latency`: one message at a time, each to a broker that sleeps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::poll_fn;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls};

use super::Spec;
use crate::agents::{Agent, WINDOW, register};
use crate::bench::{Bench, Found};
use crate::latency::distribution;
use crate::ledger::Ledger;
use crate::load::{PAYLOAD_BYTES, Producer, Table, moments, payload};
use crate::report::{Better, Latency};
use crate::stage::Sql;

const EVERY: Duration = Duration::from_millis(20);
/// The broker and the floor take turns, so that both see the same machine.
const TURN: usize = 50;

pub(crate) const SPEC: Spec = Spec {
    name: "idle-latency",
    about: "How long one message takes from INSERT to agent on an idle mesh, beside the bare LISTEN/NOTIFY round trip.",
    method: "One INSERT each 20 ms. Blocks of 50 go to an agent through the broker, the blocks between them to the \
             floor: a table of the same columns whose trigger sends NOTIFY with the row's id, and a minimal client \
             that LISTENs, and SELECTs the row by its id when it is woken. Both latencies run from the intended moment \
             of the INSERT to the payload in the receiver's hands.",
    run: |bench| Box::pin(run(bench)),
};

pub(super) const FLOOR: &str = "
    create table notify_messages (like agent_messages including all);
    create function notify_messages() returns trigger language plpgsql as $$
    begin
      perform pg_notify('loadtest_floor', new.message_id::text);
      return null;
    end $$;
    create trigger notify after insert on notify_messages for each row execute function notify_messages();";

pub(super) const FLOOR_INSERT: &str = "insert into notify_messages (from_agent_id, to_agent_id, message_type, payload, priority) \
     values ('loadtest', 'floor', 'data', ($1::text)::jsonb, 5)";

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    sql.batch_execute(FLOOR).await?;
    let names = register(&sql, "agent", 1).await?;
    let turns = bench.size(40, 2);
    let messages = turns * TURN;
    let (ledger, floor) = (Arc::new(Ledger::new(messages)), Arc::new(Ledger::new(messages)));
    let broker = bench.stage.broker(bench.database).await?;
    let agent = Agent::start(&broker, &names[0], WINDOW, &ledger, (1, 0)).await?;
    let listening = tokio::spawn(listen(bench.database.url().to_owned(), floor.clone()));
    let producer = Producer::connect(bench.database, Table::Messages).await?;
    let raw = sql.prepare(FLOOR_INSERT).await?;
    wait_until_it_listens(&sql).await?;

    for turn in 0..turns {
        bench.step("one message each 20 ms", turn, turns);
        let mut told = moments(TURN, EVERY);
        for n in turn * TURN..(turn + 1) * TURN {
            let at = told.recv().await.context("the clock stopped")?;
            ledger.intend(n, at);
            producer.insert(Some(&names[0]), &payload(n, PAYLOAD_BYTES), 5).await?;
            ledger.commit(n);
        }
        let mut told = moments(TURN, EVERY);
        for n in turn * TURN..(turn + 1) * TURN {
            let at = told.recv().await.context("the clock stopped")?;
            floor.intend(n, at);
            sql.execute(&raw, &[&payload(n, PAYLOAD_BYTES)]).await?;
            floor.commit(n);
        }
    }
    ledger.wait_for(messages).await;
    floor.wait_for(messages).await;
    listening.abort();
    anyhow::ensure!(
        floor.count()?.lost == 0,
        "the floor's client missed notifications: its figures mean nothing"
    );
    agent.stop().await;
    broker.stop().await?;

    let all = |ledger: &Ledger| (0..messages).filter_map(|n| ledger.latency(n)).collect::<Vec<_>>();
    let raw = found.latency(distribution("raw NOTIFY", all(&floor).into_iter())?);
    let ours = found.latency(distribution("broker", all(&ledger).into_iter())?);
    judge(&mut found, &raw, &ours);
    for (label, ledger) in [("broker p50", &ledger), ("raw NOTIFY p50", &floor)] {
        found.measure(label, "ms", Better::Lower, medians(ledger, turns)?);
    }
    found.count(ledger.count()?);
    Ok(found)
}

fn judge(found: &mut Found, raw: &Latency, ours: &Latency) {
    found.at_most("idle-latency: p50 ≤ raw NOTIFY p50 + 0.3 ms", ours.at(50.0), raw.at(50.0) + 0.3, "ms");
    found.at_most("idle-latency: p99 ≤ 2 × raw NOTIFY p99", ours.at(99.0), raw.at(99.0) * 2.0, "ms");
}

/// The median of each turn, which shows the noise.
fn medians(ledger: &Ledger, turns: usize) -> anyhow::Result<Vec<f64>> {
    let turn = |t: usize| (t * TURN..(t + 1) * TURN).filter_map(|n| ledger.latency(n));
    (0..turns).map(|t| Ok(distribution("turn", turn(t))?.at(50.0))).collect()
}

/// The minimal client: woken by the notification, reads the row.
pub(super) async fn listen(url: String, ledger: Arc<Ledger>) -> anyhow::Result<()> {
    let (client, mut connection) = tokio_postgres::connect(&url, NoTls).await?;
    let (woken, mut wakings) = mpsc::channel(1_024);
    let driver = tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = woken.send(notification.payload().to_owned()).await;
            }
        }
    });
    let select = client
        .prepare("select payload::text from notify_messages where message_id = ($1::text)::uuid")
        .await?;
    client.batch_execute("listen loadtest_floor").await?;
    while let Some(id) = wakings.recv().await {
        let row = client.query_one(&select, &[&id]).await?;
        let n = crate::ledger::number(row.get(0)).context("a row of the floor without its number")?;
        ledger.receive(n, Instant::now());
    }
    driver.abort();
    Ok(())
}

/// Waits until the client listens: the first notification must not come before that.
pub(super) async fn wait_until_it_listens(sql: &Sql) -> anyhow::Result<()> {
    let asked = "select exists (select from pg_stat_activity where query = 'listen loadtest_floor' and state = 'idle')";
    for _ in 0..1_000 {
        if sql.query_one(asked, &[]).await?.get(0) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("the floor's client does not listen")
}
