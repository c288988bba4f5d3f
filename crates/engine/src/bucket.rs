//! A token bucket: how many tokens may pass now, and when the next may. Pure: it takes `now`.
//!
//! Tokens are counted in integer parts (a token is 10⁹ parts, so a rate of one a second gives one part a
//! nanosecond): rounding neither gains nor loses anything, however often the bucket is asked.

use std::time::{Duration, Instant};

/// The parts of a token: at one token a second, one part comes each nanosecond.
const PARTS: u128 = 1_000_000_000;

/// How many tokens may pass. Both are 64 bits wide, which keeps every product within 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second in the long run; at least 1.
    pub per_second: u64,
    /// Tokens at once after a pause; at least 1.
    pub burst: u64,
}

/// The tokens that are left of a [`Rate`].
#[derive(Clone, Debug)]
pub struct Bucket {
    rate: Rate,
    /// The parts that were left at `at`; never more than the burst.
    parts: u128,
    at: Instant,
}

impl Bucket {
    /// A full bucket. A rate of 0 counts as 1: a bucket slows things down and never forbids them.
    pub fn new(now: Instant, rate: Rate) -> Self {
        let rate = Rate { per_second: rate.per_second.max(1), burst: rate.burst.max(1) };
        Self { rate, parts: u128::from(rate.burst) * PARTS, at: now }
    }

    /// Changes the rate from now on; tokens that were used stay used.
    pub fn set_rate(&mut self, now: Instant, rate: Rate) {
        self.refill(now);
        let used = u128::from(self.rate.burst) * PARTS - self.parts;
        let full = Self::new(now, rate);
        *self = Self { parts: full.parts.saturating_sub(used), ..full };
    }

    /// How long until `count` tokens may pass; zero if they may now. A count above the burst counts as the
    /// burst, so a full bucket lets anything pass.
    pub fn wait(&mut self, now: Instant, count: u64) -> Duration {
        self.refill(now);
        let missing = self.cost(count).saturating_sub(self.parts);
        // Rounded up: a caller who waits so long is not refused again for a missing nanosecond.
        let nanos = missing.div_ceil(u128::from(self.rate.per_second));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Takes `count` tokens, or the rest if fewer are left: call [`wait`](Self::wait) first.
    pub fn take(&mut self, count: u64) {
        self.parts = self.parts.saturating_sub(self.cost(count));
    }

    /// Whether no token is used, so that a new bucket would be the same.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.parts == u128::from(self.rate.burst) * PARTS
    }

    fn cost(&self, count: u64) -> u128 {
        u128::from(count.min(self.rate.burst)) * PARTS
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_nanos();
        self.at = self.at.max(now);
        let full = u128::from(self.rate.burst) * PARTS;
        let come = passed.saturating_mul(u128::from(self.rate.per_second));
        self.parts = self.parts.saturating_add(come).min(full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_then_the_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now, Rate { per_second: 10, burst: 3 });
        for _ in 0..3 {
            assert_eq!(bucket.wait(now, 1), Duration::ZERO);
            bucket.take(1);
        }
        assert_eq!(bucket.wait(now, 1), SECOND / 10);
        assert_eq!(bucket.wait(now + SECOND / 20, 1), SECOND / 20);
        assert_eq!(bucket.wait(now + SECOND / 10, 1), Duration::ZERO);
        assert!(!bucket.is_full(now + SECOND / 10) && bucket.is_full(now + SECOND));
        // A clock that stands still or goes back gives nothing.
        assert!(bucket.wait(now, 4).is_zero());
    }

    #[test]
    fn a_smaller_rate_keeps_what_was_used() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now, Rate { per_second: 10, burst: 10 });
        bucket.take(6);
        bucket.set_rate(now, Rate { per_second: 1, burst: 8 });
        assert_eq!(bucket.wait(now, 2), Duration::ZERO);
        assert_eq!(bucket.wait(now, 3), SECOND);
        bucket.set_rate(now, Rate { per_second: 0, burst: 0 });
        assert_eq!(bucket.wait(now, 1), SECOND);
    }

    /// A plain model: all tokens taken, with their moments, replayed from the beginning.
    struct Model {
        rate: Rate,
        began: Instant,
        taken: Vec<(Instant, u64)>,
    }

    impl Model {
        fn parts(&self, now: Instant) -> u128 {
            let full = u128::from(self.rate.burst) * PARTS;
            let (mut parts, mut at) = (full, self.began);
            for &(then, count) in &self.taken {
                let come = (then - at).as_nanos() * u128::from(self.rate.per_second);
                parts = (parts + come).min(full) - u128::from(count) * PARTS;
                at = then;
            }
            (parts + (now - at).as_nanos() * u128::from(self.rate.per_second)).min(full)
        }
    }

    proptest! {
        #[test]
        fn it_does_what_the_plain_model_does(
            (per_second, burst) in (1u64..5_000_000, 1u64..10_000_000),
            steps in proptest::collection::vec((0u64..2_000_000_000, 0u64..12_000_000), 1..60),
        ) {
            let (rate, began) = (Rate { per_second, burst }, Instant::now());
            let mut bucket = Bucket::new(began, rate);
            let mut model = Model { rate, began, taken: Vec::new() };
            let mut now = began;
            for (nanos, count) in steps {
                now += Duration::from_nanos(nanos);
                let count = count.min(burst);
                let wait = bucket.wait(now, count);
                prop_assert_eq!(wait.is_zero(), model.parts(now) >= u128::from(count) * PARTS);
                if wait.is_zero() {
                    bucket.take(count);
                    model.taken.push((now, count));
                } else {
                    // The wait is enough, and a nanosecond less is not.
                    prop_assert!(model.parts(now + wait) >= u128::from(count) * PARTS);
                    let less = wait - Duration::from_nanos(1);
                    prop_assert!(model.parts(now + less) < u128::from(count) * PARTS);
                }
                prop_assert_eq!(bucket.is_full(now), model.parts(now) == u128::from(burst) * PARTS);
            }
            // All tokens that passed are at most the burst and what the rate gave.
            let passed: u128 = model.taken.iter().map(|(_, count)| u128::from(*count)).sum();
            let given = u128::from(burst) * PARTS + (now - began).as_nanos() * u128::from(per_second);
            prop_assert!(passed * PARTS <= given);
        }
    }
}
