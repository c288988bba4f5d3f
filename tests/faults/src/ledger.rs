//! Every message by its number: what was asked, what the database answered, and everything that agents saw of it.
//!
//! A line is 48 bytes, so that an hour of 300 messages a second is some 50 MB; what was seen more than three times is
//! rare and kept aside.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::task::Wish;

/// What most messages show: delivered, handled, confirmed.
const SEEN_INLINE: usize = 3;

/// What became of the INSERT or the `send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not answered, or the connection fell on the way: it may be there or not.
    Unknown,
    /// COMMIT or `sent` was answered.
    Committed,
    /// Refused, rolled back, or the connection fell before COMMIT was asked for: it must not be there.
    Never,
}

/// When it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// At once.
    Now,
    /// Later: its delay says nothing.
    Later,
    /// At once, and it expires soon.
    Expires,
}

/// What an agent said of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// It came.
    Delivered,
    /// Handled: about to be acknowledged.
    Handled,
    /// The ack is committed.
    Confirmed,
    /// About to be given back or failed.
    GivenBack,
    /// About to be declared dead.
    Dead,
}

/// Something seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// When, in milliseconds of the campaign.
    pub at_ms: u32,
    /// Which attempt the delivery was.
    pub attempt: u16,
    /// Which agent process.
    pub process: u8,
    /// What.
    pub what: What,
}

/// A message and recipient.
#[derive(Clone, Debug)]
pub struct Line {
    /// Before the INSERT or `send` was written.
    pub begun_ms: u32,
    /// When COMMIT or `sent` was answered.
    pub answered_ms: u32,
    /// To whom.
    pub inbox: u8,
    /// What the handler was asked.
    pub wish: Wish,
    /// When it is due.
    pub timing: Timing,
    /// What the database answered.
    pub fate: Fate,
    /// The line of its first recipient.
    pub first: u32,
    /// It has a line for each inbox.
    pub broadcast: bool,
    seen: [Option<Seen>; SEEN_INLINE],
}

const _: () = assert!(size_of::<Line>() <= 48);

/// See the module.
pub struct Ledger {
    began: SystemTime,
    /// Every message in the order in which it was begun.
    pub lines: Vec<Line>,
    more: HashMap<u64, Vec<Seen>>,
    /// Messages with numbers that nobody gave.
    pub strangers: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { began: SystemTime::now(), lines: Vec::new(), more: HashMap::new(), strangers: 0 }
    }
}

impl Ledger {
    /// Milliseconds since the campaign began. Every process of it is on this machine and reads the same clock.
    pub fn ms(&self, at: SystemTime) -> u32 {
        at.duration_since(self.began).map_or(0, |since| u32::try_from(since.as_millis()).unwrap_or(u32::MAX))
    }

    /// Now, as [`ms`](Self::ms) has it.
    pub fn now_ms(&self) -> u32 {
        self.ms(SystemTime::now())
    }

    /// Opens a line for each of these inboxes: the first one's number. Until it is closed its fate is unknown.
    pub fn open(&mut self, inboxes: std::ops::Range<u8>, wish: Wish, timing: Timing) -> u64 {
        let (begun_ms, first) = (self.now_ms(), self.lines.len() as u32);
        let broadcast = inboxes.len() > 1;
        self.lines.extend(inboxes.map(|inbox| Line {
            begun_ms,
            answered_ms: 0,
            inbox,
            wish,
            timing,
            fate: Fate::Unknown,
            first,
            broadcast,
            seen: [None; SEEN_INLINE],
        }));
        first.into()
    }

    /// Closes the lines of a message.
    pub fn close(&mut self, n: u64, fate: Fate) {
        let now_ms = self.now_ms();
        let lines = self.lines.iter_mut().skip(n as usize).take_while(|line| u64::from(line.first) == n);
        for line in lines {
            (line.fate, line.answered_ms) = (fate, now_ms);
        }
    }

    /// Notes what an agent saw.
    pub fn see(&mut self, n: u64, seen: Seen) {
        let Some(line) = self.lines.get_mut(n as usize) else {
            self.strangers += 1;
            return;
        };
        match line.seen.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(seen),
            None => self.more.entry(n).or_default().push(seen),
        }
    }

    /// Everything that was seen of a message, by time.
    pub fn seen(&self, n: u64) -> Vec<Seen> {
        let inline = self.lines.get(n as usize).into_iter().flat_map(|line| line.seen.iter().flatten());
        let mut all: Vec<Seen> = inline.chain(self.more.get(&n).into_iter().flatten()).copied().collect();
        // Each process tells its own in order; the sort keeps that where the clock does not tell them apart.
        all.sort_by_key(|seen| seen.at_ms);
        all
    }
}

impl Line {
    /// When it came first.
    pub fn first_delivered_ms(&self) -> Option<u32> {
        let delivered = |seen: &&Seen| seen.what == What::Delivered;
        self.seen.iter().flatten().filter(delivered).map(|seen| seen.at_ms).min()
    }

    /// Whether an agent handled it, from everything that was seen of it.
    pub fn is_handled(all: &[Seen]) -> bool {
        all.iter().any(|seen| seen.what == What::Handled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(at_ms: u32, what: What) -> Seen {
        Seen { at_ms, attempt: 1, process: 0, what }
    }

    #[test]
    fn a_broadcast_has_a_line_for_each_and_one_fate() {
        let mut ledger = Ledger::default();
        let one = ledger.open(4..5, Wish::Ack, Timing::Now);
        let all = ledger.open(0..3, Wish::Ack, Timing::Now);
        ledger.close(all, Fate::Committed);
        assert_eq!((one, all, ledger.lines.len()), (0, 1, 4));
        let fates: Vec<Fate> = ledger.lines.iter().map(|line| line.fate).collect();
        assert_eq!(fates, [Fate::Unknown, Fate::Committed, Fate::Committed, Fate::Committed]);
    }

    #[test]
    fn everything_seen_is_kept_in_the_order_of_time() {
        let mut ledger = Ledger::default();
        let n = ledger.open(0..1, Wish::Ack, Timing::Now);
        for at in [5, 1, 9, 7, 3] {
            ledger.see(n, seen(at, What::Delivered));
        }
        ledger.see(99, seen(1, What::Delivered));
        let at: Vec<u32> = ledger.seen(n).iter().map(|seen| seen.at_ms).collect();
        assert_eq!((at, ledger.strangers), (vec![1, 3, 5, 7, 9], 1));
    }
}
