//! The tail, as src/pipeline/tailer.rs and src/store/tail.rs have it, around the real bell.

use std::collections::VecDeque;
use std::time::Instant;

use postbell_engine::bell::{Bell, Flag, Heard};
use postbell_engine::inbox::event::Event;
use rand::RngExt;

use crate::database::{Row, Seen, State};
use crate::plants::Plant;
use crate::schedule::{MS, Micros, SECOND};
use crate::statements::{Ask, Reply, STATEMENT_WAIT, Task};
use crate::world::{What, World};

const RECONNECT_FIRST: Micros = 50 * MS;
const RECONNECT_MAX: Micros = SECOND;
/// Few, so that a round can break off between.
const CHUNK_ROWS: usize = 2;

/// The rings and canaries that are heard (src/store/listen.rs).
#[derive(Debug, Default)]
pub(crate) struct Rope {
    pub(crate) up: bool,
    pub(crate) last_at: Micros,
    rings: u64,
    canary: u64,
    changed: bool,
}

impl Rope {
    pub(crate) fn ring(&mut self) {
        self.rings += 1;
        self.changed = true;
    }

    /// Numbered by the statement that sent it.
    pub(crate) fn canary(&mut self, number: u64) {
        self.canary = self.canary.max(number);
        self.changed = true;
    }

    pub(crate) fn set_up(&mut self, up: bool) {
        (self.up, self.changed) = (up, true);
    }
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Down,
    Connecting,
    Waiting,
    /// The flag is written, and then this.
    Writing(Then),
    Asking(Instant),
    Bringing(Round),
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Hear,
    Look,
    Armed,
    Wait,
}

#[derive(Debug)]
struct Round {
    number: u64,
    started_at: Instant,
    next: Seen,
    left: VecDeque<(i64, Row)>,
    rows: u64,
    breaks_after: Option<usize>,
    brought: bool,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Tail {
    stage: Stage,
    pub(crate) bell: Option<Bell>,
    pub(crate) cursor: Option<Seen>,
    query: u64,
    /// This broker made something ready; its lease had lapsed.
    pub(crate) wake: bool,
    pub(crate) lapsed: bool,
    due: Option<Micros>,
    tries: u32,
}

impl World {
    pub(crate) fn tail_connects(&mut self, b: usize) {
        self.tail_asks(b, Ask::Connect, Stage::Connecting);
    }

    fn tail_asks(&mut self, b: usize, ask: Ask, stage: Stage) {
        let query = self.ask(b, Task::Tail, ask, STATEMENT_WAIT);
        let tail = &mut self.brokers[b].tail;
        (tail.stage, tail.query) = (stage, query);
    }

    fn heard(&self, b: usize) -> Heard {
        let rope = &self.brokers[b].rope;
        Heard { up: rope.up, rings: rope.rings, canary: rope.canary, canary_sent: self.last_query }
    }

    fn bell(&mut self, b: usize) -> &mut Bell {
        let now = self.instant();
        self.brokers[b].tail.bell.get_or_insert_with(|| Bell::new(now))
    }

    fn tail_writes(&mut self, b: usize, flag: Option<Flag>, then: Then) {
        match flag {
            Some(flag) => self.tail_asks(b, Ask::Arm(flag == Flag::Arm), Stage::Writing(then)),
            None => self.tail_then(b, then),
        }
    }

    fn tail_then(&mut self, b: usize, then: Then) {
        let now = self.instant();
        match then {
            Then::Hear => {
                self.brokers[b].rope.changed = false;
                let heard = self.heard(b);
                let flag = self.bell(b).hear(now, heard);
                self.tail_writes(b, flag, Then::Look);
            }
            Then::Look if self.bell(b).due() <= now => {
                let before = self.brokers[b].tail.cursor.clone().unwrap_or_default();
                self.tail_asks(b, Ask::Tail(before), Stage::Asking(now));
            }
            Then::Armed => {
                self.bell(b).armed(now);
                self.tail_waits(b);
            }
            Then::Look | Then::Wait => self.tail_waits(b),
        }
    }

    fn tail_waits(&mut self, b: usize) {
        self.brokers[b].tail.stage = Stage::Waiting;
        self.tail_due(b);
    }

    /// The answer that it waits for, if it waits.
    pub(crate) fn tail_due(&mut self, b: usize) {
        if !matches!(self.brokers[b].tail.stage, Stage::Waiting) {
            return;
        }
        let now = self.instant();
        if std::mem::take(&mut self.brokers[b].tail.lapsed) {
            let flag = self.bell(b).wake_up(now);
            return self.tail_writes(b, flag, Then::Hear);
        }
        let wakes = std::mem::take(&mut self.brokers[b].tail.wake);
        if wakes {
            self.bell(b).wake(now);
        }
        let due = self.bell(b).due();
        if wakes || self.brokers[b].rope.changed || due <= now {
            return self.tail_then(b, Then::Hear);
        }
        let due = self.micros(due).max(self.now + 1);
        if self.brokers[b].tail.due != Some(due) {
            self.brokers[b].tail.due = Some(due);
            self.plan_for(b, due, What::TailDue);
        }
    }

    pub(crate) fn tail_answered(&mut self, b: usize, number: u64, reply: Result<Reply, ()>) {
        if self.brokers[b].tail.query != number {
            return;
        }
        let Ok(reply) = reply else { return self.tail_fails(b) };
        let stage = std::mem::take(&mut self.brokers[b].tail.stage);
        match (stage, reply) {
            (Stage::Connecting, Reply::Snapshot(server)) => {
                self.brokers[b].tail.cursor.get_or_insert(server);
                let now = self.instant();
                self.bell(b).wake_up(now);
                self.tail_writes(b, Some(Flag::Disarm), Then::Wait);
            }
            (Stage::Writing(then), _) => self.tail_then(b, then),
            (Stage::Asking(started_at), Reply::Rows(rows, next)) => {
                self.brokers[b].tail.tries = 0;
                let due = rows.iter().filter_map(|(_, row)| match row.state {
                    State::Scheduled(at) => Some(at),
                    State::Ready | State::Dead => None,
                });
                if let Some(due) = due.min() {
                    self.reap_by(b, self.time_of_case(due));
                }
                if self.plant == Some(Plant::CursorBeforeRows) {
                    self.brokers[b].tail.cursor = Some(next.clone());
                }
                let trouble = self.is_faulty(|fault| fault.parts_from_database(b));
                let breaks = trouble && self.chance(50);
                let breaks_after = breaks.then(|| self.rng.random_range(0..=rows.len() / CHUNK_ROWS));
                let (left, rows) = (rows.clone().into(), rows.len() as u64);
                let round = Round { number, started_at, next, left, rows, breaks_after, brought: false };
                self.brokers[b].tail.stage = Stage::Bringing(round);
                self.bring_rows(b, number);
            }
            (stage, reply) => unreachable!("{stage:?} {reply:?}"),
        }
    }

    /// Hands over a few of a round's rows; after the last the cursor moves.
    pub(crate) fn bring_rows(&mut self, b: usize, number: u64) {
        let Stage::Bringing(round) = &mut self.brokers[b].tail.stage else { return };
        if round.number != number {
            return;
        }
        match &mut round.breaks_after {
            Some(0) => return self.tail_fails(b),
            Some(chunks) => *chunks -= 1,
            None => {}
        }
        let rows: Vec<_> = round.left.drain(..CHUNK_ROWS.min(round.left.len())).collect();
        let is_whole = round.left.is_empty();
        let rows = self.arrivals(&rows);
        let Stage::Bringing(round) = &mut self.brokers[b].tail.stage else { return };
        round.brought |= !rows.is_empty();
        let (next, rows_in_all, started_at) = (round.next.clone(), round.rows, round.started_at);
        if !rows.is_empty() {
            self.tell(b, Event::Arrived(rows));
        }
        if !is_whole {
            let after = self.now + self.rng.random_range(10..500);
            return self.plan_for(b, after, What::BringRows(number));
        }
        let in_progress: Vec<u64> = next.in_progress.iter().copied().collect();
        let snapshot = next.text();
        self.brokers[b].tail.cursor = Some(next);
        self.router_hears_load(b);
        self.tell(b, Event::TailRound { started_at, snapshot });
        let (now, heard) = (self.instant(), self.heard(b));
        match self.bell(b).round(now, rows_in_all, &in_progress, heard) {
            Some(Flag::Arm) => self.tail_writes(b, Some(Flag::Arm), Then::Armed),
            flag => self.tail_writes(b, flag, Then::Wait),
        }
    }

    fn tail_fails(&mut self, b: usize) {
        let brought = matches!(&self.brokers[b].tail.stage, Stage::Bringing(round) if round.brought);
        if brought && self.plant != Some(Plant::CursorBeforeRows) {
            self.tell(b, Event::TailBroken);
        }
        let mut tries = self.brokers[b].tail.tries;
        let wait = self.pace(RECONNECT_FIRST, RECONNECT_MAX, &mut tries);
        let tail = &mut self.brokers[b].tail;
        (tail.stage, tail.tries, tail.query) = (Stage::Down, tries, 0);
        self.plan_for(b, self.now + wait, What::Connect(Task::Tail));
    }
}
