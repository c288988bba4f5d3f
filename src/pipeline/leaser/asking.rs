//! Asks for inboxes and gives inboxes back: all by one statement, and in smaller parts where one lease may be to blame.
//!
//! A lease that is refused by itself (somebody's trigger on `postbell.leases`, a lock on its row) waits apart and is asked
//! for again with each renewal, which goes on all the time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{Leaser, NAMED_MAX};
use crate::base::names::few;
use crate::pipeline::dispatch::LeaseRequest;
use crate::store::lease::{
    InboxAnswer, LEASE, LEASE_MARGIN, LeaseSum, PART_WAIT, RENEW_EVERY, acquire, release, want,
};
use crate::store::{Connection, StoreError};
use crate::watch::health::LeasesRefused;
use postbell_engine::inbox::Epoch;
use postbell_engine::inbox::event::{Event, Trouble};

/// The wait before asking again for an inbox whose owner is another broker that cannot be linked to.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(250);
/// The most inboxes in one statement, so that none takes long.
const PART_MAX: usize = 1_000;
/// How often one of the leases that were refused is tried again.
const REFUSED_EVERY: Duration = Duration::from_secs(1);
/// How long the answers may keep the next renewal waiting. A search for a lease goes on after that renewal.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// The least time between two log lines that leases are refused.
const SAY_EVERY: Duration = Duration::from_secs(10);

const _: () = assert!(
    RENEW_EVERY.as_millis() + ANSWER_MAX.as_millis() + 3 * PART_WAIT.as_millis() + LEASE_MARGIN.as_millis()
        < LEASE.as_millis()
);

/// A part of what is asked, for one statement.
enum Part {
    GiveBack(Vec<(Arc<str>, Epoch)>),
    Acquire(Vec<Arc<str>>),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::GiveBack(inboxes) => inboxes.len(),
            Self::Acquire(inboxes) => inboxes.len(),
        }
    }
}

/// How many inboxes one statement is for: half as many after one that was refused, and twice as many after another.
struct PartSize(usize);

/// Requests that are not answered yet.
pub(super) struct Asked {
    /// Sorted, since two brokers that lock the same rows in different orders would deadlock.
    acquire: BTreeMap<Arc<str>, Option<Trouble>>,
    release: HashSet<Arc<str>>,
    /// The epochs of the inboxes that this broker has, as the answers said.
    epochs: HashMap<Arc<str>, Epoch>,
    /// Inboxes whose owner is not known: asked for again only every `ASK_AGAIN`.
    unknown_owner: HashSet<Arc<str>>,
    refusals: Refusals,
    size: PartSize,
    /// The end of this broker's lease, if the last renewal was answered.
    pub(super) until: Option<Instant>,
}

/// Inboxes whose lease the table refused.
struct Refusals {
    inboxes: BTreeMap<Arc<str>, Option<Trouble>>,
    why: String,
    /// When one of them is tried again.
    due: Instant,
    said: Option<Instant>,
}

impl Asked {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            acquire: BTreeMap::new(),
            release: HashSet::new(),
            epochs: HashMap::new(),
            unknown_owner: HashSet::new(),
            refusals: Refusals { inboxes: BTreeMap::new(), why: String::new(), due: now, said: None },
            size: PartSize(PART_MAX),
            until: None,
        }
    }

    pub(super) fn held(&self) -> LeaseSum {
        LeaseSum::of(self.epochs.iter().map(|(inbox, epoch)| (&**inbox, *epoch)))
    }

    pub(super) fn note(&mut self, request: LeaseRequest) {
        match request {
            // The inbox was asked for a moment ago, and is asked for again soon.
            LeaseRequest::Acquire(inbox, _) if self.waits(&inbox) => {}
            LeaseRequest::Acquire(inbox, trouble) => {
                self.acquire.insert(inbox, trouble);
            }
            LeaseRequest::GiveBack(inbox) => {
                self.refusals.inboxes.remove(&inbox);
                self.release.insert(inbox);
            }
        }
    }

    fn waits(&self, inbox: &Arc<str>) -> bool {
        self.unknown_owner.contains(inbox) || self.refusals.inboxes.contains_key(inbox)
    }

    pub(super) fn has_unknown_owners(&self) -> bool {
        !self.unknown_owner.is_empty()
    }

    pub(super) fn ask_again(&mut self) {
        self.acquire.extend(self.unknown_owner.drain().map(|inbox| (inbox, None)));
    }

    /// The inboxes that this broker has and the table says it has not; and those the other way round.
    pub(super) fn compared_with(
        &self,
        table: &HashMap<Arc<str>, Epoch>,
    ) -> (HashSet<Arc<str>>, Vec<(Arc<str>, Epoch)>) {
        let is_lost = |(inbox, epoch): &(&Arc<str>, &Epoch)| {
            table.get(*inbox) != Some(*epoch) && !self.release.contains(*inbox)
        };
        let lost = self.epochs.iter().filter(is_lost).map(|(inbox, _)| inbox.clone()).collect();
        // An answer about an inbox that is being asked for may have been lost with a connection.
        let is_asked =
            |inbox: &Arc<str>| self.acquire.contains_key(inbox) || self.refusals.inboxes.contains_key(inbox);
        let is_unknown = |(inbox, epoch): &(&Arc<str>, &Epoch)| {
            self.epochs.get(*inbox) != Some(*epoch) && !is_asked(inbox)
        };
        let unknown = table.iter().filter(is_unknown).map(|(inbox, epoch)| (inbox.clone(), *epoch));
        (lost, unknown.collect())
    }

    pub(super) fn forget(&mut self, lost: &HashSet<Arc<str>>) {
        self.epochs.retain(|inbox, _| !lost.contains(inbox));
    }

    /// The part that the next statement is for. One that was refused by itself is tried by itself, so that nobody waits for it.
    fn next_part(&mut self, now: Instant) -> Option<Part> {
        let PartSize(size) = self.size;
        if !self.release.is_empty() {
            // An inbox without an epoch was never taken, so there is nothing to give back.
            let epoch = |inbox: &Arc<str>| self.epochs.get(inbox).copied().unwrap_or(Epoch::NEVER);
            let some = self.release.iter().take(size);
            return Some(Part::GiveBack(some.map(|inbox| (inbox.clone(), epoch(inbox))).collect()));
        }
        if self.acquire.is_empty() && self.refusals.due <= now {
            self.refusals.due = now + REFUSED_EVERY;
            self.acquire.extend(self.refusals.inboxes.pop_first());
        }
        let some: Vec<_> = self.acquire.keys().take(size).cloned().collect();
        (!some.is_empty()).then_some(Part::Acquire(some))
    }

    /// A statement was carried out. If one that was refused before is taken now, so may all others be.
    fn answered(&mut self) {
        self.size.0 = (self.size.0 * 2).min(PART_MAX);
    }

    /// A statement was refused. An inbox that was alone in it waits apart, or counts as given back: the next comparison
    /// finds its lease. Returns the inbox that counts as given back.
    fn refused(&mut self, now: Instant, part: Part, why: &StoreError) -> Option<Arc<str>> {
        self.size.0 = (part.len() / 2).max(1);
        if part.len() > 1 {
            return None;
        }
        match part {
            Part::GiveBack(inboxes) => {
                let (inbox, _) = inboxes.into_iter().next()?;
                self.release.remove(&inbox);
                self.epochs.remove(&inbox);
                Some(inbox)
            }
            Part::Acquire(inboxes) => {
                let inbox = inboxes.into_iter().next()?;
                let trouble = self.acquire.remove(&inbox).flatten();
                self.refusals.inboxes.insert(inbox, trouble);
                self.refusals.why = why.to_string();
                self.refusals.due = now + REFUSED_EVERY;
                None
            }
        }
    }
}

impl Leaser {
    /// Answers what was asked, as long as no renewal is late for it.
    pub(super) async fn answer(&self, connection: &Connection, asked: &mut Asked) -> Result<(), StoreError> {
        let until = Instant::now() + ANSWER_MAX;
        let refused_before = asked.refusals.inboxes.len();
        while Instant::now() < until {
            let Some(part) = asked.next_part(Instant::now()) else { break };
            let done = match &part {
                Part::GiveBack(inboxes) => self.give_back(connection, asked, inboxes).await,
                Part::Acquire(inboxes) => self.acquire(connection, asked, inboxes).await,
            };
            let Err(e) = done else {
                asked.answered();
                continue;
            };
            if !e.may_be_of_a_row() {
                return Err(e);
            }
            if let Some(inbox) = asked.refused(Instant::now(), part, &e) {
                tracing::warn!(%inbox, error = %e, "a lease could not be given back; it is tried again");
                self.tell(Event::GivenBack(inbox)).await;
            }
            // The search goes on with another connection.
            if connection.is_closed() {
                return Err(e);
            }
        }
        if asked.refusals.inboxes.len() != refused_before {
            self.tell_of_refusals(asked);
        }
        Ok(())
    }

    /// Tells an operator of leases that are refused, or that none are.
    pub(super) fn tell_of_refusals(&self, asked: &mut Asked) {
        let Refusals { inboxes, why, said, .. } = &mut asked.refusals;
        if inboxes.is_empty() {
            self.health.set_leases_refused(None);
            return;
        }
        let named = few(inboxes.keys(), NAMED_MAX);
        if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!(
                inboxes = named,
                why,
                "leases are refused; these inboxes wait, and all others are served"
            );
        }
        let is_most = inboxes.len() >= asked.epochs.len();
        let refused = LeasesRefused { inboxes: named, why: why.clone(), is_most };
        self.health.set_leases_refused(Some(refused));
    }

    async fn give_back(
        &self,
        connection: &Connection,
        asked: &mut Asked,
        inboxes: &[(Arc<str>, Epoch)],
    ) -> Result<(), StoreError> {
        release(connection, self.broker.id, inboxes).await?;
        for (inbox, _) in inboxes {
            asked.release.remove(inbox);
            asked.epochs.remove(inbox);
            self.tell(Event::GivenBack(inbox.clone())).await;
        }
        Ok(())
    }

    async fn acquire(
        &self,
        connection: &Connection,
        asked: &mut Asked,
        inboxes: &[Arc<str>],
    ) -> Result<(), StoreError> {
        let troubles = inboxes.iter().filter_map(|inbox| asked.acquire.get(inbox)?.as_ref());
        let refusing = troubles.filter(|t| t.refuses).map(|t| t.owner).collect();
        let answers = self.ask(connection, inboxes, refusing).await?;
        let is_theirs = |(inbox, answer): &(Arc<str>, InboxAnswer)| {
            let has_trouble = asked.acquire.get(inbox).is_some_and(Option::is_some);
            let is_unreachable = match answer {
                InboxAnswer::Ours(_) => false,
                InboxAnswer::Theirs(owner) => has_trouble || owner.is_none(),
            };
            is_unreachable.then(|| inbox.clone())
        };
        let unreachable: Vec<_> = answers.iter().filter_map(is_theirs).collect();
        if !unreachable.is_empty() {
            want(connection, self.broker.id, &unreachable).await?;
        }
        for (inbox, answer) in answers {
            asked.acquire.remove(&inbox);
            self.tell(match answer {
                InboxAnswer::Ours(epoch) => {
                    asked.epochs.insert(inbox.clone(), epoch);
                    Event::Acquired { inbox, epoch }
                }
                InboxAnswer::Theirs(owner) => {
                    asked.epochs.remove(&inbox);
                    tracing::info!(%inbox, owner = owner.as_ref().map(|o| &*o.address), "another broker owns this inbox");
                    if owner.is_none() {
                        asked.unknown_owner.insert(inbox.clone());
                    }
                    Event::NotAcquired { inbox, owner }
                }
            })
            .await;
        }
        Ok(())
    }

    /// Asks for inboxes. An owner with this broker's own address is its predecessor, since a connection to that
    /// address reaches this broker; so that owner counts as one that refuses connections. An owner that lives all the
    /// same (one is frozen, or two brokers advertise one address) is reported as unknown, because nobody can link to
    /// that owner.
    async fn ask(
        &self,
        connection: &Connection,
        inboxes: &[Arc<str>],
        mut refusing: Vec<Uuid>,
    ) -> Result<Vec<(Arc<str>, InboxAnswer)>, StoreError> {
        let predecessor = |answer: &InboxAnswer| match answer {
            InboxAnswer::Theirs(Some(owner)) if *owner.address == *self.broker.address => Some(owner.broker),
            _ => None,
        };
        refusing.sort_unstable();
        refusing.dedup();
        let mut answers = acquire(connection, self.broker.id, inboxes, &refusing).await?;
        let mut predecessors: Vec<_> = answers.iter().filter_map(|(_, answer)| predecessor(answer)).collect();
        predecessors.sort_unstable();
        predecessors.dedup();
        if !predecessors.is_empty() {
            refusing.extend(predecessors);
            answers = acquire(connection, self.broker.id, inboxes, &refusing).await?;
        }
        for (_, answer) in &mut answers {
            if predecessor(answer).is_some() {
                *answer = InboxAnswer::Theirs(None);
            }
        }
        Ok(answers)
    }
}
