//! Finds the agent whose sends make inserts slow, although each of them is stored in time: many such sends would take all of the
//! publisher's time. Pure.
//!
//! A slow insert makes its agents candidates. The next batches are split: who is no candidate, and each half of the candidates. The
//! slow half is what remains, until one agent is left beside whose insert another one was fast. If all are slow the database
//! is, and nobody is to blame.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// An insert that takes so long is slow.
pub(super) const SLOW: Duration = Duration::from_millis(100);
/// A search that found nobody begins again only after this time, since it costs statements.
const REST: Duration = Duration::from_secs(5);

/// The parts into which a batch is split, by agent.
const OTHERS: usize = 0;
const HALVES: usize = 2;

/// The search for such an agent.
#[derive(Debug, Default)]
pub(super) struct SlowSearch {
    candidates: BTreeSet<Arc<str>>,
    rests_until: Option<Instant>,
}

/// The time that a part's insert took, and whose sends were in the part.
pub(super) struct Timed {
    pub(super) agents: Vec<Arc<str>>,
    pub(super) took: Duration,
}

impl SlowSearch {
    /// Splits a batch into what is written by one insert each. An agent's sends stay together and in their order.
    pub(super) fn split<T>(&self, batch: Vec<T>, agent: impl Fn(&T) -> &Arc<str>) -> Vec<Vec<T>> {
        if self.candidates.is_empty() {
            return vec![batch];
        }
        let here: BTreeSet<Arc<str>> =
            batch.iter().map(&agent).filter(|agent| self.candidates.contains(*agent)).cloned().collect();
        let middle = here.iter().nth(here.len() / 2).cloned();
        let mut parts: Vec<Vec<T>> = (0..=HALVES).map(|_| Vec::new()).collect();
        for item in batch {
            let name = agent(&item);
            let place = match (here.contains(name), &middle) {
                (true, Some(middle)) if name < middle => 1,
                (true, _) => 2,
                (false, _) => OTHERS,
            };
            parts[place].push(item);
        }
        parts.retain(|part| !part.is_empty());
        parts
    }

    /// Learns how long the inserts of one batch took. Returns the agent that is to blame, once it is known.
    pub(super) fn learn(&mut self, now: Instant, parts: Vec<Timed>) -> Option<Arc<str>> {
        let is_fast = parts.iter().any(|part| part.took < SLOW);
        let slow: Vec<Timed> = parts.into_iter().filter(|part| part.took >= SLOW).collect();
        if self.candidates.is_empty() {
            if self.rests_until.is_none_or(|until| now >= until) {
                self.candidates = slow.into_iter().flat_map(|part| part.agents).collect();
            }
            return None;
        }
        let slow: BTreeSet<Arc<str>> = slow.into_iter().flat_map(|part| part.agents).collect();
        if slow.is_empty() {
            // The candidates may not have sent, or the slowness has passed.
            self.candidates.clear();
            return None;
        }
        if !is_fast {
            if slow.len() > 1 {
                self.candidates.clear();
                self.rests_until = Some(now + REST);
            }
            return None;
        }
        self.candidates = slow;
        if self.candidates.len() > 1 {
            return None;
        }
        self.candidates.pop_first()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAST: Duration = Duration::from_millis(5);

    fn name(n: usize) -> Arc<str> {
        format!("agent {n:02}").into()
    }

    /// Batches in which the sends of one agent cost so much each; returns who was blamed.
    fn blamed(batches: &[Vec<usize>], culprit: Option<usize>, base: Duration) -> Vec<Arc<str>> {
        let (mut search, mut now, mut found) = (SlowSearch::default(), Instant::now(), Vec::new());
        for batch in batches {
            let items: Vec<Arc<str>> = batch.iter().map(|n| name(*n)).collect();
            let parts = search.split(items.clone(), |item| item);
            let mut together: Vec<_> = parts.iter().flatten().cloned().collect();
            let mut all = items;
            together.sort();
            all.sort();
            assert_eq!(together, all, "each send is in one part");
            let timed = parts.into_iter().map(|part| {
                let slow = part.iter().filter(|agent| culprit.is_some_and(|c| name(c) == **agent)).count();
                let took = base + SLOW * slow as u32;
                now += took;
                Timed { agents: part, took }
            });
            let timed = timed.collect();
            found.extend(search.learn(now, timed));
        }
        found
    }

    fn batches() -> impl Strategy<Value = Vec<Vec<usize>>> {
        prop::collection::vec(prop::collection::vec(0..40_usize, 1..60), 0..40)
    }

    proptest! {
        #[test]
        fn nobody_is_blamed_while_all_are_fast_or_all_are_slow(batches in batches()) {
            prop_assert_eq!(blamed(&batches, None, FAST), Vec::<Arc<str>>::new());
            prop_assert_eq!(blamed(&batches, None, SLOW), Vec::<Arc<str>>::new());
        }

        #[test]
        fn nobody_else_is_blamed(batches in batches()) {
            prop_assert!(blamed(&batches, Some(7), FAST).iter().all(|agent| *agent == name(7)));
        }

        #[test]
        fn who_sends_with_others_is_found_in_a_few_batches(others in prop::collection::btree_set(8..40_usize, 1..30)) {
            let batch: Vec<usize> = others.into_iter().chain([7]).collect();
            let found = blamed(&vec![batch; 8], Some(7), FAST);
            prop_assert_eq!(found.first(), Some(&name(7)));
        }
    }
}
