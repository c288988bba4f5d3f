//! How long to wait before connecting again.

use std::time::Duration;

use rand::RngExt;

/// Growing waits. Each is spread by half, the first one too, so that a crowd that lost the same broker does not
/// come back at once.
#[derive(Debug)]
pub(super) struct Pace {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Pace {
    /// Waits of about `first`, then twice as long each time, up to `max`.
    pub(super) fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// The next wait.
    pub(super) fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.max);
        wait.mul_f64(rand::rng().random_range(0.5..1.5))
    }

    /// The connection stands: the next failure starts with the first wait again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_with_jitter_up_to_the_bound_and_start_anew() {
        let (first, max) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut pace = Pace::new(first, max);
        let waits: Vec<Duration> = (0..50).map(|_| pace.next_wait()).collect();
        assert!(waits[0] >= first / 2 && waits[0] <= first * 3 / 2, "{:?}", waits[0]);
        assert!(waits.iter().all(|w| *w <= max * 3 / 2));
        assert!(waits[10..].iter().all(|w| *w >= max / 2));
        assert!(waits.iter().any(|w| *w != waits[0]), "they are not spread");
        pace.reset();
        assert!(pace.next_wait() <= first * 3 / 2);
    }
}
