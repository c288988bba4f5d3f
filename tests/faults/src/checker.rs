//! The balance: compares what was sent, what agents saw and what the table says, as sets.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::episode::Episode;
use crate::ledger::{Fate, Ledger, Line, Seen, Timing, What};

/// At most so many numbers of each kind are listed.
const LISTED_MAX: usize = 20;

/// The state of a message and recipient in the tables at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How many rows of `agent_messages` have its number: a `send` that is repeated must not make two.
    pub rows: u8,
    /// `processed`, `failed`, …
    pub status: Status,
    /// Whether `agent_messages.error_message` or `deliveries.last_error` gives a reason.
    pub has_reason: bool,
    /// The message's row in `deliveries`.
    pub delivery: Option<Delivery>,
}

/// `agent_messages.status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Status {
    #[default]
    Pending,
    Processed,
    Failed,
}

/// A row of `deliveries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Ready or scheduled.
    Waiting,
    /// A dead letter.
    Dead,
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Acknowledged by an agent that handled it.
    Acknowledged,
    /// In the dead letters, with a reason.
    Dead,
    /// Failed with a reason and no delivery: it expired.
    Expired,
    /// Not in the table: its INSERT was not answered.
    NotStored,
    /// Not in the table: it was refused or rolled back.
    Refused,
    /// Still waiting in the table, though the campaign waited too.
    Waiting,
    /// Gone without any of these: a defect.
    Lost,
    /// In the table, or handled, though it was refused or rolled back; or stored twice: a defect.
    Phantom,
}

/// A message that was handled twice, or came again after its ack was committed.
#[derive(Clone, Debug, Serialize)]
pub struct Duplicate {
    /// The number that the message carries.
    pub n: u64,
    /// Whether it came again after its ack was confirmed.
    pub after_confirmed: bool,
    /// The number of the fault during which it was in flight.
    pub cause: Option<usize>,
    /// Everything that was seen of it.
    pub seen: Vec<Seen>,
}

/// The result of the comparison.
#[derive(Debug, Default, Serialize)]
pub struct Balance {
    /// How many messages and recipients ended in each way.
    pub ends: BTreeMap<End, u64>,
    /// The first defects: the number, how it ended, and everything that was seen of it.
    pub defects: Vec<(u64, End, Vec<Seen>)>,
    /// Dead letters that nobody asked for: each of their attempts ended in a fault.
    pub dead_by_faults: u64,
    /// Deliveries beyond each message's first, whether or not they were handled.
    pub redelivered: u64,
    /// The first duplicates without a cause.
    pub duplicates: Vec<Duplicate>,
    /// The number of duplicates by the number of the fault that caused them.
    pub duplicates_by_fault: BTreeMap<usize, u64>,
    /// Duplicates in all.
    pub duplicated: u64,
    /// Duplicates that came after their ack was confirmed.
    pub after_confirmed: u64,
}

impl Balance {
    /// How many ended in this way.
    pub fn count(&self, end: End) -> u64 {
        self.ends.get(&end).copied().unwrap_or(0)
    }
}

/// Draws the balance. `found` has an element for each line of the ledger.
pub fn balance(ledger: &Ledger, found: &[Found], episodes: &[Episode]) -> Balance {
    let mut balance = Balance::default();
    for ((n, line), found) in (0..).zip(&ledger.lines).zip(found) {
        let seen = ledger.seen(n);
        let end = end(line, found, &seen);
        *balance.ends.entry(end).or_default() += 1;
        if matches!(end, End::Lost | End::Phantom | End::Waiting) && balance.defects.len() < LISTED_MAX {
            balance.defects.push((n, end, seen.clone()));
        }
        balance.dead_by_faults += u64::from(end == End::Dead && !line.wish.ends_dead());
        let delivered = seen.iter().filter(|seen| seen.what == What::Delivered).count();
        balance.redelivered += (delivered as u64).saturating_sub(1);
        if let Some(duplicate) = duplicate(n, line, seen, episodes) {
            balance.add(duplicate);
        }
    }
    balance
}

impl Balance {
    fn add(&mut self, duplicate: Duplicate) {
        self.duplicated += 1;
        self.after_confirmed += u64::from(duplicate.after_confirmed);
        match duplicate.cause {
            Some(fault) => *self.duplicates_by_fault.entry(fault).or_default() += 1,
            None if self.duplicates.len() < LISTED_MAX => self.duplicates.push(duplicate),
            None => {}
        }
    }

    /// Duplicates that no fault explains.
    pub fn unexplained(&self) -> u64 {
        self.duplicated - self.duplicates_by_fault.values().sum::<u64>()
    }
}

fn end(line: &Line, found: &Found, seen: &[Seen]) -> End {
    let handled = Line::is_handled(seen);
    if found.rows > 1 {
        return End::Phantom;
    }
    if found.rows == 0 {
        return match line.fate {
            Fate::Committed => End::Lost,
            // An agent had the message, so it was committed; now it is gone.
            Fate::Unknown if !seen.is_empty() => End::Lost,
            Fate::Never if !seen.is_empty() => End::Phantom,
            Fate::Unknown => End::NotStored,
            Fate::Never => End::Refused,
        };
    }
    if line.fate == Fate::Never {
        return End::Phantom;
    }
    match (found.delivery, found.status) {
        (Some(Delivery::Waiting), _) => End::Waiting,
        (Some(Delivery::Dead), _) if found.has_reason => End::Dead,
        (None, Status::Failed) if found.has_reason && line.timing == Timing::Expires => End::Expired,
        // Each recipient of a broadcast has its own outcome: its delivery is gone, and its agent had it.
        (None, Status::Processed) if handled => End::Acknowledged,
        (None, _) if handled && line.broadcast => End::Acknowledged,
        _ => End::Lost,
    }
}

/// Judges whether a message was duplicated, and finds the fault at which it was in flight.
fn duplicate(n: u64, line: &Line, seen: Vec<Seen>, episodes: &[Episode]) -> Option<Duplicate> {
    let of = |what| seen.iter().filter(move |seen: &&Seen| seen.what == what);
    let confirmed = of(What::Confirmed).next().map(|seen| seen.at_ms);
    // A delivery in the same millisecond as the confirmation did not come after it.
    let again = confirmed.and_then(|at| of(What::Delivered).find(|seen| seen.at_ms > at));
    let twice = of(What::Handled).nth(1);
    let second = twice.or(again)?;
    // In flight: from the delivery to the first process that handled the message until the ack was confirmed, or
    // until the message came to another process.
    let first = of(What::Handled).next()?;
    let since = delivery_before(&seen, first);
    let came = delivery_before(&seen, second);
    let until = confirmed.map_or(came, |at| at.min(came));
    let (from, to) = (since.min(until), since.max(until));
    let cause = episodes.iter().find(|e| e.reached(line.inbox) && e.met(from, to)).map(|e| e.planned.number);
    Some(Duplicate { n, after_confirmed: again.is_some(), cause, seen })
}

/// The moment of the delivery that `what` answers: by the same process, of the same attempt. The process may already
/// have the next attempt in hand, over a new connection, while it still works on this one.
fn delivery_before(seen: &[Seen], what: &Seen) -> u32 {
    let it = |seen: &&Seen| {
        seen.what == What::Delivered && (seen.process, seen.attempt) == (what.process, what.attempt)
    };
    seen.iter().filter(it).map(|seen| seen.at_ms).filter(|at| *at <= what.at_ms).max().unwrap_or(what.at_ms)
}

#[cfg(test)]
mod tests;
