//! How long to wait for a broker's first sign of life.

use std::time::Duration;

use super::connection::CONNECT_WAIT;

/// The first wait: the first timeout of RFC 6298, section 2.
const FIRST: Duration = Duration::from_secs(1);
const MIN: Duration = Duration::from_millis(250);
/// A network and a broker that are busy answer within this many times the last answer's time.
const TIMES_LAST: u32 = 4;

const _: () = assert!(MIN.as_millis() < FIRST.as_millis() && FIRST.as_millis() < CONNECT_WAIT.as_millis());

/// A wait that follows the broker's own pace: short where brokers answer fast, so that a client leaves a frozen broker
/// soon, and doubled by every silence, so that a slow network still gets its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Patience(Duration);

impl Patience {
    pub(super) const fn new() -> Self {
        Self(FIRST)
    }

    /// How long to wait for the next answer.
    pub(super) const fn wait(self) -> Duration {
        self.0
    }

    /// An answer came after this long.
    pub(super) fn answered(&mut self, took: Duration) {
        self.0 = took.saturating_mul(TIMES_LAST).clamp(MIN, CONNECT_WAIT);
    }

    /// No answer came within [`Self::wait`].
    pub(super) fn silent(&mut self) {
        self.0 = self.0.saturating_mul(2).min(CONNECT_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_the_last_answer_and_doubles_in_silence() {
        let mut patience = Patience::new();
        assert_eq!(patience.wait(), FIRST);
        patience.answered(Duration::from_millis(300));
        assert_eq!(patience.wait(), Duration::from_millis(1_200));
        patience.silent();
        assert_eq!(patience.wait(), Duration::from_millis(2_400));
        patience.answered(Duration::from_micros(80));
        assert_eq!(patience.wait(), MIN);
        for silences in 1..100 {
            patience.silent();
            assert_eq!(patience.wait(), (MIN * 2_u32.pow(silences.min(10))).min(CONNECT_WAIT));
        }
        patience.answered(Duration::MAX);
        assert_eq!(patience.wait(), CONNECT_WAIT);
    }
}
