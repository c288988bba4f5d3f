//! `slow-agent`: one of a hundred agents stops reading.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use super::Spec;
use crate::agents::{Agent, TOKEN, WINDOW, register, stop_all, wait_until_settled};
use crate::bench::{Bench, Found};
use crate::broker::Broker;
use crate::latency::distribution;
use crate::ledger::Ledger;
use crate::load::{Numbers, Producer, Table, fill_with, insert_at_rate};
use crate::report::Better;

const AGENTS: usize = 100;
const WRITERS: usize = 8;
/// Messages a second to all agents together.
const RATE: f64 = 1_000.0;
/// A session that was closed as a slow reader comes back after so long, and stops reading again.
const COMES_BACK_AFTER: Duration = Duration::from_millis(500);

/// The payload of the messages for the slow agent: together more than the kernel buffers for a socket.
const WAITING_BYTES: usize = 1_000;
const RECEIVE_BUFFER_BYTES: u32 = 4_096;

pub(crate) const SPEC: Spec = Spec {
    name: "slow-agent",
    about: "Whether one of 100 agents that stops reading delays the other 99.",
    method: "1,000 messages a second, spread over 100 agents. Rounds with all of them reading take turns with rounds in \
             which one is a bare socket that says hello, asks for the largest window, and never reads: 20,000 messages \
             of 1,000 bytes wait for it and its buffer is small, so that the broker's write stands still at once; when the broker closes it, it connects again. The \
             latencies are those of the other 99. At the end it reads again and takes what waited.",
    run: |bench| Box::pin(run(bench)),
};

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let sql = bench.database.sql().await?;
    let names = register(&sql, "agent", AGENTS).await?;
    let slow = names[AGENTS - 1].clone();
    let (rounds, lasting, waiting) =
        (bench.size(3, 1), bench.lasting(12_000, 800), bench.size(20_000, 2_000));
    let paced = (lasting.as_secs_f64() * RATE) as usize * rounds * 2;
    let total = paced + paced / 5 + waiting + 1_000;
    let (ledger, numbers) = (Arc::new(Ledger::new(total)), Numbers::up_to(total - waiting));
    let broker = bench.stage.broker(bench.database).await?;
    let others = Agent::start_all(&broker, &names[..AGENTS - 1], WINDOW, &ledger).await?;
    let producers = Producer::connect_many(bench.database, Table::Messages, WRITERS).await?;
    fill_with(&sql, &slow, total - waiting..total, WAITING_BYTES, &ledger).await?;
    let away = names[..AGENTS - 1].to_vec();

    let (mut without, mut with, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut all_without, mut all_with, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    let closed = Arc::new(AtomicUsize::new(0));
    for round in 0..rounds {
        bench.step("all read", round * 2, rounds * 2);
        let used = insert_at_rate(&producers, &away, RATE, lasting, &numbers, &ledger).await?;
        ledger.wait_for(ledger.committed() - waiting).await;
        let latencies: Vec<_> = used.filter_map(|n| ledger.latency(n)).collect();
        without.push(distribution("round", latencies.iter().copied())?.at(99.0));
        all_without.extend(latencies);

        bench.step("one does not read", round * 2 + 1, rounds * 2);
        broker.process.forget_peak();
        let stalled = stall(&broker, slow.clone(), closed.clone());
        tokio::time::sleep(COMES_BACK_AFTER).await;
        let used = insert_at_rate(&producers, &away, RATE, lasting, &numbers, &ledger).await?;
        ledger.wait_for(ledger.committed() - waiting).await;
        stalled.abort();
        let latencies: Vec<_> = used.filter_map(|n| ledger.latency(n)).collect();
        with.push(distribution("round", latencies.iter().copied())?.at(99.0));
        all_with.extend(latencies);
        memory.extend(broker.process.memory_peak_mb());
        ratios.push(with[round] / without[round]);
    }
    let reader = Agent::start(&broker, &slow, WINDOW, &ledger, (1, 0)).await?;
    ledger.wait_for(ledger.committed()).await;
    wait_until_settled(&sql, "agent-%").await?;
    reader.stop().await;
    stop_all(others).await;
    broker.stop().await?;

    found.latency(distribution("all read", all_without.into_iter())?);
    found.latency(distribution("one does not read", all_with.into_iter())?);
    found.measure("p99 while all read", "ms", Better::Lower, without);
    found.measure("p99 of the others", "ms", Better::Lower, with);
    let ratio = found.measure("p99 with / without", "", Better::Lower, ratios);
    found.at_most("slow-agent: p99 of the 99 others ≤ 1.2 × without it", ratio, 1.2, "");
    if !memory.is_empty() {
        let peak = found.measure("broker's memory, peak", "MB", Better::Lower, memory);
        found.at_most("slow-agent: the broker's memory is bounded", peak, 60.0, "MB");
    }
    found.note(format!("the slow session was closed by the broker {} times", closed.load(Ordering::Relaxed)));
    found.count(ledger.count()?);
    Ok(found)
}

/// Says hello and never reads, again each time that the broker closed the connection.
fn stall(broker: &Broker, agent: String, closed: Arc<AtomicUsize>) -> JoinHandle<std::io::Result<()>> {
    let address = broker.address;
    let hello = format!(
        "{{\"op\":\"hello\",\"agent\":\"{agent}\",\"token\":\"{TOKEN}\",\"window\":10000,\"heartbeat_ms\":600000}}\n"
    );
    tokio::spawn(async move {
        loop {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
            let mut socket = socket.connect(address).await?;
            socket.write_all(hello.as_bytes()).await?;
            // Writing fails once the broker has closed the socket.
            while socket.write_all(b"{\"op\":\"window\",\"n\":10000}\n").await.is_ok() {
                tokio::time::sleep(COMES_BACK_AFTER).await;
            }
            closed.fetch_add(1, Ordering::Relaxed);
        }
    })
}
