//! The table as the dispatcher's tasks see it: commits in any order, snapshots, leases, and another broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use crate::inbox::event::{Outcome, Refill, Settle};
use crate::inbox::tests::support::{ATTEMPTS_MAX, take};
use crate::inbox::{Entry, Terms, Unfit};
use crate::message::{Priority, REPLIES};

/// The number of a commit. A snapshot is the number of the last commit that it shows.
pub(super) type Commit = u64;

/// A body's length is a multiple of this and its delivery's id, so that a push says what it is.
const BODY_UNIT: usize = 100_000;
static BODIES: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; 16 * BODY_UNIT]));

/// The delivery that has this body.
pub(super) fn id_of(body: &Bytes) -> i64 {
    (body.len() % BODY_UNIT) as i64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Scheduled,
    Dead,
}

#[derive(Clone, Debug)]
struct Row {
    inbox: Arc<str>,
    priority: Priority,
    units: usize,
    terms: usize,
    attempt: u32,
    state: State,
    /// The commit that made it ready.
    commit: Commit,
}

#[derive(Default)]
pub(super) struct Database {
    rows: BTreeMap<i64, Row>,
    uncommitted: Vec<(i64, Row)>,
    last_id: i64,
    last_commit: Commit,
    owned: BTreeSet<Arc<str>>,
    /// Owned by another broker.
    others: BTreeSet<Arc<str>>,
    epochs: BTreeMap<Arc<str>, i64>,
    /// What another broker did something to, or was written twice.
    disturbed: BTreeSet<i64>,
}

impl Database {
    /// A producer takes an id, and commits later.
    pub(super) fn insert(&mut self, inbox: Arc<str>, priority: i64, units: usize, terms: usize) {
        self.last_id += 1;
        let priority = Priority::new(priority).expect("1 to 10");
        let row = Row { inbox, priority, units, terms, attempt: 0, state: State::Ready, commit: 0 };
        self.uncommitted.push((self.last_id, row));
    }

    pub(super) fn commit(&mut self, which: usize) {
        if let Some((id, row)) = take(&mut self.uncommitted, which) {
            let commit = self.next_commit();
            self.rows.insert(id, Row { commit, ..row });
        }
    }

    fn next_commit(&mut self) -> Commit {
        self.last_commit += 1;
        self.last_commit
    }

    pub(super) fn last_commit(&self) -> Commit {
        self.last_commit
    }

    /// What a round of the tail reads.
    pub(super) fn since(&self, snapshot: Commit, now: Instant) -> Vec<(Arc<str>, Entry)> {
        let new = self.rows.iter().filter(|(_, row)| {
            row.state == State::Ready && row.commit > snapshot && self.owned.contains(&row.inbox)
        });
        new.map(|(id, row)| (row.inbox.clone(), left_if(id % 5 == 0, entry(*id, row, now)))).collect()
    }

    /// What a refill reads.
    pub(super) fn read(&self, refill: &Refill, now: Instant) -> Vec<(usize, usize, Vec<Entry>)> {
        let snapshot: Commit = refill.snapshot.parse().expect("a number");
        let lane = |lane: usize, above: i64, asked: usize| {
            let visible = self.rows.range(above + 1..).filter(|(_, row)| {
                row.inbox == refill.inbox
                    && row.lane() == lane
                    && row.state == State::Ready
                    && row.commit <= snapshot
            });
            // A turn gets on by one at least.
            let read =
                |(n, (id, row)): (usize, (&i64, &Row))| left_if(n > 0 && id % 7 == 0, entry(*id, row, now));
            let rows = visible.take(asked).enumerate().map(read).collect();
            (lane, asked, rows)
        };
        refill.lanes.iter().map(|l| lane(l.lane, l.above, l.rows)).collect()
    }

    /// Writes an outcome where row and attempt match.
    pub(super) fn settle(&mut self, settle: &Settle) {
        let commit = self.next_commit();
        let id = settle.delivery_id;
        let row = self.rows.get_mut(&id);
        let Some(row) = row.filter(|row| row.attempt == settle.attempt && row.state == State::Ready) else {
            assert!(self.disturbed.contains(&id), "{settle:?} changed nothing");
            return;
        };
        match &settle.outcome {
            Outcome::Ack { .. } | Outcome::Expired => {
                self.rows.remove(&id);
            }
            Outcome::Release { delay } => row.again(0, *delay, commit),
            Outcome::Fail { delay, .. } => row.again(1, *delay, commit),
            Outcome::Dead { .. } => row.state = State::Dead,
        }
    }

    /// Writes an outcome that was committed before.
    pub(super) fn settle_again(&mut self, settle: &Settle) {
        self.disturbed.insert(settle.delivery_id);
        self.settle(settle);
    }

    /// A scheduled one is due.
    pub(super) fn promote(&mut self) {
        let commit = self.next_commit();
        if let Some(row) = self.rows.values_mut().find(|row| row.state == State::Scheduled) {
            (row.state, row.commit) = (State::Ready, commit);
        }
    }

    pub(super) fn acquire(&mut self, inbox: &Arc<str>) -> Option<i64> {
        if self.others.contains(inbox) {
            return None;
        }
        if self.owned.insert(inbox.clone()) {
            *self.epochs.entry(inbox.clone()).or_default() += 1;
        }
        self.epochs.get(inbox).copied()
    }

    pub(super) fn release(&mut self, inbox: &Arc<str>) {
        self.owned.remove(inbox);
    }

    /// Another broker takes everything, since the lease has lapsed.
    pub(super) fn take_all(&mut self) {
        for inbox in std::mem::take(&mut self.owned) {
            *self.epochs.entry(inbox.clone()).or_default() += 1;
            self.others.insert(inbox);
        }
    }

    /// The other broker delivers one of what it has, and gives everything back.
    pub(super) fn others_leave(&mut self, which: usize) {
        let others = std::mem::take(&mut self.others);
        let commit = self.next_commit();
        let theirs = |row: &Row| others.contains(&row.inbox) && row.state == State::Ready;
        let ids: Vec<i64> = self.rows.iter().filter(|(_, row)| theirs(row)).map(|(id, _)| *id).collect();
        let Some(id) = ids.get(which % ids.len().max(1)) else { return };
        self.disturbed.insert(*id);
        let Some(row) = self.rows.get_mut(id) else { return };
        match which % 3 {
            0 => row.again(0, Duration::ZERO, commit),
            1 if row.attempt + 1 < ATTEMPTS_MAX => row.again(1, Duration::ZERO, commit),
            _ => {
                self.rows.remove(id);
            }
        }
    }

    pub(super) fn owns(&self, inbox: &Arc<str>) -> bool {
        self.owned.contains(inbox)
    }

    pub(super) fn has_leases(&self) -> bool {
        !self.owned.is_empty()
    }

    /// The inbox and the key of a delivery that has one.
    pub(super) fn key_of(&self, id: i64) -> Option<(&Arc<str>, Arc<str>)> {
        let row = self.rows.get(&id)?;
        Some((&row.inbox, row.terms()?.ordering_key?))
    }

    /// The process that a delivery is a reply to.
    pub(super) fn asker_of(&self, id: i64) -> Option<Arc<str>> {
        self.rows.get(&id)?.terms()?.instance
    }

    pub(super) fn inbox_of(&self, id: i64) -> Option<&Arc<str>> {
        self.rows.get(&id).map(|row| &row.inbox)
    }

    /// Whether somebody else had a hand in it.
    pub(super) fn is_disturbed(&self, id: i64) -> bool {
        self.disturbed.contains(&id)
    }

    /// What is neither acknowledged nor dead.
    pub(super) fn undelivered(&self) -> Vec<i64> {
        let waiting = self.rows.iter().filter(|(_, row)| row.state != State::Dead).map(|(id, _)| *id);
        waiting.chain(self.uncommitted.iter().map(|(id, _)| *id)).collect()
    }
}

impl Row {
    /// 1 and 2: replies to the instances of these numbers. 3 and 4: two keys.
    fn terms(&self) -> Option<Box<Terms>> {
        let name = || Some(Arc::from(self.terms.to_string()));
        match self.terms {
            0 => None,
            1 | 2 => Some(Box::new(Terms { instance: name(), ..Terms::default() })),
            _ => Some(Box::new(Terms { ordering_key: name(), ..Terms::default() })),
        }
    }

    fn lane(&self) -> usize {
        if matches!(self.terms, 1 | 2) { REPLIES } else { self.priority.lane() }
    }

    fn again(&mut self, failed: u32, delay: Duration, commit: Commit) {
        self.attempt += failed;
        self.state = if delay.is_zero() { State::Ready } else { State::Scheduled };
        self.commit = commit;
    }
}

/// As one that is dear to read. Not with a key: what failed is given back to its key by the tail alone.
fn left_if(left: bool, mut entry: Entry) -> Entry {
    if left && entry.ordering_key().is_none() {
        entry.body = None;
        entry.terms.get_or_insert_default().unfit = Some(Unfit::Left);
    }
    entry
}

fn entry(id: i64, row: &Row, now: Instant) -> Entry {
    Entry {
        delivery_id: id,
        message_id: Uuid::from_u128(id as u128),
        lane: row.lane(),
        terms: row.terms(),
        attempt: row.attempt,
        read_at: now,
        age_when_read: Duration::ZERO,
        ready_when_read: Duration::ZERO,
        expires_at: None,
        body: Some(BODIES.slice(..row.units * BODY_UNIT + id as usize)),
    }
}
