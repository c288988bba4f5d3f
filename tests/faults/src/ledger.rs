//! Every message by its number: what was asked, what the database answered, and everything that agents saw of it.
//!
//! A line is 48 bytes, so that an hour of 300 messages a second is some 50 MB. More than three events of a message
//! are rare, and are kept apart.

use std::collections::HashMap;
use std::time::SystemTime;

use serde::Serialize;

use crate::task::Wish;

/// The events that a line holds itself. Most messages have these three: delivered, handled, confirmed.
const SEEN_INLINE: usize = 3;

/// How the INSERT or the `send` ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Not answered, or the connection broke on the way: the message may be there or not.
    Unknown,
    /// COMMIT or `sent` was answered.
    Committed,
    /// Refused, rolled back, or the connection broke before COMMIT was asked for: the message must not be there.
    Never,
}

/// When a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// At once.
    Now,
    /// Later, so its delay is not judged.
    Later,
    /// At once, and it expires soon.
    Expires,
}

/// An event of a message, as an agent tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The message came.
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

/// An event that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// When, in milliseconds of the campaign.
    pub at_ms: u32,
    /// The attempt of the delivery.
    pub attempt: u16,
    /// The number of the agent process.
    pub process: u8,
    /// The step that the delivery took at the agent.
    pub what: What,
}

/// A message for one recipient.
#[derive(Clone, Debug)]
pub struct Line {
    /// When the INSERT or `send` was about to be written.
    pub begun_ms: u32,
    /// When COMMIT or `send` was answered or given up.
    pub answered_ms: u32,
    /// The recipient's inbox.
    pub inbox: u8,
    /// The task of its handler.
    pub wish: Wish,
    /// When it is due.
    pub timing: Timing,
    /// How the INSERT or `send` ended.
    pub fate: Fate,
    /// The line of the message's first recipient.
    pub first: u32,
    /// Whether the message has a line for each inbox.
    pub broadcast: bool,
    seen: [Option<Seen>; SEEN_INLINE],
}

const _: () = assert!(size_of::<Line>() <= 48);

/// The messages of a campaign.
pub struct Ledger {
    began: SystemTime,
    /// Every message in the order in which it was begun.
    pub lines: Vec<Line>,
    more: HashMap<u64, Vec<Seen>>,
    /// Events of messages with numbers that nobody gave.
    pub strangers: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { began: SystemTime::now(), lines: Vec::new(), more: HashMap::new(), strangers: 0 }
    }
}

impl Ledger {
    /// Milliseconds since the campaign began. All its processes are on this machine and read the same clock.
    pub fn ms(&self, at: SystemTime) -> u32 {
        at.duration_since(self.began).map_or(0, |since| u32::try_from(since.as_millis()).unwrap_or(u32::MAX))
    }

    /// The present moment, as [`ms`](Self::ms) counts it.
    pub fn now_ms(&self) -> u32 {
        self.ms(SystemTime::now())
    }

    /// Opens a line for each of these inboxes, and returns the number of the first. The fate is unknown until the
    /// line is closed.
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

    /// Closes all lines of a message.
    pub fn close(&mut self, n: u64, fate: Fate) {
        let now_ms = self.now_ms();
        let lines = self.lines.iter_mut().skip(n as usize).take_while(|line| u64::from(line.first) == n);
        for line in lines {
            (line.fate, line.answered_ms) = (fate, now_ms);
        }
    }

    /// Notes an event that an agent saw.
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
        // Each process tells its own events in order. The sort keeps that order within a millisecond.
        all.sort_by_key(|seen| seen.at_ms);
        all
    }
}

impl Line {
    /// When the message came first, in milliseconds of the campaign.
    pub fn first_delivered_ms(&self) -> Option<u32> {
        let delivered = |seen: &&Seen| seen.what == What::Delivered;
        self.seen.iter().flatten().filter(delivered).map(|seen| seen.at_ms).min()
    }

    /// Whether an agent handled the message, by all of its events.
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
