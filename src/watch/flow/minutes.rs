//! The last hour in minutes, from counts that only grow. Pure: it takes `now`.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// The number of minutes that are kept.
pub const MINUTES: usize = 60;

const MINUTE: Duration = Duration::from_secs(60);

/// The counts of each minute, by bucket.
#[derive(Debug)]
pub(super) struct Minutes {
    began: Instant,
    /// The counts at the beginning of the current minute.
    before: Vec<u64>,
    /// The minutes that are over, oldest first; at most `MINUTES - 1`.
    over: VecDeque<Vec<u64>>,
}

impl Minutes {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, before: Vec::new(), over: VecDeque::new() }
    }

    /// Returns the counts of each minute. A minute ends at the first call after its end, so callers call every few
    /// seconds.
    pub(super) fn read(&mut self, now: Instant, counts: &[u64]) -> Vec<Vec<u64>> {
        self.before.resize(counts.len(), 0);
        let mut since: Vec<u64> =
            counts.iter().zip(&self.before).map(|(now, before)| now.saturating_sub(*before)).collect();
        while now.saturating_duration_since(self.began) >= MINUTE {
            self.began += MINUTE;
            self.before = counts.to_vec();
            // Counts of several minutes without a call all go to the first of them.
            let ended = std::mem::replace(&mut since, vec![0; counts.len()]);
            self.over.push_back(ended);
            if self.over.len() >= MINUTES {
                self.over.pop_front();
            }
            // After days of sleep, minutes are not caught up one by one.
            if now.saturating_duration_since(self.began) >= MINUTE * (MINUTES as u32 + 1) {
                self.began = now;
                self.over.clear();
            }
        }
        self.over.iter().cloned().chain([since]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minute_has_what_was_counted_in_it() {
        let start = Instant::now();
        let mut minutes = Minutes::new(start);
        assert_eq!(minutes.read(start, &[2, 0]), [[2, 0]]);
        assert_eq!(minutes.read(start + MINUTE / 2, &[3, 1]), [[3, 1]]);
        assert_eq!(minutes.read(start + MINUTE, &[4, 1]), [[4, 1], [0, 0]]);
        assert_eq!(minutes.read(start + MINUTE * 3 / 2, &[4, 6]), [[4, 1], [0, 5]]);
        assert_eq!(minutes.read(start + MINUTE * 4, &[5, 6]), [[4, 1], [1, 5], [0, 0], [0, 0], [0, 0]]);
    }

    #[test]
    fn an_hour_is_kept_and_no_more() {
        let start = Instant::now();
        let mut minutes = Minutes::new(start);
        for n in 1..200_u32 {
            minutes.read(start + MINUTE * n, &[u64::from(n)]);
        }
        let hour = minutes.read(start + MINUTE * 200, &[200]);
        assert_eq!(hour.len(), MINUTES);
        assert!(hour[..MINUTES - 1].iter().all(|minute| *minute == [1]), "{hour:?}");
        assert_eq!(minutes.read(start + MINUTE * 100_000, &[201]), [[0]], "it slept");
    }
}
