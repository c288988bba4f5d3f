//! `backlog`: the cost of a long inbox.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::Spec;
use crate::agents::{Agent, connect, register};
use crate::bench::{Bench, Found, line, linear, logarithmic, median};
use crate::broker::Broker;
use crate::ledger::{Ledger, number};
use crate::load::fill;
use crate::report::Better;
use crate::stage::Sql;

const STEPS: &[usize] = &[1_000, 10_000, 100_000, 2_000_000];
/// Messages that an agent takes in one visit: a quarter of the shortest inbox, so that no inbox ends, and as much is
/// read and pushed ahead in each.
const TAKEN: usize = 250;
const WINDOW: u32 = 100;

pub(crate) const SPEC: Spec = Spec {
    name: "backlog",
    about: "Whether 1,000 to 2,000,000 messages that wait in one inbox change how fast it is pushed, how soon its first \
            message comes, and what the broker holds in memory.",
    method: "One inbox a size. An agent connects (window 100), takes 250 messages, acknowledges each by itself, gives \
             back what was pushed beyond, and leaves: the time from connecting to the first message, and the rate from \
             there to the last ack's COMMIT. The sizes take turns; the inbox is filled up again before each visit. \
             At last an agent takes 100,000 messages of the longest inbox without a pause, and the broker's peak memory \
             is read.",
    run: |bench| Box::pin(run(bench)),
};

/// An inbox of one size.
struct Inbox {
    name: String,
    size: usize,
    next: usize,
    ledger: Arc<Ledger>,
    first_ms: Vec<f64>,
    rates: Vec<f64>,
}

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    let steps: &[usize] = if bench.quick { &[1_000, 10_000] } else { STEPS };
    let (visits, long) = (bench.size(60, 2), bench.size(100_000, 5_000));
    let names = register(&sql, "agent", steps.len()).await?;
    let mut inboxes = Vec::new();
    for (i, (&size, name)) in steps.iter().zip(names).enumerate() {
        bench.step(&format!("filling {size}"), i, steps.len() + visits + 1);
        let ledger = Arc::new(Ledger::new(size + TAKEN * visits));
        fill(&sql, &name, 0..size, &ledger).await?;
        inboxes.push(Inbox { name, size, next: size, ledger, first_ms: Vec::new(), rates: Vec::new() });
    }
    sql.batch_execute("vacuum analyze agent_messages, postbell.deliveries").await?;
    sql.batch_execute("checkpoint").await?;
    let broker = bench.stage.broker(bench.database).await?;
    broker.process.forget_peak();
    for visit in 0..visits {
        bench.step("visits", steps.len() + visit, steps.len() + visits + 1);
        for inbox in &mut inboxes {
            inbox.visit(&sql, &broker).await?;
        }
    }
    bench.step("the longest, without a pause", steps.len() + visits, steps.len() + visits + 1);
    let longest = inboxes.last().context("there is no inbox")?;
    let (rate, peak) = take_long(&broker, longest, long).await?;
    found.measure("100,000 of the longest without a pause", "msg/s", Better::Higher, vec![rate]);
    let few = median(&inboxes[0].rates);
    for inbox in &inboxes {
        let size = inbox.size;
        found.measure(&format!("{size} waiting: push rate"), "msg/s", Better::Higher, inbox.rates.clone());
        found.measure(
            &format!("{size} waiting: connecting to first message"),
            "ms",
            Better::Lower,
            inbox.first_ms.clone(),
        );
    }
    found.at_least(
        "backlog: push rate at 2,000,000 waiting ≥ 0.9 of that at 1,000",
        median(&longest.rates) / few,
        0.9,
        "",
    );
    found.at_most(
        "backlog: the first message of the longest inbox ≤ 50 ms after connecting",
        median(&longest.first_ms),
        50.0,
        "ms",
    );
    if let Some(mb) = peak {
        let mb = found.measure("broker's memory, peak", "MB", Better::Lower, vec![mb]);
        found.at_most("backlog: broker's resident memory ≤ 100 MB", mb, 100.0, "MB");
    }
    let points = |of: fn(&Inbox) -> f64| inboxes.iter().map(|i| (i.size as f64, of(i))).collect();
    found.plot(
        "Push rate",
        logarithmic("messages waiting"),
        linear("messages a second"),
        vec![line("rate", points(|i| median(&i.rates)))],
    );
    found.plot(
        "Connecting to the first message",
        logarithmic("messages waiting"),
        linear("ms"),
        vec![line("median", points(|i| median(&i.first_ms)))],
    );
    broker.stop().await?;
    for inbox in &inboxes {
        for n in numbers_waiting(&sql, &inbox.name).await? {
            inbox.ledger.still_waits(n as usize);
        }
        found.count(inbox.ledger.count()?);
    }
    Ok(found)
}

impl Inbox {
    async fn visit(&mut self, sql: &Sql, broker: &Broker) -> anyhow::Result<()> {
        // Replaces the messages that the visit before took, so that each visit finds the inbox as long as it should
        // be.
        let taken = self.ledger.received();
        fill(sql, &self.name, self.next..self.size + taken, &self.ledger).await?;
        self.next = self.size + taken;
        let began = Instant::now();
        let (client, mut deliveries) = connect(broker, &self.name, WINDOW).await?;
        let mut first = None;
        for taken in 1..=TAKEN {
            let next = tokio::time::timeout(Duration::from_secs(30), deliveries.next()).await;
            let delivery = next.context("a waiting message did not come")?.context("the client closed")?;
            let at = Instant::now();
            first.get_or_insert(at);
            self.ledger.receive(number(delivery.payload()).unwrap_or(usize::MAX), at);
            match taken {
                TAKEN => delivery.ack_confirmed().await?,
                _ => delivery.ack().await,
            }
        }
        let first = first.unwrap_or(began);
        self.first_ms.push((first - began).as_secs_f64() * 1e3);
        self.rates.push(TAKEN as f64 / first.elapsed().as_secs_f64());
        client.set_window(0).await?;
        // Dropping a delivery gives it back, uncounted. Deliveries that the broker wrote before it read the window
        // come soon.
        while let Ok(Some(delivery)) =
            tokio::time::timeout(Duration::from_millis(20), deliveries.next()).await
        {
            drop(delivery);
        }
        client.close().await;
        Ok(())
    }
}

/// Takes so many messages. Returns the rate a second, and the broker's peak memory in MB since its start.
async fn take_long(broker: &Broker, inbox: &Inbox, count: usize) -> anyhow::Result<(f64, Option<f64>)> {
    let (before, began) = (inbox.ledger.received(), Instant::now());
    let agent = Agent::start(broker, &inbox.name, 1_000, &inbox.ledger, (1, 0)).await?;
    inbox.ledger.wait_for(before + count.min(inbox.size)).await;
    let rate = (inbox.ledger.received() - before) as f64 / began.elapsed().as_secs_f64();
    let peak = broker.process.memory_peak_mb();
    agent.stop().await;
    Ok((rate, peak))
}

/// The numbers of the messages in an inbox, by the table.
async fn numbers_waiting(sql: &Sql, inbox: &str) -> anyhow::Result<Vec<i32>> {
    // In arrays: a row each would cost more memory than the numbers.
    let asked = "select array_agg(n) from (
                   select (m.payload ->> 'n')::int as n
                   from postbell.deliveries d join agent_messages m using (message_id) where d.inbox = $1
                 ) w group by n / 10000";
    let rows = sql.query(asked, &[&inbox]).await?;
    Ok(rows.iter().flat_map(|row| row.get::<_, Vec<i32>>(0)).collect())
}
