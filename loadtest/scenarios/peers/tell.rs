//! The findings of the rounds, as the report has them: by number, and within a number everyone in one order.

use std::time::Duration;

use super::contestants::{Contestant, QueueKind};
use super::floors::FloorTurn;
use super::turn::PeerTurn;
use crate::bench::Found;
use crate::latency::distribution;
use crate::report::Better;

/// A contestant with its turns, one a round.
pub(super) struct Player {
    pub(super) contestant: Contestant,
    pub(super) turns: Vec<PeerTurn>,
}

/// Colours that a plot has: the last contestant goes without a curve.
const COLOURS: usize = 8;

/// The latencies of a turn.
type TurnPart = fn(&PeerTurn) -> &[Duration];

/// Puts all into the report.
///
/// # Errors
/// A count went wrong, or nothing was measured.
pub(super) fn tell(found: &mut Found, players: &[Player], floors: &[FloorTurn]) -> anyhow::Result<()> {
    let written: Vec<f64> = floors.iter().map(|floor| floor.written).collect();
    found.measure("16 writers: bare table, written", "msg/s", Better::Higher, written.clone());
    rates(found, "16 writers", "settled", players, |turn| turn.settled);
    rates(found, "16 writers", "written", players, |turn| turn.written);
    over(found, "16 writers", "bare table", players, |turn| turn.settled, &written);
    against(found, "16 writers", players, |turn| turn.settled);
    late(found, "16 writers", players, |turn| &turn.full)?;
    late(found, "at 80 %", players, |turn| &turn.eased)?;
    for (percentile, name) in PERCENTILES {
        let rounds = floors.iter().map(|floor| at(&floor.idle, percentile)).collect::<Result<_, _>>()?;
        found.measure(&format!("idle: raw NOTIFY, {name}"), "ms", Better::Lower, rounds);
    }
    late(found, "idle", players, |turn| &turn.idle)?;
    let drained: Vec<f64> = floors.iter().map(|floor| floor.drained).collect();
    found.measure("backlog: plain SQL", "msg/s", Better::Higher, drained.clone());
    rates(found, "backlog", "settled", players, |turn| turn.drained);
    over(found, "backlog", "plain SQL", players, |turn| turn.drained, &drained);
    against(found, "backlog", players, |turn| turn.drained);

    let heard = floors.iter().flat_map(|floor| floor.idle.iter().copied());
    found.latency(distribution("idle: raw NOTIFY", heard)?);
    for player in players {
        count(found, player);
    }
    for player in players.iter().take(COLOURS - 1) {
        let idle = player.turns.iter().flat_map(|turn| turn.idle.iter().copied());
        found.latency(distribution(&format!("idle: {}", player.contestant.label), idle)?);
    }
    Ok(())
}

fn count(found: &mut Found, player: &Player) {
    let (mut lost, mut duplicated) = (0, 0);
    for count in player.turns.iter().flat_map(|turn| &turn.counts) {
        lost += count.lost;
        duplicated += count.duplicated;
        found.count(*count);
    }
    if lost + duplicated > 0 {
        found.note(format!("{}: {lost} lost, {duplicated} duplicated.", player.contestant.label));
    }
}

fn rates(found: &mut Found, part: &str, what: &str, players: &[Player], rate: fn(&PeerTurn) -> f64) {
    for player in players {
        let name = format!("{part}: {}, {what}", player.contestant.label);
        found.measure(&name, "msg/s", Better::Higher, player.turns.iter().map(rate).collect());
    }
}

/// The rates of all that are in Postgres, as shares of a floor.
fn over(
    found: &mut Found,
    part: &str,
    floor: &str,
    players: &[Player],
    rate: fn(&PeerTurn) -> f64,
    floors: &[f64],
) {
    for player in players.iter().filter(|p| !matches!(p.contestant.kind, QueueKind::JetStream { .. })) {
        let shares = player.turns.iter().zip(floors).map(|(turn, floor)| rate(turn) / floor);
        let name = format!("{part}: {} / {floor}", player.contestant.label);
        found.measure(&name, "", Better::Higher, shares.collect());
    }
}

/// The first one's rate over each other's.
fn against(found: &mut Found, part: &str, players: &[Player], rate: fn(&PeerTurn) -> f64) {
    let Some((first, others)) = players.split_first() else { return };
    for player in others {
        let ratios = first.turns.iter().zip(&player.turns).map(|(ours, theirs)| rate(ours) / rate(theirs));
        let name = format!("{part}: {} / {}", first.contestant.label, player.contestant.label);
        found.measure(&name, "", Better::Higher, ratios.collect());
    }
}

const PERCENTILES: [(f64, &str); 2] = [(50.0, "p50"), (99.0, "p99")];

fn late(found: &mut Found, part: &str, players: &[Player], latencies: TurnPart) -> anyhow::Result<()> {
    for (percentile, name) in PERCENTILES {
        for player in players {
            let rounds = player.turns.iter().map(|turn| at(latencies(turn), percentile));
            let rounds = rounds.collect::<anyhow::Result<Vec<f64>>>()?;
            let name = format!("{part}: {}, {name}", player.contestant.label);
            found.measure(&name, "ms", Better::Lower, rounds);
        }
    }
    Ok(())
}

/// A percentile of a turn, in milliseconds.
fn at(latencies: &[Duration], percentile: f64) -> anyhow::Result<f64> {
    Ok(distribution("turn", latencies.iter().copied())?.at(percentile))
}
