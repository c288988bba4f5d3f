//! Agents with a send that had to wait. For a while their sends go another way, so that nobody else's sends wait with
//! them.
//!
//! Pure, as it takes `now`, but for a lock, which is held for a few look-ups.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long an agent's sends go the other way after one of them had to wait.
const SUSPECTED_FOR: Duration = Duration::from_secs(10);
/// The most agents remembered. Beyond that no agent is added, and a send that waits again costs its batch some
/// milliseconds.
const SUSPECTS_MAX: usize = 4_096;

#[derive(Debug)]
struct Suspect {
    until: Instant,
    /// This agent's unanswered sends on the other way. While there are any, the next ones follow them, to keep their
    /// order.
    under_way: usize,
}

/// The agents whose sends go the other way. Clones share one set.
#[derive(Clone, Debug, Default)]
pub(super) struct Suspects(Arc<Mutex<HashMap<Arc<str>, Suspect>>>);

impl Suspects {
    /// Whether this agent's sends go the other way now.
    pub(super) fn has(&self, now: Instant, agent: &str) -> bool {
        let inside = self.inside();
        // The set is nearly always empty.
        !inside.is_empty() && inside.get(agent).is_some_and(|s| s.under_way > 0 || now < s.until)
    }

    /// Records that one of this agent's sends had to wait. Returns whether the agent is new here.
    pub(super) fn add(&self, now: Instant, agent: &Arc<str>) -> bool {
        let mut inside = self.inside();
        inside.retain(|_, s| s.under_way > 0 || now < s.until);
        let is_news = !inside.contains_key(agent);
        if is_news && inside.len() >= SUSPECTS_MAX {
            return false;
        }
        let suspect = inside.entry(agent.clone()).or_insert(Suspect { until: now, under_way: 0 });
        suspect.until = now + SUSPECTED_FOR;
        is_news
    }

    /// One of this agent's sends goes the other way.
    pub(super) fn entered(&self, now: Instant, agent: &Arc<str>) {
        let mut inside = self.inside();
        inside.entry(agent.clone()).or_insert(Suspect { until: now, under_way: 0 }).under_way += 1;
    }

    /// One of this agent's sends that went the other way is answered.
    pub(super) fn left(&self, agent: &str) {
        if let Some(suspect) = self.inside().get_mut(agent) {
            suspect.under_way = suspect.under_way.saturating_sub(1);
        }
    }

    fn inside(&self) -> MutexGuard<'_, HashMap<Arc<str>, Suspect>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_is_one_until_its_time_is_over_and_its_sends_are_answered() {
        let (suspects, now, a) = (Suspects::default(), Instant::now(), Arc::from("a"));
        assert!(!suspects.has(now, "a"));
        assert!(suspects.add(now, &a) && !suspects.add(now, &a));
        assert!(suspects.has(now, "a") && !suspects.has(now, "b"));
        suspects.entered(now, &a);
        let later = now + SUSPECTED_FOR;
        assert!(suspects.has(later, "a"), "its send is under way");
        suspects.left("a");
        assert!(!suspects.has(later, "a") && suspects.has(now, "a"));
        assert!(suspects.add(later, &a), "forgotten, so it is news again");
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (suspects, now) = (Suspects::default(), Instant::now());
        for n in 0..SUSPECTS_MAX {
            assert!(suspects.add(now, &Arc::from(n.to_string())));
        }
        assert!(!suspects.add(now, &Arc::from("one more")) && !suspects.has(now, "one more"));
        assert!(suspects.add(now + SUSPECTED_FOR, &Arc::from("one more")), "the others are forgotten");
    }
}
