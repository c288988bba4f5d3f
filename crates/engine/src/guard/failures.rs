//! Counts wrong tokens by address: each is answered later than the one before, and all are forgotten in time.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::Source;

/// How long the answer to the first wrong token waits.
pub(super) const DELAY_FIRST: Duration = Duration::from_millis(100);
/// The longest wait of an answer: a connection that waits costs memory.
pub(super) const DELAY_MAX: Duration = Duration::from_secs(3);
/// An address without a failure for so long starts again at the first delay.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// The most addresses remembered, about 1 MB; beyond that, the address that failed longest ago is forgotten.
pub(super) const SOURCES_MAX: usize = 8_192;

const _: () = assert!(DELAY_FIRST.as_millis() < DELAY_MAX.as_millis());
const _: () = assert!(DELAY_MAX.as_millis() < FORGOTTEN_AFTER.as_millis());

#[derive(Debug, Default)]
pub(super) struct Failures {
    /// How often the address failed, and when last.
    counts: HashMap<Source, (u32, Instant)>,
    /// The times of `counts` in order, one entry for each, so that forgetting does not walk the map.
    by_time: BTreeSet<(Instant, Source)>,
}

impl Failures {
    /// Counts one more failure and returns how long its answer must wait.
    pub(super) fn add(&mut self, now: Instant, source: Source) -> Duration {
        self.forget(now);
        let before = self.counts.insert(source, (1, now));
        let mut count = 1;
        if let Some((earlier, at)) = before {
            self.by_time.remove(&(at, source));
            count = earlier.saturating_add(1);
            self.counts.insert(source, (count, now));
        }
        self.by_time.insert((now, source));
        if self.counts.len() > SOURCES_MAX {
            self.forget_oldest();
        }
        delay(count)
    }

    fn forget(&mut self, now: Instant) {
        while let Some(&(at, _)) = self.by_time.first()
            && now.saturating_duration_since(at) >= FORGOTTEN_AFTER
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, source)) = self.by_time.pop_first() {
            self.counts.remove(&source);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.counts.len(), self.by_time.len());
        self.counts.len()
    }
}

fn delay(count: u32) -> Duration {
    let doublings = count.saturating_sub(1).min(31);
    DELAY_FIRST.saturating_mul(1 << doublings).min(DELAY_MAX)
}
