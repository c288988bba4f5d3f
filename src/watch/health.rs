//! Whether the broker works, for those who route traffic to it or are paged for it.
//!
//! Pure: it is told what happened, is asked with a `now`, and knows neither a socket nor the database. The lock is
//! held for short sections, never across an await.

mod duty;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use serde::Serialize;

use duty::Duties;

pub(crate) use duty::{Duty, Standstill};

/// How often a canary is sent.
pub(crate) const BELL_CANARY_MS: u64 = 1_000;
/// How long after the last canary the bell counts as broken: two canaries may be late, a third is no accident.
pub(crate) const BELL_STALE_MS: u64 = 3_000;

const _: () = assert!(BELL_STALE_MS > 2 * BELL_CANARY_MS);

/// The knowledge of the broker's condition; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<HealthFacts>>);

/// Everything starts as not proven, so a broker that is still starting is not ready.
#[derive(Debug, Default)]
struct HealthFacts {
    database_up: bool,
    leases_refused: Option<LeasesRefused>,
    listening: bool,
    bell_seen: Option<Instant>,
    crowded: bool,
    draining: bool,
    /// The inboxes that get nothing, since too many of their outcomes wait to be written.
    held_back: Option<HeldBack>,
    /// How many outcomes can be written nowhere, and a sentence about them.
    hurt: Option<(usize, String)>,
    /// Sentences about single rows that a duty leaves out, while all others go on.
    left_out: BTreeMap<Duty, String>,
    duties: Duties,
}

impl HealthFacts {
    fn bell_fresh(&self, now: Instant) -> bool {
        // Saturating, because `now` may have been read just before the canary came back.
        let stale = Duration::from_millis(BELL_STALE_MS);
        self.listening && self.bell_seen.is_some_and(|seen| now.saturating_duration_since(seen) < stale)
    }
}

/// Inboxes to which nothing is pushed, since too many of their outcomes wait to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// The names of some, as a sentence has them.
    pub inboxes: String,
    /// How many outcomes wait to be written, those of all other inboxes as well.
    pub outcomes: usize,
}

/// Inboxes whose leases the database refuses to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeasesRefused {
    /// The names of some, as a sentence has them.
    pub inboxes: String,
    /// A sentence without its full stop.
    pub why: String,
    /// Whether they are most of the inboxes that this broker has or asks for.
    pub is_most: bool,
}

/// One thing that must hold for the broker to be ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// `database`, `bell`, `work` or `draining`.
    pub name: &'static str,
    /// Whether it holds.
    pub ok: bool,
    /// The state and its consequence, as a sentence for a person.
    pub message: Cow<'static, str>,
}

/// The answer to "may traffic go here?".
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether every condition holds.
    pub ready: bool,
    /// Each condition, whether it holds or not.
    pub conditions: [Condition; 4],
}

impl Readiness {
    /// The sentences of the conditions that do not hold; empty when ready.
    pub fn reasons(&self) -> Vec<&str> {
        self.conditions.iter().filter(|c| !c.ok).map(|c| &*c.message).collect()
    }
}

impl Health {
    /// A broker of which nothing is known yet, so that it is not ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether the last statement reached the database.
    pub fn set_database_up(&self, up: bool) {
        self.known().database_up = up;
    }

    /// Sets which leases the database, which answers, refuses to write.
    pub fn set_leases_refused(&self, refused: Option<LeasesRefused>) {
        self.known().leases_refused = refused;
    }

    /// Sets whether the LISTEN connection is up and its LISTEN has committed. If the connection is lost, the bell is
    /// stale at once; a new connection is not trusted before its first canary.
    pub fn set_listening(&self, listening: bool) {
        let mut known = self.known();
        if known.listening != listening {
            known.listening = listening;
            known.bell_seen = None;
        }
    }

    /// Sets whether the server's queue of notifications fills up. The bell is then off on purpose, and no canary is
    /// needed.
    pub fn set_crowded(&self, crowded: bool) {
        let mut known = self.known();
        known.crowded = crowded;
        known.bell_seen = known.bell_seen.filter(|_| crowded);
    }

    /// Notes that a canary came back.
    pub fn bell_seen(&self, now: Instant) {
        self.known().bell_seen = Some(now);
    }

    /// Whether notifications arrive, as far as is known.
    pub fn bell_fresh(&self, now: Instant) -> bool {
        self.known().bell_fresh(now)
    }

    /// Sets whether the broker is stopping: it finishes its deliveries in flight and takes no new session.
    pub fn set_draining(&self, draining: bool) {
        self.known().draining = draining;
    }

    /// Notes that a duty has something to do, if it had nothing before.
    pub fn began(&self, duty: Duty, now: Instant) {
        self.known().duties.began(duty, now);
    }

    /// Notes that a duty has done all that it had to do.
    pub fn succeeded(&self, duty: Duty) {
        self.known().duties.succeeded(duty);
    }

    /// Notes that a try failed. `reason` is a sentence without its full stop, and names no data.
    pub fn failed(&self, duty: Duty, reason: impl Into<String>) {
        self.known().duties.failed(duty, reason.into());
    }

    /// Sets which inboxes get nothing, since too many of their outcomes wait to be written.
    pub fn set_held_back(&self, held_back: Option<HeldBack>) {
        self.known().held_back = held_back;
    }

    /// Sets a sentence about rows that a duty leaves out. All others go on, so traffic may come.
    pub fn set_left_out(&self, duty: Duty, sentence: Option<String>) {
        let left_out = &mut self.known().left_out;
        match sentence {
            Some(sentence) => _ = left_out.insert(duty, sentence),
            None => _ = left_out.remove(&duty),
        }
    }

    /// Sets how many outcomes can be written nowhere, and a sentence about them. All others are written, so traffic may
    /// come.
    pub fn set_hurt(&self, hurt: Option<(usize, String)>) {
        self.known().hurt = hurt;
    }

    /// How many outcomes can be written nowhere.
    pub fn hurt(&self) -> usize {
        self.known().hurt.as_ref().map_or(0, |(outcomes, _)| *outcomes)
    }

    /// Sentences about everything that does not get on.
    pub fn stuck(&self, now: Instant) -> Vec<String> {
        stuck(&self.known(), now)
    }

    /// The duties that stand still.
    pub fn standstills(&self, now: Instant) -> Vec<Standstill> {
        self.known().duties.standstills(now)
    }

    /// Whether traffic may come, and if not, why.
    pub fn ready(&self, now: Instant) -> Readiness {
        let known = self.known();
        let conditions = [database(&known), bell(&known, now), work(&known, now), draining(&known)];
        Readiness { ready: conditions.iter().all(|c| c.ok), conditions }
    }

    fn known(&self) -> MutexGuard<'_, HealthFacts> {
        // Each section only writes plain values, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn database(known: &HealthFacts) -> Condition {
    let refused = known.leases_refused.as_ref();
    let message = match (known.database_up, refused) {
        (true, None) => "The database answers.".into(),
        (_, Some(refused)) => refused.sentence().into(),
        (false, None) => {
            "The database cannot be reached: nothing is delivered until it answers; the broker keeps trying."
                .into()
        }
    };
    let ok = known.database_up && refused.is_none_or(|refused| !refused.is_most);
    Condition { name: "database", ok, message }
}

impl LeasesRefused {
    fn sentence(&self) -> String {
        let Self { inboxes, why, .. } = self;
        format!(
            "The database answers and refuses to write the leases of {inboxes}, which wait: {why}. The broker keeps trying."
        )
    }
}

fn bell(known: &HealthFacts, now: Instant) -> Condition {
    if known.listening && known.crowded {
        let message = "The server's queue of notifications fills up, so nobody rings; the tail reads ten times a second. \
                       End the session that listens and sits idle in a transaction.";
        return Condition { name: "bell", ok: true, message: message.into() };
    }
    let ok = known.bell_fresh(now);
    let message = match (known.listening, ok) {
        (_, true) => "Notifications arrive.",
        (false, _) => {
            "The LISTEN connection is down. Until it is back the tail finds messages, a second late at most."
        }
        (true, _) => {
            "The broker's own notification did not come back in time. Until it does the tail finds messages, \
             a second late at most. Behind a transaction pooler LISTEN never works: use a direct connection."
        }
    };
    Condition { name: "bell", ok, message: message.into() }
}

fn work(known: &HealthFacts, now: Instant) -> Condition {
    let stuck = stuck(known, now);
    let message = match stuck.is_empty() {
        true => "Every part of the broker gets on.".into(),
        false => stuck.join(" ").into(),
    };
    let is_needed = |s: &Standstill| s.duty.is_needed_for_traffic();
    let ok = !is_slow(known) && !known.duties.standstills(now).iter().any(is_needed);
    Condition { name: "work", ok, message }
}

/// Whether inboxes are held back because the database is slow. If most of the outcomes that wait can be written nowhere, their
/// inboxes are to blame, and all others are served.
fn is_slow(known: &HealthFacts) -> bool {
    let hurt = known.hurt.as_ref().map_or(0, |(outcomes, _)| *outcomes);
    known.held_back.as_ref().is_some_and(|held_back| 2 * hurt < held_back.outcomes)
}

fn stuck(known: &HealthFacts, now: Instant) -> Vec<String> {
    let held_back = known.held_back.as_ref().map(|HeldBack { inboxes, outcomes }| {
        format!(
            "Nothing is pushed to {inboxes}, since {outcomes} outcomes wait to be written and too many of them are of \
             these inboxes: the database takes them too slowly or not at all. Look for locks, slow triggers and a full \
             disk there; pushing goes on by itself."
        )
    });
    let hurt = known.hurt.as_ref().map(|(_, sentence)| sentence.clone());
    let leases = known.leases_refused.as_ref().map(LeasesRefused::sentence);
    let left_out = known.left_out.values().cloned();
    let standstills = known.duties.standstills(now);
    standstills
        .iter()
        .map(Standstill::sentence)
        .chain(held_back)
        .chain(hurt)
        .chain(leases)
        .chain(left_out)
        .collect()
}

fn draining(known: &HealthFacts) -> Condition {
    let message = match known.draining {
        false => "The broker takes new sessions.",
        true => "The broker is stopping: it finishes what is in flight and takes no new session.",
    };
    Condition { name: "draining", ok: !known.draining, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready_at(now: Instant) -> Health {
        let health = Health::new();
        health.set_database_up(true);
        health.set_listening(true);
        health.bell_seen(now);
        health
    }

    fn failing(health: &Health, now: Instant) -> Vec<&'static str> {
        let readiness = health.ready(now);
        assert_eq!(readiness.ready, readiness.reasons().is_empty());
        readiness.conditions.iter().filter(|c| !c.ok).map(|c| c.name).collect()
    }

    #[test]
    fn nothing_is_taken_for_granted() {
        assert_eq!(failing(&Health::new(), Instant::now()), ["database", "bell"]);
    }

    #[test]
    fn each_condition_alone_says_no() {
        let now = Instant::now();
        let health = ready_at(now);
        assert!(health.ready(now).ready);
        health.set_database_up(false);
        assert_eq!(failing(&health, now), ["database"]);
        assert!(health.ready(now).reasons()[0].contains("cannot be reached"));
        let refused = LeasesRefused { inboxes: "a".to_owned(), why: "at its end".to_owned(), is_most: true };
        health.set_leases_refused(Some(refused.clone()));
        assert_eq!(failing(&health, now), ["database"]);
        assert!(health.ready(now).reasons()[0].contains("answers and refuses to write the leases"));
        health.set_database_up(true);
        assert_eq!(failing(&health, now), ["database"]);
        health.set_leases_refused(Some(LeasesRefused { is_most: false, ..refused }));
        assert!(health.ready(now).ready && health.stuck(now)[0].contains("leases of a, which wait"));
        health.set_leases_refused(None);
        health.set_draining(true);
        assert_eq!(failing(&health, now), ["draining"]);
    }

    #[test]
    fn a_duty_that_stands_still_says_no_with_its_reason() {
        let now = Instant::now();
        let health = ready_at(now);
        health.began(Duty::Settle, now);
        health.failed(Duty::Settle, "the server is away");
        assert!(health.ready(now).ready);
        let later = now + duty::STANDSTILL_AFTER;
        health.bell_seen(later);
        assert_eq!(failing(&health, later), ["work"]);
        assert!(health.ready(later).reasons()[0].contains("the server is away"));
        health.succeeded(Duty::Settle);
        assert!(health.ready(later).ready);
    }

    /// A balancer would take every broker out because of one row that cannot be removed.
    #[test]
    fn a_duty_that_no_traffic_needs_is_told_and_says_yes() {
        let now = Instant::now();
        let health = ready_at(now);
        health.began(Duty::Retention, now);
        health.failed(Duty::Retention, "a trigger refuses it");
        let later = now + duty::STANDSTILL_AFTER;
        health.bell_seen(later);
        assert!(health.ready(later).ready);
        let work =
            health.ready(later).conditions.into_iter().find(|c| c.name == "work").expect("a condition");
        assert!(work.ok && work.message.contains("a trigger refuses it"), "{}", work.message);
        assert_eq!(health.stuck(later).len(), 1);
    }

    #[test]
    fn an_inbox_held_back_by_a_slow_database_says_no_and_by_its_own_outcomes_yes() {
        let now = Instant::now();
        let health = ready_at(now);
        health.set_held_back(Some(HeldBack { inboxes: "worker".to_owned(), outcomes: 50_000 }));
        assert_eq!(failing(&health, now), ["work"]);
        assert!(health.ready(now).reasons()[0].contains("pushed to worker, since 50000 outcomes wait"));
        assert_eq!(health.stuck(now), health.ready(now).reasons());
        health.set_hurt(Some((49_000, "49000 outcomes wait.".to_owned())));
        assert!(health.ready(now).ready);
        assert_eq!(health.stuck(now).len(), 2);
        health.set_held_back(None);
        health.set_hurt(None);
        assert!(health.ready(now).ready && health.stuck(now).is_empty());
    }

    #[test]
    fn rows_that_a_duty_leaves_out_are_told_and_say_yes() {
        let now = Instant::now();
        let health = ready_at(now);
        health.set_left_out(Duty::Promotion, Some("1 delivery waits.".to_owned()));
        assert!(health.ready(now).ready);
        assert_eq!(health.stuck(now), ["1 delivery waits."]);
        health.set_left_out(Duty::Promotion, None);
        assert!(health.stuck(now).is_empty());
    }

    #[test]
    fn outcomes_that_can_be_written_nowhere_are_told_and_say_yes() {
        let now = Instant::now();
        let health = ready_at(now);
        health.set_hurt(Some((2, "2 outcomes wait.".to_owned())));
        assert!(health.ready(now).ready);
        assert_eq!((health.stuck(now), health.hurt()), (vec!["2 outcomes wait.".to_owned()], 2));
        health.set_hurt(None);
        assert!(health.stuck(now).is_empty() && health.hurt() == 0);
    }

    #[test]
    fn the_bell_goes_stale() {
        let now = Instant::now();
        let health = ready_at(now);
        let stale = now + Duration::from_millis(BELL_STALE_MS);
        assert!(health.bell_fresh(stale - Duration::from_millis(1)));
        assert!(!health.bell_fresh(stale));
        assert_eq!(failing(&health, stale), ["bell"]);
        health.bell_seen(stale);
        assert!(health.bell_fresh(stale));
        assert!(health.bell_fresh(now), "a canary newer than `now` is fresh");
    }

    #[test]
    fn a_bell_that_is_off_on_purpose_does_not_make_the_broker_unready() {
        let now = Instant::now();
        let health = ready_at(now);
        health.set_crowded(true);
        let much_later = now + Duration::from_secs(60);
        assert!(health.ready(much_later).ready);
        health.set_crowded(false);
        assert_eq!(failing(&health, much_later), ["bell"], "the canary must prove it again");
        health.set_crowded(true);
        health.set_listening(false);
        assert_eq!(failing(&health, much_later), ["bell"]);
    }

    #[test]
    fn a_new_listen_connection_must_prove_itself() {
        let now = Instant::now();
        let health = ready_at(now);
        health.set_listening(true);
        assert!(health.bell_fresh(now), "saying it twice changes nothing");
        health.set_listening(false);
        let lost = health.ready(now);
        health.set_listening(true);
        let unproven = health.ready(now);
        assert!(!health.bell_fresh(now));
        assert_ne!(lost.reasons(), unproven.reasons());
        health.bell_seen(now);
        assert!(health.bell_fresh(now));
    }
}
