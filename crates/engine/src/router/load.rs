//! Whether the mesh is busy, from the number of deliveries that were ever made in it.

use std::time::{Duration, Instant};

/// Above so many deliveries a second the mesh is busy.
const BUSY_ABOVE: u64 = 500;
/// Below so many a second it no longer is.
const QUIET_BELOW: u64 = 250;
/// For so long at least the deliveries are counted before the mesh is busy.
const BUSY_WINDOW: Duration = Duration::from_millis(200);
/// The same before it is quiet.
const QUIET_WINDOW: Duration = Duration::from_secs(1);

const _: () = assert!(QUIET_BELOW < BUSY_ABOVE);
const _: () = assert!(BUSY_WINDOW.as_millis() < QUIET_WINDOW.as_millis());

/// See the module.
#[derive(Debug)]
pub struct MeshLoad {
    busy: bool,
    /// When the window began, and how many were made before.
    since: (Instant, u64),
}

impl MeshLoad {
    /// A mesh at rest in which `made` deliveries were ever made.
    pub fn new(now: Instant, made: u64) -> Self {
        Self { busy: false, since: (now, made) }
    }

    /// Whether the mesh is busy, now that `made` deliveries were ever made (the last value of the deliveries' sequence).
    pub fn is_busy(&mut self, now: Instant, made: u64) -> bool {
        let (began, before) = self.since;
        let elapsed = now.saturating_duration_since(began);
        if elapsed < if self.busy { QUIET_WINDOW } else { BUSY_WINDOW } {
            return self.busy;
        }
        let new = u128::from(made.saturating_sub(before)) * Duration::from_secs(1).as_micros();
        let at_rate = |rate: u64| u128::from(rate) * elapsed.as_micros();
        self.busy = if self.busy { new >= at_rate(QUIET_BELOW) } else { new > at_rate(BUSY_ABOVE) };
        self.since = (now, made);
        self.busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Deliveries at this rate, looked at each `every`; after how long the answer is `busy`.
    fn until(
        load: &mut MeshLoad,
        now: Instant,
        made: u64,
        rate: u64,
        every: Duration,
        busy: bool,
    ) -> Option<Duration> {
        let times = (1..=150).map(|n| every * n);
        let made = |after: Duration| made + rate * after.as_millis() as u64 / 1_000;
        times.into_iter().find(|after| load.is_busy(now + *after, made(*after)) == busy)
    }

    #[test]
    fn it_is_busy_after_a_short_window_and_quiet_after_a_long_one() {
        let now = Instant::now();
        let mut load = MeshLoad::new(now, 0);
        assert_eq!(until(&mut load, now, 0, 600, ms(10), true), Some(BUSY_WINDOW));
        let later = now + BUSY_WINDOW;
        assert_eq!(until(&mut load, later, 120, 200, ms(10), false), Some(QUIET_WINDOW));
    }

    #[test]
    fn between_the_two_rates_it_stays_as_it_is() {
        let now = Instant::now();
        assert_eq!(until(&mut MeshLoad::new(now, 0), now, 0, 400, ms(50), true), None);
        let mut load = MeshLoad { busy: true, since: (now, 0) };
        assert_eq!(until(&mut load, now, 0, 400, ms(50), false), None);
    }

    #[test]
    fn a_burst_that_a_sleeping_tail_finds_late_is_a_rate_over_the_whole_pause() {
        let now = Instant::now();
        assert!(!MeshLoad::new(now, 0).is_busy(now + ms(1_000), 450));
        assert!(MeshLoad::new(now, 0).is_busy(now + ms(1_000), 501));
    }

    #[test]
    fn a_sequence_that_began_anew_is_no_load() {
        let now = Instant::now();
        let mut load = MeshLoad::new(now, 1_000_000);
        assert!(!load.is_busy(now + ms(200), 3));
        assert!(load.is_busy(now + ms(400), 203));
    }
}
