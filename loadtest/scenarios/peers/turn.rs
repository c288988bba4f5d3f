//! One contestant's turn in a round: idle, at full speed, at four fifths of that, and with a backlog.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::contestants::Contestant;
use super::install::PeerPackages;
use super::opened::{Opened, PeerProducer};
use super::taker::{Poised, Taker};
use crate::bench::Bench;
use crate::ledger::Ledger;
use crate::load::{Numbers, Produce, insert_at_full_speed, insert_at_rate, moments};
use crate::report::Count;

pub(super) const WRITERS: usize = 16;
/// How far apart the messages to an idle contestant are.
const EVERY: Duration = Duration::from_millis(20);
/// The share of the highest rate at which latency is looked at again.
const SHARE: f64 = 0.8;
/// More than two cores ever wrote in a second.
const A_SECOND_MAX: usize = 60_000;

/// The sizes of a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerSizes {
    /// Before anything is measured: programs that compile themselves are compiled then.
    pub(super) warm: Duration,
    /// How long each part with a load lasts.
    pub(super) lasting: Duration,
    /// Messages one by one.
    pub(super) idle: usize,
    /// Messages that wait.
    pub(super) backlog: usize,
}

impl PeerSizes {
    pub(super) fn of(bench: &Bench<'_>) -> Self {
        Self {
            warm: bench.lasting(1_000, 100),
            lasting: bench.lasting(4_000, 300),
            idle: bench.size(100, 10),
            backlog: bench.size(50_000, 500),
        }
    }

    /// More messages than a turn has.
    fn lines(&self) -> usize {
        let loaded = self.warm + self.lasting * 2;
        self.idle + (loaded.as_secs_f64().ceil() as usize + 1) * A_SECOND_MAX
    }
}

/// The findings of a turn.
#[derive(Debug, Default)]
pub(super) struct PeerTurn {
    /// From the intended moment to the receipt: one message at a time.
    pub(super) idle: Vec<Duration>,
    /// Messages written a second by all writers at full speed.
    pub(super) written: f64,
    /// The same messages, over the time until the last of them was settled.
    pub(super) settled: f64,
    /// The latencies of these.
    pub(super) full: Vec<Duration>,
    /// The latencies at four fifths of `settled`.
    pub(super) eased: Vec<Duration>,
    /// Messages a second of a backlog, from the order to begin until the last was settled.
    pub(super) drained: f64,
    /// Every message of the turn.
    pub(super) counts: Vec<Count>,
}

/// Takes one turn, on a queue that nobody used before.
///
/// # Errors
/// The contestant breaks.
pub(super) async fn take(
    bench: &Bench<'_>,
    with: &PeerPackages,
    contestant: Contestant,
    opened: &Opened,
    sizes: PeerSizes,
) -> anyhow::Result<PeerTurn> {
    let mut turn = PeerTurn::default();
    let say = |what: &str| bench.progress.set_message(format!("{}: {what}", contestant.label));
    let start = || async { Poised::start(&mut opened.taker(with, contestant)?).await };
    let load = TurnLoad {
        opened,
        ledger: Arc::new(Ledger::new(sizes.lines())),
        numbers: Numbers::up_to(sizes.lines()),
        producers: opened.producers(WRITERS).await?,
    };
    let taker = start().await?.begin(&load.ledger).await?;
    say("warming up");
    load.at_full_speed(sizes.warm).await?;
    opened.tidy().await?;
    tokio::time::sleep(sizes.warm).await;
    say("idle");
    turn.idle = load.idle(sizes.idle).await?;
    opened.tidy().await?;
    say("16 writers");
    (turn.written, turn.settled, turn.full) = load.at_full_speed(sizes.lasting).await?;
    opened.tidy().await?;
    say("at 80 %");
    turn.eased = load.eased(turn.settled * SHARE, sizes.lasting).await?;
    taker.stop().await?;
    turn.counts.push(load.ledger.count()?);
    drop(load.producers);

    say("a backlog");
    let ledger = Arc::new(Ledger::new(sizes.backlog));
    opened.fill(sizes.backlog).await?;
    ledger.commit_all(0..sizes.backlog, Instant::now());
    opened.tidy().await?;
    let waiting = start().await?;
    let (taker, drained) = drain(opened, waiting, &ledger, sizes.backlog).await?;
    turn.drained = drained;
    taker.stop().await?;
    turn.counts.push(ledger.count()?);
    Ok(turn)
}

/// Has a process take all that waits; returns the messages a second.
async fn drain(
    opened: &Opened,
    waiting: Poised,
    ledger: &Arc<Ledger>,
    messages: usize,
) -> anyhow::Result<(Taker, f64)> {
    let began = Instant::now();
    let taker = waiting.begin(ledger).await?;
    ledger.wait_for(messages).await;
    opened.wait_until_settled().await?;
    Ok((taker, messages as f64 / began.elapsed().as_secs_f64()))
}

/// The producers of a turn, and what they have sent.
struct TurnLoad<'a> {
    opened: &'a Opened,
    ledger: Arc<Ledger>,
    numbers: Numbers,
    producers: Vec<PeerProducer>,
}

impl TurnLoad<'_> {
    /// One message at a time; returns the latencies.
    async fn idle(&self, messages: usize) -> anyhow::Result<Vec<Duration>> {
        let before = self.numbers.taken();
        let mut told = moments(messages, EVERY);
        for _ in 0..messages {
            let at = told.recv().await.context("the clock stopped")?;
            let n = self.numbers.take().context("the ledger is full")?;
            self.ledger.intend(n, at);
            self.producers[0].produce(n, "").await?;
            self.ledger.commit(n);
        }
        self.settle().await?;
        Ok(self.latencies(before..self.numbers.taken()))
    }

    /// All producers without a pause; returns messages a second, written and settled, and the latencies.
    async fn at_full_speed(&self, lasting: Duration) -> anyhow::Result<(f64, f64, Vec<Duration>)> {
        let (before, began) = (self.numbers.taken(), Instant::now());
        let (to, ledger) = (self.to(), Some(&*self.ledger));
        let written = insert_at_full_speed(&self.producers, &to, lasting, &self.numbers, ledger).await?;
        self.settle().await?;
        let used = before..self.numbers.taken();
        let settled = used.len() as f64 / began.elapsed().as_secs_f64();
        Ok((written, settled, self.latencies(used)))
    }

    /// At a rate; returns the latencies.
    async fn eased(&self, rate: f64, lasting: Duration) -> anyhow::Result<Vec<Duration>> {
        let used =
            insert_at_rate(&self.producers, &self.to(), rate, lasting, &self.numbers, &self.ledger).await?;
        self.settle().await?;
        Ok(self.latencies(used))
    }

    async fn settle(&self) -> anyhow::Result<()> {
        self.ledger.wait_for(self.ledger.committed()).await;
        self.opened.wait_until_settled().await
    }

    fn latencies(&self, used: Range<usize>) -> Vec<Duration> {
        used.filter_map(|n| self.ledger.latency(n)).collect()
    }

    /// The statements name the recipient themselves.
    fn to(&self) -> [String; 1] {
        [String::new()]
    }
}
