//! Asks the table for inboxes and gives inboxes back, in parts, while the renewal goes on.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::asking::{Asked, Part, Refusals};
use super::{Leaser, NAMED_MAX};
use crate::base::names::few;
use crate::store::lease::{InboxAnswer, LEASE, LEASE_MARGIN, PART_WAIT, RENEW_EVERY, acquire, release, want};
use crate::store::{Connection, StoreError};
use crate::watch::health::LeasesRefused;
use postbell_engine::inbox::Epoch;
use postbell_engine::inbox::event::Event;

/// How long the answers may keep the next renewal waiting. A search for a lease goes on after that renewal.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// The least time between two log lines that leases are refused.
const SAY_EVERY: Duration = Duration::from_secs(10);

const _: () = assert!(
    RENEW_EVERY.as_millis() + ANSWER_MAX.as_millis() + 3 * PART_WAIT.as_millis() + LEASE_MARGIN.as_millis()
        < LEASE.as_millis()
);

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
