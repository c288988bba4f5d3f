//! The scripts of producers and pollers, and when the mesh is busy: drawn before the case begins, by draws of their own.

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::faults::{Fault, Timed};
use crate::messages::LEFT_MAX;
use crate::producers::OPEN_MAX;
use crate::schedule::{MS, Micros, SECOND};

/// Transactions begin until then.
const UNTIL: Micros = 11 * SECOND;

#[derive(Clone, Debug)]
pub(crate) struct NewRow {
    pub(crate) to: Vec<Arc<str>>,
    pub(crate) is_broadcast: bool,
    pub(crate) lane: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Something else is written: the transaction has its id.
    Touch,
    Insert(Vec<NewRow>),
    Savepoint,
    RollbackTo,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    For(Micros),
    /// Until so long after another transaction has ended.
    End(usize, Micros),
}

/// A transaction.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) begins: Micros,
    /// The transaction is repeatable read.
    pub(crate) keeps_snapshot: bool,
    pub(crate) steps: Vec<(Wait, Act)>,
    pub(crate) ends_after: Micros,
    pub(crate) commits: bool,
}

/// A poller ends or deletes a message.
#[derive(Clone, Debug)]
pub(crate) struct Poll {
    pub(crate) at: Micros,
    pub(crate) deletes: bool,
    pub(crate) lasts: Micros,
    /// The newest, or any.
    pub(crate) newest: bool,
}

/// A case with a router has this.
#[derive(Clone, Debug, Default)]
pub(crate) struct Routed {
    pub(crate) busy: Vec<(Micros, Micros)>,
    pub(crate) scripts: Vec<Script>,
    pub(crate) polls: Vec<Poll>,
}

/// At least so long, and at most one of the others.
fn up_to(rng: &mut SmallRng, least: Micros, most: [Micros; 2]) -> Micros {
    let most = most[rng.random_range(0..2)];
    rng.random_range(least..most)
}

impl Routed {
    pub(crate) fn draw(rng: &mut SmallRng, served: &[Arc<str>]) -> Self {
        let mut served = served.to_vec();
        served.sort();
        served.dedup();
        let mut busy = Vec::new();
        let mut at = rng.random_range(0..1_500 * MS);
        while at < UNTIL {
            let to = at + up_to(rng, 200 * MS, [SECOND, 4 * SECOND]);
            busy.push((at, to));
            at = to + up_to(rng, 20 * MS, [500 * MS, 6 * SECOND]);
        }
        let edges: Vec<Micros> = busy.iter().flat_map(|(from, to)| [*from, *to]).collect();
        let long = [0.0, 0.03, 0.2][rng.random_range(0..3)];
        let mut scripts = Vec::new();
        for number in 0..rng.random_range(30..90) {
            let at = match rng.random_range(0..3) {
                0 => rng.random_range(0..UNTIL),
                1 => {
                    let edge = edges[rng.random_range(0..edges.len())] + rng.random_range(0..200 * MS);
                    edge.saturating_sub(100 * MS)
                }
                _ => edges[rng.random_range(0..edges.len())] + rng.random_range(0..5 * SECOND),
            };
            scripts.push(Script::draw(rng, number, at, &served, long));
        }
        let poll = |rng: &mut SmallRng| Poll {
            at: rng.random_range(0..UNTIL + SECOND),
            deletes: rng.random_bool(0.3),
            lasts: if rng.random_bool(0.8) {
                rng.random_range(50..3 * MS)
            } else {
                rng.random_range(50..500 * MS)
            },
            newest: rng.random_bool(0.8),
        };
        let polls = (0..rng.random_range(0..40)).map(|_| poll(rng)).collect();
        Self { busy, scripts, polls }
    }

    /// Statements of the router that are slow, or end by an error.
    pub(crate) fn draw_faults(rng: &mut SmallRng) -> Vec<Timed> {
        let fault = |rng: &mut SmallRng| Timed {
            at: rng.random_range(0..UNTIL),
            lasts: up_to(rng, 5 * MS, [100 * MS, 2 * SECOND]),
            fault: if rng.random_bool(0.6) { Fault::SlowRouter } else { Fault::RouterErrors },
        };
        (0..rng.random_range(0_usize..6).saturating_sub(2)).map(|_| fault(rng)).collect()
    }

    /// No transaction is open for longer than this, unless one waits for another.
    pub(crate) fn over_at(&self) -> Micros {
        let length = |s: &Script| {
            let waits = s.steps.iter().map(|(wait, _)| match wait {
                Wait::For(after) | Wait::End(_, after) => *after,
            });
            s.begins + waits.sum::<Micros>() + s.ends_after
        };
        let ends = self.scripts.iter().map(length);
        let busy = self.busy.iter().map(|(_, to)| *to);
        ends.chain(busy).chain(self.polls.iter().map(|poll| poll.at + poll.lasts)).max().unwrap_or(0)
    }
}

impl Script {
    fn draw(rng: &mut SmallRng, number: usize, begins: Micros, served: &[Arc<str>], long: f64) -> Self {
        let is_long = rng.random_bool(long);
        let pause = |rng: &mut SmallRng| match rng.random_range(0..10) {
            0..4 if is_long => rng.random_range(0..OPEN_MAX / 2),
            4..7 if is_long => rng.random_range(0..OPEN_MAX / 4),
            9 => rng.random_range(0..50 * MS),
            _ => rng.random_range(20..2 * MS),
        };
        let mut steps = Vec::new();
        if rng.random_bool(if is_long { 0.5 } else { 0.2 }) {
            steps.push((Wait::For(0), Act::Touch));
        }
        let has_savepoint = rng.random_bool(0.2);
        for _ in 0..rng.random_range(1..4) {
            if has_savepoint && rng.random_bool(0.4) {
                steps.push((Wait::For(pause(rng)), Act::Savepoint));
            }
            let follows = number > 0 && rng.random_bool(0.5);
            let wait = match follows {
                true => Wait::End(
                    rng.random_range(number.saturating_sub(12)..number),
                    rng.random_range(0..2 * MS),
                ),
                false => Wait::For(pause(rng)),
            };
            let count = if rng.random_bool(0.1) { LEFT_MAX } else { 1 };
            let rows = (0..count + rng.random_range(0..3)).map(|_| NewRow::draw(rng, served)).collect();
            steps.push((wait, Act::Insert(rows)));
            if has_savepoint && rng.random_bool(0.4) {
                steps.push((Wait::For(pause(rng)), Act::RollbackTo));
            }
        }
        Self {
            begins,
            keeps_snapshot: rng.random_bool(0.1),
            steps,
            ends_after: pause(rng),
            commits: rng.random_bool(0.92),
        }
    }
}

impl NewRow {
    fn draw(rng: &mut SmallRng, served: &[Arc<str>]) -> Self {
        let is_broadcast = rng.random_bool(0.15);
        let inbox = served[rng.random_range(0..served.len())].clone();
        let to = if is_broadcast { served.to_vec() } else { vec![inbox] };
        Self { to, is_broadcast, lane: [1, 5, 5, 5][rng.random_range(0..4)] }
    }
}
