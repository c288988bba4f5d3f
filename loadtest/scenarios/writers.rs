//! `writers`: the trigger's cost to those who insert.

use std::sync::Arc;
use std::time::Duration;

use super::Spec;
use crate::agents::{Agent, WINDOW, register};
use crate::bench::{Bench, Found, line, linear, median};
use crate::ledger::Ledger;
use crate::load::{Numbers, Producer, Table, insert_at_full_speed, insert_at_rate, make_bare_table};
use crate::report::Better;
use crate::stage::Sql;

const WRITERS: &[usize] = &[1, 8, 16, 32, 64];
/// Messages a second to a connected agent; they keep the broker awake while the others only insert.
const TRICKLE: f64 = 250.0;
const WARM: Duration = Duration::from_millis(300);

pub(crate) const SPEC: Spec = Spec {
    name: "writers",
    about: "The cost of the trigger to producers: single-row inserts of 1 to 64 writers, beside the bare table and beside \
            a NOTIFY in every transaction.",
    method: "Each writer inserts one row a transaction as fast as it can, in turn into a bare table of the same \
             columns and indexes, into agent_messages while the broker is awake, and into agent_messages while the \
             trigger rings in every transaction (a second broker's row says that it is armed, and nobody disarms it). \
             The rows are for agents that are away, so that only the producers' cost is measured; a trickle to an \
             agent that is there keeps the broker awake. The rates are medians of the rounds; the ratios are taken \
             within each round.",
    run: |bench| Box::pin(run(bench)),
};

/// A broker that sleeps and is never woken: its row, so that the others count it, and the flag that the trigger reads.
const ARM_FOR_EVER: &str = "
    insert into postbell.brokers (broker_id, name, address, version, lease_until, armed)
    values ('00000000-0000-0000-0000-000000000001', 'loadtest', '', '', now() + interval '1 hour', true);
    select setval('postbell.bell', extract(epoch from now())::bigint + 3600)";
const DISARM: &str = "
    delete from postbell.brokers where broker_id = '00000000-0000-0000-0000-000000000001';
    select setval('postbell.bell', 0)";

#[derive(Clone, Copy)]
enum Way {
    Bare,
    Trigger,
    Notify,
}

const WAYS: [(Way, &str); 3] =
    [(Way::Bare, "bare table"), (Way::Trigger, "with trigger"), (Way::Notify, "NOTIFY in each transaction")];

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    make_bare_table(&sql).await?;
    let here = register(&sql, "here", 1).await?;
    let away = register(&sql, "away", 10).await?;
    let broker = bench.stage.broker(bench.database).await?;
    let counts: &[usize] = if bench.quick { &[1, 16] } else { WRITERS };
    let (rounds, lasting) = (bench.size(3, 1), bench.lasting(2_500, 300));

    let whole = lasting * (counts.len() * rounds * WAYS.len()) as u32 * 2 + Duration::from_secs(120);
    let ledger = Arc::new(Ledger::new((whole.as_secs_f64() * TRICKLE) as usize));
    let agent = Agent::start(&broker, &here[0], WINDOW, &ledger, (1, 0)).await?;
    let trickle = Trickle::start(bench, here, ledger.clone(), whole).await?;

    let mut lines: [Vec<(f64, f64)>; 3] = Default::default();
    for (i, &writers) in counts.iter().enumerate() {
        let producers = Producers::connect(bench, writers, &away).await?;
        let mut rates: [Vec<f64>; 3] = Default::default();
        for round in 0..rounds {
            for (way, (kind, name)) in WAYS.into_iter().enumerate() {
                let done = (i * rounds + round) * WAYS.len() + way;
                bench.step(&format!("{writers} writers, {name}"), done, counts.len() * rounds * WAYS.len());
                rates[way].push(one(&sql, kind, &producers, &away, lasting).await?);
            }
        }
        for (way, (_, name)) in WAYS.into_iter().enumerate() {
            lines[way].push((writers as f64, median(&rates[way])));
            found.measure(&format!("{writers} writers, {name}"), "row/s", Better::Higher, rates[way].clone());
        }
        judge(&mut found, bench.slow_flush_ms, writers, &rates);
    }
    trickle.stop().await?;
    ledger.wait_for(ledger.committed()).await;
    found.count(ledger.count()?);
    agent.stop().await;
    broker.stop().await?;
    let lines = lines.into_iter().zip(WAYS).map(|(points, (_, name))| line(name, points)).collect();
    found.plot("Rows inserted a second", linear("writers"), linear("rows a second"), lines);
    Ok(found)
}

fn judge(found: &mut Found, slow_flush_ms: f64, writers: usize, rates: &[Vec<f64>; 3]) {
    let ratios =
        |of: usize, to: usize| rates[of].iter().zip(&rates[to]).map(|(a, b)| a / b).collect::<Vec<_>>();
    let [bare, trigger, notify] = [0, 1, 2];
    let kept = found.measure(
        &format!("{writers} writers, trigger / bare"),
        "",
        Better::Higher,
        ratios(trigger, bare),
    );
    let gained = found.measure(
        &format!("{writers} writers, trigger / NOTIFY"),
        "",
        Better::Higher,
        ratios(trigger, notify),
    );
    let (kept_min, gained_min) = if slow_flush_ms > 0.0 { (0.9, 10.0) } else { (0.65, 3.0) };
    let asked = if slow_flush_ms > 0.0 { writers == 32 } else { writers == 16 || writers == 32 };
    if asked {
        found.at_least(
            &format!("writers: {writers} with trigger ≥ {kept_min} of the bare table"),
            kept,
            kept_min,
            "",
        );
    }
    if writers == 32 {
        found.at_least(
            &format!("writers: {writers} with trigger ≥ {gained_min} × NOTIFY in each transaction"),
            gained,
            gained_min,
            "",
        );
    }
}

/// The producers, connected once and warm: a new connection's first planning and compiling is no cost of a row.
struct Producers {
    bare: Vec<Producer>,
    messages: Vec<Producer>,
}

impl Producers {
    async fn connect(bench: &Bench<'_>, writers: usize, away: &[String]) -> anyhow::Result<Self> {
        let bare = Producer::connect_many(bench.database, Table::Bare, writers).await?;
        let messages = Producer::connect_many(bench.database, Table::Messages, writers).await?;
        for producers in [&bare, &messages] {
            insert_at_full_speed(producers, away, WARM, &Numbers::up_to(usize::MAX), None).await?;
        }
        Ok(Self { bare, messages })
    }
}

async fn one(
    sql: &Sql,
    way: Way,
    producers: &Producers,
    away: &[String],
    lasting: Duration,
) -> anyhow::Result<f64> {
    let producers = if matches!(way, Way::Bare) { &producers.bare } else { &producers.messages };
    let armed = matches!(way, Way::Notify);
    if armed {
        sql.batch_execute(ARM_FOR_EVER).await?;
    }
    let rate = insert_at_full_speed(producers, away, lasting, &Numbers::up_to(usize::MAX), None).await?;
    if armed {
        sql.batch_execute(DISARM).await?;
    }
    // The next round must not pay for rows that this one left behind.
    sql.batch_execute("truncate bare_messages; delete from agent_messages where to_agent_id like 'away-%'")
        .await?;
    sql.batch_execute("vacuum agent_messages, postbell.deliveries").await?;
    sql.batch_execute("checkpoint").await?;
    Ok(rate)
}

/// The messages that keep the broker awake.
struct Trickle {
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
    over: tokio::sync::oneshot::Sender<()>,
}

impl Trickle {
    async fn start(
        bench: &Bench<'_>,
        to: Vec<String>,
        ledger: Arc<Ledger>,
        lasting: Duration,
    ) -> anyhow::Result<Self> {
        let producers = Producer::connect_many(bench.database, Table::Messages, 2).await?;
        let (over, ended) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let numbers = Numbers::up_to((lasting.as_secs_f64() * TRICKLE) as usize);
            // In small pieces, so that it ends between two inserts and every one of them is counted.
            let piece = Duration::from_millis(100);
            let mut ended = ended;
            while matches!(ended.try_recv(), Err(tokio::sync::oneshot::error::TryRecvError::Empty)) {
                insert_at_rate(&producers, &to, TRICKLE, piece, &numbers, &ledger).await?;
            }
            Ok(())
        });
        Ok(Self { task, over })
    }

    async fn stop(self) -> anyhow::Result<()> {
        // The receiver is gone only if the trickle failed, which its result tells.
        let _ = self.over.send(());
        self.task.await?
    }
}
