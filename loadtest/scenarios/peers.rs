//! `peers`: Postbell beside other queues, in one run on the same machine.

mod contestants;
mod floors;
mod install;
mod jetstream;
mod opened;
mod taker;
mod tell;
mod turn;

use std::collections::HashMap;

use super::Spec;
use crate::bench::{Bench, Found};
use contestants::{Contestant, QueueKind};
use floors::Floors;
use install::PeerPackages;
use opened::Opened;
use tell::Player;
use turn::{PeerSizes, PeerTurn};

pub(crate) const SPEC: Spec = Spec {
    name: "peers",
    about: "How many messages of 200 bytes Postbell, pgmq, graphile-worker, pg-boss and NATS JetStream write, deliver and \
            settle a second on the same cores, and how late these come.",
    method: "In each round everyone takes a turn, each round begun by another, in a new database or on a new server. The \
             16 producers are this program for all: one connection each, one message a transaction, the answer awaited. \
             Each queue's own client takes the messages, one process with what its documents call fast \
             (`loadtest/peers` has each with its reasons), and reports each receipt by a clock that all processes share. \
             A turn: one message each 20 ms; the producers without a pause, where `settled` counts until the last \
             message is acknowledged and gone from the queue; the producers at 80 % of that, each message at its \
             intended moment; 50,000 messages that wait for a process which connects. In between the tables are \
             vacuumed. The floors take a turn as well: a bare NOTIFY with a SELECT, the bare table, plain SQL that reads \
             and settles in batches of 500. Ratios are taken within a round, and each percentile within a turn. NATS has \
             its messages in files of its own, and by default on the disk only two minutes later; with `sync_interval: \
             always` a message is on the disk before its producer has the answer, as it is with all that are in \
             Postgres.",
    run: |bench| Box::pin(run(bench)),
};

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    if !cfg!(target_os = "linux") {
        found.left_out("the processes of this system share no clock that they can read")?;
        return Ok(found);
    }
    let with = match PeerPackages::begin().await {
        Ok(with) => with,
        Err(e) => {
            found.left_out(&format!("the peers cannot be installed: {e:#}"))?;
            return Ok(found);
        }
    };
    let (sizes, rounds) = (PeerSizes::of(bench), bench.size(5, 1));
    let mut players = available(bench, &with, &mut found).await?;
    let floors = Floors::open(bench, rounds, sizes).await?;
    let mut floor_turns = Vec::new();
    for round in 0..rounds {
        floor_turns.push(floors.take(round).await?);
        for turn in 0..players.len() {
            bench.progress.set_length((rounds * players.len()) as u64);
            bench.progress.set_position((round * players.len() + turn) as u64);
            let player = (turn + round) % players.len();
            let contestant = players[player].contestant;
            players[player].turns.push(take(bench, &with, contestant, sizes).await?);
        }
    }
    floors.close();
    tell::tell(&mut found, &players, &floor_turns)?;
    Ok(found)
}

/// The contestants that this machine can have. The others are told of in the report.
async fn available(bench: &Bench<'_>, with: &PeerPackages, found: &mut Found) -> anyhow::Result<Vec<Player>> {
    let (mut players, mut brought) = (Vec::new(), HashMap::new());
    for contestant in contestants::ALL {
        bench.progress.set_message(format!("bringing {}", contestant.label));
        if let Some(folder) = contestant.folder
            && !brought.contains_key(folder)
        {
            brought.insert(folder, with.bring(folder).await.err().map(|e| format!("{e:#}")));
        }
        let failure = contestant.folder.and_then(|folder| brought[folder].clone());
        match failure.or(cannot(bench, *contestant)) {
            Some(why) => found.left_out(&format!("{} is not available: {why}", contestant.label))?,
            None => match Opened::open(bench, with, *contestant).await {
                Ok(opened) => {
                    opened.close().await?;
                    players.push(Player { contestant: *contestant, turns: Vec::new() });
                }
                Err(e) => found.left_out(&format!("{} is not available: {e:#}", contestant.label))?,
            },
        }
    }
    let mut pins: Vec<String> =
        players.iter().filter_map(|p| p.contestant.folder).flat_map(|f| with.pins(f)).collect();
    pins.sort_unstable();
    pins.dedup();
    if !pins.is_empty() {
        found.note(format!("Installed: {}.", pins.join(", ")));
    }
    Ok(players)
}

/// Why a contestant cannot be compared in this run.
fn cannot(bench: &Bench<'_>, contestant: Contestant) -> Option<String> {
    let is_delayed = bench.slow_flush_ms > 0.0;
    let is_apart = matches!(contestant.kind, QueueKind::JetStream { .. });
    (is_delayed && is_apart).then(|| "--slow-flush delays Postgres alone".to_owned())
}

/// One turn, after which nothing of it is left.
async fn take(
    bench: &Bench<'_>,
    with: &PeerPackages,
    contestant: Contestant,
    sizes: PeerSizes,
) -> anyhow::Result<PeerTurn> {
    let opened = Opened::open(bench, with, contestant).await?;
    let taken = turn::take(bench, with, contestant, &opened, sizes).await;
    // Also after a failure: the server may be somebody's.
    let closed = opened.close().await;
    let taken = taken.map_err(|e| e.context(contestant.label))?;
    closed?;
    Ok(taken)
}
