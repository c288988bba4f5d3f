//! How long to wait before trying again. Only this module names the `backoff` crate, which is no longer
//! maintained, so that replacing the crate is an edit of this file.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

/// Growing, jittered waits that never give up.
#[derive(Debug)]
pub(crate) struct Pace(ExponentialBackoff);

impl Pace {
    /// Waits of about `first`, then twice as long each time, up to `max`. Each wait is spread by half, the
    /// first one too, so that a crowd that lost the same peer does not come back at once.
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self(ExponentialBackoff {
            current_interval: first,
            initial_interval: first,
            max_interval: max,
            multiplier: 2.0,
            randomization_factor: 0.5,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// The next wait.
    pub(crate) fn next_wait(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// The attempt succeeded: the next failure starts with the first wait again.
    pub(crate) fn reset(&mut self) {
        self.0.reset();
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
        pace.reset();
        assert!(pace.next_wait() <= first * 3 / 2);
    }
}
