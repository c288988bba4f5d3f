//! The table as the dispatcher's tasks see it: commits in any order, snapshots, leases, and another broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use crate::inbox::dispatcher::IN_COMPANY;
use crate::inbox::event::{KeyRows, LaneRows, Outcome, Refill, Settle};
use crate::inbox::tests::support::{ATTEMPTS_MAX, take};
use crate::inbox::{Attempt, DeliveryId, Entry, Terms, Unfit};
use postbell_client::message::{Priority, REPLIES};

/// The number of a commit. A snapshot is the number of the last commit that it shows.
pub(super) type Commit = u64;

/// A body's length is a multiple of this and its delivery's id, so that a push says what it is.
const BODY_UNIT: usize = 100_000;
static BODIES: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; 16 * BODY_UNIT]));

/// How many rows a refill looks at in a lane, at most.
const SCAN_MAX: usize = 5;

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
    /// The last attempt ended in company.
    in_company: bool,
    /// Whether it was a reply, and is in the lane of its priority now.
    relaned: bool,
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
    /// Deliveries that another broker changed, or that were written twice.
    disturbed: BTreeSet<i64>,
}

impl Database {
    /// A producer takes an id, and commits later.
    pub(super) fn insert(&mut self, inbox: Arc<str>, priority: i64, units: usize, terms: usize) {
        self.last_id += 1;
        let priority = Priority::new(priority).expect("1 to 10");
        let row = Row {
            inbox,
            priority,
            units,
            terms,
            attempt: 0,
            in_company: false,
            relaned: false,
            state: State::Ready,
            commit: 0,
        };
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

    /// The rows that a round of the tail reads.
    pub(super) fn since(&self, snapshot: Commit, now: Instant) -> Vec<(Arc<str>, Entry)> {
        let new = self.rows.iter().filter(|(_, row)| {
            row.state == State::Ready && row.commit > snapshot && self.owned.contains(&row.inbox)
        });
        new.map(|(id, row)| (row.inbox.clone(), left_if(id % 5 == 0, entry(*id, row, now)))).collect()
    }

    /// The rows that a refill reads: by lane, without the keys that it leaves out, and by key.
    pub(super) fn read(&self, refill: &Refill, now: Instant) -> super::world::Rows {
        let snapshot: Commit = refill.snapshot.0.parse().expect("a number");
        let visible = |above: DeliveryId| {
            self.rows.range(above.0 + 1..).filter(move |(_, row)| {
                row.inbox == refill.inbox && row.state == State::Ready && row.commit <= snapshot
            })
        };
        // A turn gets on by one at least.
        let read =
            |(n, (id, row)): (usize, (&i64, &Row))| left_if(n > 0 && id % 7 == 0, entry(*id, row, now));
        let is_passed =
            |row: &Row| row.lane() != REPLIES && row.key().is_some_and(|key| refill.passed.contains(&key));
        let lane = |lane: usize, above: DeliveryId, asked: usize| {
            let scanned: Vec<_> =
                visible(above).filter(|(_, row)| row.lane() == lane).take(SCAN_MAX).collect();
            let is_cut = scanned.len() == SCAN_MAX;
            let last = scanned.last().map(|(id, _)| **id);
            let wanted =
                scanned.into_iter().filter(|(id, row)| !is_passed(row) || is_cut && Some(**id) == last);
            let rows: Vec<Entry> = wanted.take(asked).enumerate().map(read).collect();
            let asked = if is_cut { asked.min(rows.len()) } else { asked };
            LaneRows { lane, asked, rows }
        };
        let key = |key: &Arc<str>, above: DeliveryId, asked: usize| -> KeyRows {
            let its =
                visible(above).filter(|(_, row)| row.key().as_ref() == Some(key) && row.lane() != REPLIES);
            KeyRows { key: key.clone(), asked, rows: its.take(asked).enumerate().map(read).collect() }
        };
        let lanes = refill.lanes.iter().map(|l| lane(l.lane, l.above, l.rows)).collect();
        (lanes, refill.keys.iter().map(|k| key(&k.key, k.above, k.rows)).collect())
    }

    /// Writes an outcome where row and attempt match.
    pub(super) fn settle(&mut self, settle: &Settle) {
        let commit = self.next_commit();
        let id = settle.attempt.delivery_id.0;
        let row = self.rows.get_mut(&id);
        let Some(row) = row.filter(|row| row.attempt == settle.attempt.failed && row.state == State::Ready)
        else {
            assert!(self.disturbed.contains(&id), "{settle:?} changed nothing");
            return;
        };
        match &settle.outcome {
            Outcome::Ack { .. } | Outcome::Expired => {
                self.rows.remove(&id);
            }
            Outcome::Release { delay } | Outcome::Unseen { delay } => row.again(0, *delay, commit),
            Outcome::Fail { delay, reason, .. } => {
                row.in_company = reason.starts_with(IN_COMPANY);
                row.again(1, *delay, commit)
            }
            Outcome::Spare { .. } => {
                row.in_company = true;
                row.again(0, Duration::ZERO, commit)
            }
            // Written a second time.
            Outcome::Relane { .. } if row.relaned => assert!(self.disturbed.contains(&id)),
            Outcome::Relane { lane } => {
                assert_eq!((row.lane(), *lane), (REPLIES, row.priority.lane()));
                row.relaned = true;
                row.commit = commit;
            }
            Outcome::Dead { .. } => row.state = State::Dead,
        }
    }

    /// Writes an outcome that was committed before.
    pub(super) fn settle_again(&mut self, settle: &Settle) {
        self.disturbed.insert(settle.attempt.delivery_id.0);
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

    /// Somebody deletes all leases of this broker. Returns the inboxes.
    pub(super) fn lose_all(&mut self, taken: bool) -> Vec<Arc<str>> {
        let lost: Vec<_> = std::mem::take(&mut self.owned).into_iter().collect();
        if taken {
            self.others.extend(lost.iter().cloned());
        }
        lost
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
        // A reply waits for none, while it is one.
        (row.lane() != REPLIES).then_some(())?;
        Some((&row.inbox, row.key()?))
    }

    /// Whether a delivery may be pushed apart only.
    pub(super) fn must_be_apart(&self, id: i64) -> bool {
        self.rows.get(&id).is_some_and(|row| row.in_company && row.attempt + 1 >= ATTEMPTS_MAX)
    }

    /// The process that a delivery is a reply to.
    pub(super) fn asker_of(&self, id: i64) -> Option<Arc<str>> {
        self.rows.get(&id)?.instance()
    }

    pub(super) fn inbox_of(&self, id: i64) -> Option<&Arc<str>> {
        self.rows.get(&id).map(|row| &row.inbox)
    }

    /// Whether somebody else had a hand in it.
    pub(super) fn is_disturbed(&self, id: i64) -> bool {
        self.disturbed.contains(&id)
    }

    /// Deliveries that are neither acknowledged nor dead.
    pub(super) fn undelivered(&self) -> Vec<i64> {
        let waiting = self.rows.iter().filter(|(_, row)| row.state != State::Dead).map(|(id, _)| *id);
        waiting.chain(self.uncommitted.iter().map(|(id, _)| *id)).collect()
    }
}

impl Row {
    /// 1 and 2: replies to the instances of these numbers. 3 and 4: two keys. 5: a reply with a key.
    fn terms(&self) -> Option<Box<Terms>> {
        let (priority, in_company) = (self.priority, self.in_company);
        let terms = Terms {
            instance: self.instance(),
            ordering_key: self.key(),
            priority,
            in_company,
            trace: None,
            unfit: None,
        };
        (terms.instance.is_some() || terms.ordering_key.is_some() || in_company).then(|| Box::new(terms))
    }

    fn instance(&self) -> Option<Arc<str>> {
        match self.terms {
            1 | 5 => Some("1".into()),
            2 => Some("2".into()),
            _ => None,
        }
    }

    fn key(&self) -> Option<Arc<str>> {
        match self.terms {
            3 | 5 => Some("3".into()),
            n if n > 3 => Some(n.to_string().into()),
            _ => None,
        }
    }

    fn lane(&self) -> usize {
        if self.instance().is_some() && !self.relaned { REPLIES } else { self.priority.lane() }
    }

    fn again(&mut self, failed: u32, delay: Duration, commit: Commit) {
        self.attempt += failed;
        self.state = if delay.is_zero() { State::Ready } else { State::Scheduled };
        self.commit = commit;
    }
}

/// As one that is dear to read. Not with a key: what failed is given back to its key by the tail alone.
fn left_if(left: bool, mut entry: Entry) -> Entry {
    if left {
        entry.body = None;
        entry.terms.get_or_insert_default().unfit = Some(Unfit::Left);
    }
    entry
}

fn entry(id: i64, row: &Row, now: Instant) -> Entry {
    Entry {
        attempt: Attempt { delivery_id: DeliveryId(id), failed: row.attempt },
        message_id: Uuid::from_u128(id as u128),
        lane: row.lane(),
        terms: row.terms(),
        read_at: now,
        age_when_read: Duration::ZERO,
        ready_when_read: Duration::ZERO,
        expires_at: None,
        body: Some(BODIES.slice(..row.units * BODY_UNIT + id as usize)),
    }
}
