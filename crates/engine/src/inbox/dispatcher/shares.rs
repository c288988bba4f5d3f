//! How many outcomes may wait to be written, and of which inbox.
//!
//! An inbox may have as many as places are free. A single one so gets half of the places; with k that write nothing, each
//! gets one of k + 1 parts, and one part stays free for all others. Source: A. Choudhury and E. Hahne, "Dynamic queue
//! length thresholds for shared-memory packet switches", IEEE/ACM Transactions on Networking 6, 1998, with factor 1.

use std::collections::BTreeSet;
use std::sync::Arc;

/// The outcomes that wait to be written.
pub(super) struct Shares {
    max: usize,
    count: usize,
    held_back: BTreeSet<Arc<str>>,
}

impl Shares {
    pub(super) fn new(max: usize) -> Self {
        Self { max, count: 0, held_back: BTreeSet::new() }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn add(&mut self) {
        self.count += 1;
    }

    pub(super) fn remove(&mut self) {
        self.count -= 1;
    }

    /// Whether an inbox with so many outcomes may have another. If not, it is held back.
    pub(super) fn has_room(&mut self, inbox: &Arc<str>, of_inbox: usize) -> bool {
        let has_room = of_inbox < self.max.saturating_sub(self.count);
        if !has_room {
            self.held_back.insert(inbox.clone());
        }
        has_room
    }

    pub(super) fn held_back(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.held_back.iter()
    }

    /// Returns the inboxes that were held back and have room by now.
    pub(super) fn let_go(&mut self, of_inbox: impl Fn(&str) -> usize) -> Vec<Arc<str>> {
        if self.held_back.is_empty() {
            return Vec::new();
        }
        let free = self.max.saturating_sub(self.count);
        self.held_back.extract_if(.., |inbox| of_inbox(inbox) < free).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::rngs::SmallRng;
    use rand::seq::IndexedRandom;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn names(n: usize) -> Vec<Arc<str>> {
        (0..n).map(|i| Arc::from(format!("inbox-{i}"))).collect()
    }

    /// Adds outcomes of this inbox until it is held back.
    fn fill(shares: &mut Shares, inbox: &Arc<str>) -> usize {
        let mut n = 0;
        while shares.has_room(inbox, n) {
            shares.add();
            n += 1;
        }
        n
    }

    #[test]
    fn one_inbox_gets_half_and_each_further_one_half_of_the_rest() {
        let mut shares = Shares::new(1_000);
        let taken: Vec<usize> = names(4).iter().map(|inbox| fill(&mut shares, inbox)).collect();
        assert_eq!(taken, [500, 250, 125, 63]);
    }

    #[test]
    fn many_that_write_nothing_leave_places_for_another() {
        let mut shares = Shares::new(100_000);
        let (stuck, mut of_each) = (names(50), 0);
        while stuck.iter().filter(|inbox| shares.has_room(inbox, of_each)).map(|_| ()).count() == 50 {
            (0..50).for_each(|_| shares.add());
            of_each += 1;
        }
        assert_eq!(shares.held_back().len(), 50);
        assert_eq!(of_each, 100_000 / 51 + 1);
        assert!(shares.has_room(&"another".into(), 1_900));
    }

    #[test]
    fn an_inbox_is_let_go_when_it_has_room_and_not_before() {
        for seed in 0..200 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let (inboxes, max) = (names(5), rng.random_range(1..40));
            let mut shares = Shares::new(max);
            let mut of: HashMap<Arc<str>, usize> = HashMap::new();
            let mut held: BTreeSet<Arc<str>> = BTreeSet::new();
            for _ in 0..300 {
                let inbox = inboxes.choose(&mut rng).expect("some");
                let n = of.entry(inbox.clone()).or_default();
                if rng.random_bool(0.6) {
                    if shares.has_room(inbox, *n) {
                        shares.add();
                        *n += 1;
                    } else {
                        held.insert(inbox.clone());
                    }
                } else if *n > 0 {
                    shares.remove();
                    *n -= 1;
                    let free = max - of.values().sum::<usize>();
                    let expected: Vec<_> = held.extract_if(.., |i| of[i] < free).collect();
                    assert_eq!(shares.let_go(|i| of[i]), expected, "seed {seed}");
                }
                assert_eq!(shares.count(), of.values().sum::<usize>());
            }
        }
    }
}
