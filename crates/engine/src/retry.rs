//! When a failed delivery is tried again: exponential backoff with full jitter, capped.
//!
//! Full jitter (a uniform draw between zero and the exponential bound) spreads a crowd of failures best; the
//! comparison is in Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

/// How often, and how long after a failure, a delivery is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The bound of the first delay; it doubles with each attempt.
    pub base: Duration,
    /// No delay is longer.
    pub cap: Duration,
    /// After this many failed attempts the delivery is a dead letter.
    pub attempts_max: u32,
}

impl RetryPolicy {
    /// The delay after `failed` failed attempts (1 or more), given a uniform draw from 0 to 1.
    pub fn delay(&self, failed: u32, draw: f64) -> Duration {
        self.bound(failed).mul_f64(draw.clamp(0.0, 1.0))
    }

    /// The longest that [`delay`](Self::delay) can give.
    pub fn bound(&self, failed: u32) -> Duration {
        let doublings = failed.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap)
    }

    /// Whether a delivery that failed this often is not tried again.
    pub fn is_exhausted(&self, failed: u32) -> bool {
        failed >= self.attempts_max
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { base: Duration::from_secs(1), cap: Duration::from_secs(600), attempts_max: 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_up_to_the_cap() {
        let policy =
            RetryPolicy { base: Duration::from_secs(1), cap: Duration::from_secs(60), attempts_max: 3 };
        let bounds: Vec<u64> = (1..=8).map(|n| policy.bound(n).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(policy.bound(u32::MAX), policy.cap);
    }

    #[test]
    fn the_draw_spreads_over_the_whole_bound() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delay(3, 0.0), Duration::ZERO);
        assert_eq!(policy.delay(3, 0.5), Duration::from_secs(2));
        assert_eq!(policy.delay(3, 1.0), Duration::from_secs(4));
    }

    #[test]
    fn the_last_attempt_is_counted() {
        let policy = RetryPolicy { attempts_max: 3, ..RetryPolicy::default() };
        assert!(!policy.is_exhausted(2));
        assert!(policy.is_exhausted(3));
    }
}
