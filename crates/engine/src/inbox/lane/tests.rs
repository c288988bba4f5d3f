//! A lane against a plain model: a table whose commits come out of order, a tail, and refills that are late.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::inbox::tests::support::take;
use crate::inbox::{Attempt, ENTRY_BYTES};
use postbell_client::message::Priority;

/// The number of a commit. A snapshot is the number of the last commit that it shows.
type Commit = u64;

#[derive(Clone, Copy, Debug)]
enum Op {
    /// A producer takes an id, and commits later.
    Insert(usize),
    Commit(usize),
    StartRound,
    /// The open round brings so many rows; the last rows end the round.
    Bring(usize),
    BeginRefill,
    ExecuteRefill,
    ApplyRefill,
    FailRefill,
    Pop,
    /// A delivery in flight is settled in three steps: the outcome is handed out, committed, and then known to
    /// be committed.
    HandOut(usize),
    CommitOutcome(usize, bool),
    LearnOutcome(usize),
    Room(Room),
}

fn op() -> impl Strategy<Value = Op> {
    let room = (1..=6_usize, 1..=6_usize).prop_map(|(entries, size)| {
        Op::Room(Room { entries, bytes: size * 2 * (ENTRY_BYTES + 20), first_rows: REFILL_ROWS_FIRST })
    });
    prop_oneof![
        6 => (0..40_usize).prop_map(Op::Insert),
        6 => any::<usize>().prop_map(Op::Commit),
        3 => Just(Op::StartRound),
        4 => (1..4_usize).prop_map(Op::Bring),
        3 => Just(Op::BeginRefill),
        3 => Just(Op::ExecuteRefill),
        3 => Just(Op::ApplyRefill),
        1 => Just(Op::FailRefill),
        5 => Just(Op::Pop),
        3 => any::<usize>().prop_map(Op::HandOut),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, again)| Op::CommitOutcome(which, again)),
        3 => any::<usize>().prop_map(Op::LearnOutcome),
        1 => room,
    ]
}

struct Refilling {
    snapshot: Commit,
    above: i64,
    asked: usize,
    rows: Option<Vec<Entry>>,
}

struct Model {
    lane: Lane,
    room: Room,
    last_id: i64,
    last_commit: Commit,
    uncommitted: Vec<(i64, usize)>,
    /// Ready rows: the commit that made them ready, and their size.
    table: BTreeMap<i64, (Commit, usize)>,
    /// The snapshot up to which the tail has brought every row.
    snapshot: Commit,
    round: Option<(Commit, VecDeque<Entry>)>,
    brought_in_round: bool,
    refill: Option<Refilling>,
    settled_in_refill: BTreeSet<i64>,
    /// Row versions that came by the tail, and that were popped.
    brought: BTreeSet<(i64, Commit)>,
    popped: BTreeSet<(i64, Commit)>,
    in_flight: Vec<i64>,
    handed_out: Vec<i64>,
    committed: Vec<i64>,
}

impl Model {
    fn new(room: Room) -> Self {
        Self {
            lane: Lane::unread(),
            room,
            last_id: 0,
            last_commit: 0,
            uncommitted: Vec::new(),
            table: BTreeMap::new(),
            snapshot: 0,
            round: None,
            brought_in_round: false,
            refill: None,
            settled_in_refill: BTreeSet::new(),
            brought: BTreeSet::new(),
            popped: BTreeSet::new(),
            in_flight: Vec::new(),
            handed_out: Vec::new(),
            committed: Vec::new(),
        }
    }

    fn row(&self, id: i64, (commit, size): (Commit, usize)) -> Entry {
        Entry {
            attempt: Attempt { delivery_id: DeliveryId(id), failed: 0 },
            message_id: Uuid::from_u128(commit.into()),
            lane: Priority::default().lane(),
            terms: None,
            read_at: Instant::now(),
            age_when_read: Duration::ZERO,
            ready_when_read: Duration::ZERO,
            expires_at: None,
            body: Some(Bytes::from(vec![b'x'; size])),
        }
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Insert(size) => {
                self.last_id += 1;
                self.uncommitted.push((self.last_id, size));
            }
            Op::Commit(which) => {
                if let Some((id, size)) = take(&mut self.uncommitted, which) {
                    self.last_commit += 1;
                    self.table.insert(id, (self.last_commit, size));
                }
            }
            Op::StartRound => self.start_round(),
            Op::Bring(rows) => self.bring(rows),
            Op::BeginRefill => self.begin_refill(),
            Op::ExecuteRefill => self.execute_refill(),
            Op::ApplyRefill => self.apply_refill(),
            Op::FailRefill => {
                if self.refill.take().is_some() {
                    self.settled_in_refill.clear();
                    self.lane.cancel_refill();
                }
            }
            Op::Pop => self.pop(),
            Op::HandOut(which) => self.handed_out.extend(take(&mut self.in_flight, which)),
            Op::CommitOutcome(which, again) => self.commit_outcome(which, again),
            Op::LearnOutcome(which) => {
                if let Some(id) = take(&mut self.committed, which)
                    && self.refill.is_some()
                {
                    self.settled_in_refill.insert(id);
                }
            }
            Op::Room(room) => self.room = room,
        }
    }

    fn start_round(&mut self) {
        if self.round.is_none() {
            let new = self.table.iter().filter(|(_, (commit, _))| *commit > self.snapshot);
            let rows = new.map(|(id, version)| self.row(*id, *version)).collect();
            self.round = Some((self.last_commit, rows));
        }
    }

    fn bring(&mut self, rows: usize) {
        let Some((snapshot, mut left)) = self.round.take() else { return };
        for entry in left.drain(..rows.min(left.len())).collect::<Vec<_>>() {
            self.brought.insert(version(&entry));
            self.brought_in_round = true;
            self.lane.arrive(entry, self.room);
            self.keeps_to_its_room();
        }
        if left.is_empty() {
            self.snapshot = snapshot;
            // Only lanes for which the round brought something hear of its end.
            if std::mem::take(&mut self.brought_in_round) {
                self.lane.end_round();
            }
        } else {
            self.round = Some((snapshot, left));
        }
    }

    fn begin_refill(&mut self) {
        if self.refill.is_none() && self.lane.wants_refill(self.room) {
            let (above, asked) = self.lane.begin_refill(self.room);
            assert!(asked > 0);
            self.refill = Some(Refilling { snapshot: self.snapshot, above: above.0, asked, rows: None });
        }
    }

    fn execute_refill(&mut self) {
        let Some(mut refill) = self.refill.take() else { return };
        if refill.rows.is_none() {
            let visible =
                self.table.range(refill.above + 1..).filter(|(_, (commit, _))| *commit <= refill.snapshot);
            refill.rows =
                Some(visible.take(refill.asked).map(|(id, version)| self.row(*id, *version)).collect());
        }
        self.refill = Some(refill);
    }

    fn apply_refill(&mut self) {
        let Some(Refilling { rows: Some(rows), asked, .. }) =
            self.refill.take_if(|refill| refill.rows.is_some())
        else {
            return;
        };
        let known = |entry: &Entry| {
            let id = &entry.attempt.delivery_id.0;
            if self.in_flight.contains(id) {
                KnownAs::Held
            } else if self.handed_out.contains(id)
                || self.committed.contains(id)
                || self.settled_in_refill.contains(id)
            {
                KnownAs::Settling
            } else {
                KnownAs::New
            }
        };
        self.lane.end_refill(rows, asked, self.room, known);
        self.settled_in_refill.clear();
        self.keeps_to_its_room();
    }

    fn pop(&mut self) {
        let Some(entry) = self.lane.pop() else { return };
        let (id, commit) = version(&entry);
        assert_eq!(
            self.table.get(&id).map(|row| row.0),
            Some(commit),
            "row {id} is not ready in this version"
        );
        assert!(self.popped.insert((id, commit)), "row {id} was popped twice");
        self.in_flight.push(id);
    }

    fn commit_outcome(&mut self, which: usize, again: bool) {
        let Some(id) = take(&mut self.handed_out, which) else { return };
        let Some((_, size)) = self.table.remove(&id) else { panic!("row {id} was settled twice") };
        if again {
            self.last_commit += 1;
            self.table.insert(id, (self.last_commit, size));
        }
        self.committed.push(id);
    }

    fn keeps_to_its_room(&self) {
        assert!(self.lane.len() <= self.room.entries, "{} entries", self.lane.len());
        assert!(self.lane.bytes() <= self.room.bytes || self.lane.len() == 1, "{} bytes", self.lane.bytes());
    }

    /// Rows that were read, by the tail or because its snapshot shows them, and not popped since.
    fn known_waiting(&self) -> impl Iterator<Item = i64> {
        let known = |id: i64, commit| commit <= self.snapshot || self.brought.contains(&(id, commit));
        self.table
            .iter()
            .filter(move |(id, (commit, _))| known(**id, *commit) && !self.popped.contains(&(**id, *commit)))
            .map(|(id, _)| *id)
    }

    fn the_front_is_the_oldest(&self) {
        match (self.lane.front(), self.known_waiting().next()) {
            (Some(front), Some(oldest)) => assert_eq!(front.0, oldest),
            (Some(front), None) => panic!("{front} is held and waits not"),
            (None, Some(oldest)) => assert!(self.lane.has_more(), "{oldest} waits unseen"),
            (None, None) => {}
        }
    }

    /// Ends the run: the rest is committed, brought, read, popped and acknowledged.
    fn drain(&mut self) {
        for _ in 0..10 * (self.last_id + 10) {
            let ops =
                [Op::Commit(0), Op::StartRound, Op::Bring(usize::MAX), Op::BeginRefill, Op::ExecuteRefill];
            let acks = [Op::HandOut(0), Op::CommitOutcome(0, false), Op::LearnOutcome(0)];
            for op in ops.into_iter().chain([Op::ApplyRefill, Op::Pop]).chain(acks) {
                self.step(op);
                self.the_front_is_the_oldest();
            }
        }
        assert_eq!(self.table.keys().collect::<Vec<_>>(), Vec::<&i64>::new(), "rows were lost");
        assert!(self.lane.is_empty() && !self.lane.has_more() && self.lane.bytes() == 0);
    }
}

fn version(entry: &Entry) -> (i64, Commit) {
    (entry.attempt.delivery_id.0, entry.message_id.as_u128() as Commit)
}

/// Fills a lane once from a table without an end; returns how many rows the lane asked for.
fn read_on(lane: &mut Lane) -> usize {
    let model = Model::new(ROOM);
    let (above, rows) = lane.begin_refill(ROOM);
    let read = (above.0 + 1..).take(rows).map(|id| model.row(id, (0, 100))).collect();
    lane.end_refill(read, rows, ROOM, |_| KnownAs::New);
    rows
}

fn take_some(lane: &mut Lane, n: usize) {
    for _ in 0..n {
        lane.pop().expect("it holds more");
    }
}

#[test]
fn who_takes_little_has_little_read_and_who_takes_all_soon_has_all() {
    let mut lane = Lane::unread();
    assert_eq!(read_on(&mut lane), REFILL_ROWS_FIRST);
    take_some(&mut lane, 31);
    assert!(!lane.wants_refill(ROOM), "33 are at hand for one who took 31");
    take_some(&mut lane, 1);
    assert!(lane.wants_refill(ROOM));
    assert_eq!(read_on(&mut lane), REFILL_ROWS_FIRST);

    let mut lane = Lane::unread();
    let mut asked = Vec::new();
    while asked.last() != Some(&REFILL_ROWS_MAX) {
        asked.push(read_on(&mut lane));
        let all = lane.len();
        take_some(&mut lane, all);
    }
    assert_eq!(asked, [64, 128, 384, 1_000]);
    read_on(&mut lane);
    assert!(lane.wants_refill(ROOM), "the next thousand is read while this one is given out");
}

/// A lane that has read so many rows, each of this cost in memory, while the table has more.
fn holding(room: Room, rows: i64, cost: usize) -> Lane {
    let (model, mut lane) = (Model::new(room), Lane::unread());
    lane.begin_refill(room);
    let read = (1..=rows).map(|id| model.row(id, (0, cost - ENTRY_BYTES))).collect();
    lane.end_refill(read, rows as usize, room, |_| KnownAs::New);
    assert_eq!((lane.len() as i64, lane.bytes()), (rows, rows as usize * cost));
    lane
}

#[test]
fn a_lane_reads_on_when_half_of_its_room_is_free_by_number_and_by_bytes() {
    let room = Room { entries: 8, bytes: 8_000, first_rows: REFILL_ROWS_FIRST };
    for cost in [1_000, 500] {
        let mut lane = holding(room, 8, cost);
        take_some(&mut lane, 3);
        assert!(!lane.wants_refill(room), "5 of 8 are here");
        take_some(&mut lane, 1);
        assert!(lane.wants_refill(room));
    }
    let mut lane = holding(room, 3, 2_000);
    assert!(!lane.wants_refill(room), "6,000 of 8,000 bytes are here");
    take_some(&mut lane, 1);
    assert!(lane.wants_refill(room));
}

#[test]
fn a_lane_that_was_cut_reads_on_though_nobody_has_taken_any() {
    let mut lane = holding(ROOM, 64, 1_000);
    lane.leave(DeliveryId(33));
    lane.end_round();
    assert!(lane.wants_refill(ROOM), "as many are here as half of the first refill");
}

#[test]
fn a_lane_asks_for_as_many_as_fit_by_the_size_of_those_that_came() {
    let room = Room { entries: 100, bytes: 50_000, first_rows: REFILL_ROWS_FIRST };
    assert_eq!(holding(room, 20, 1_000).begin_refill(room).1, 30);
}

#[test]
fn one_is_held_whatever_its_size() {
    let room = Room { entries: 100, bytes: 2_000, first_rows: REFILL_ROWS_FIRST };
    let model = Model::new(room);
    let mut lane = Lane::default();
    lane.arrive(model.row(1, (0, 3_000)), room);
    lane.arrive(model.row(2, (0, 1)), room);
    assert_eq!((lane.len(), lane.front(), lane.has_more()), (1, Some(DeliveryId(1)), true));
}

#[test]
fn a_lane_that_is_read_anew_within_a_round_waits_for_the_rounds_end() {
    let mut lane = Lane::unread_in(true);
    assert!(!lane.wants_refill(ROOM), "the round may have brought rows that no refill shows yet");
    lane.end_round();
    assert!(lane.wants_refill(ROOM));
    assert!(Lane::unread_in(false).wants_refill(ROOM));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_row_is_popped_once_oldest_first_however_commits_and_refills_interleave(
        entries in 1..=6_usize,
        ops in prop::collection::vec(op(), 0..200),
    ) {
        let mut model = Model::new(Room { entries, bytes: 1_000, first_rows: REFILL_ROWS_FIRST });
        for op in ops {
            model.step(op);
            model.the_front_is_the_oldest();
        }
        model.drain();
    }
}
