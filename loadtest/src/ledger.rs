//! Every message by its number: when it should have been sent, whether it was committed, when and how often it came.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::report::Count;

/// After so long without a receipt, missing messages count as lost: far over the promise of 5 s.
const LOST_AFTER: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// One message and recipient.
#[derive(Default)]
struct Line {
    /// Nanoseconds since the ledger's beginning, plus one; 0: never.
    intended: AtomicU64,
    received: AtomicU64,
    receipts: AtomicU16,
    committed: AtomicBool,
}

/// The messages of a run. Lines are numbered from 0.
pub(crate) struct Ledger {
    began: Instant,
    lines: Vec<Line>,
    committed: AtomicUsize,
    received: AtomicUsize,
    unknown: AtomicUsize,
}

impl Ledger {
    pub(crate) fn new(lines: usize) -> Self {
        Self {
            began: Instant::now(),
            lines: (0..lines).map(|_| Line::default()).collect(),
            committed: AtomicUsize::new(0),
            received: AtomicUsize::new(0),
            unknown: AtomicUsize::new(0),
        }
    }

    /// Sets the moment at which the message should be sent, whether or not the sender is late: latency counts from
    /// here.
    pub(crate) fn intend(&self, n: usize, at: Instant) {
        self.lines[n].intended.store(self.stamp(at), Ordering::Relaxed);
    }

    /// Notes that the INSERT is committed.
    pub(crate) fn commit(&self, n: usize) {
        if !self.lines[n].committed.swap(true, Ordering::Relaxed) {
            self.committed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes messages that were sent at one moment and committed by one statement.
    pub(crate) fn commit_all(&self, lines: Range<usize>, intended: Instant) {
        for n in lines {
            self.intend(n, intended);
            self.commit(n);
        }
    }

    /// Notes that the message came.
    pub(crate) fn receive(&self, n: usize, at: Instant) {
        let Some(line) = self.lines.get(n) else {
            self.unknown.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if line.receipts.fetch_add(1, Ordering::Relaxed) == 0 {
            line.received.store(self.stamp(at), Ordering::Relaxed);
            self.received.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many are committed so far.
    pub(crate) fn committed(&self) -> usize {
        self.committed.load(Ordering::Relaxed)
    }

    /// How many came so far.
    pub(crate) fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until so many have come, or until none comes any more; [`count`](Self::count) then tells what is lost.
    pub(crate) async fn wait_for(&self, received: usize) {
        let (mut last, mut since) = (self.received(), Instant::now());
        while self.received() < received && since.elapsed() < LOST_AFTER {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.received() != last {
                (last, since) = (self.received(), Instant::now());
            }
        }
    }

    /// From the intended moment to the receipt; `None` if it never came.
    pub(crate) fn latency(&self, n: usize) -> Option<Duration> {
        let line = &self.lines[n];
        let (sent, came) = (line.intended.load(Ordering::Relaxed), line.received.load(Ordering::Relaxed));
        (sent > 0 && came > 0).then(|| Duration::from_nanos(came.saturating_sub(sent)))
    }

    /// Takes a message out of the balance that still waits in the table after a run that did not want all.
    pub(crate) fn still_waits(&self, n: usize) {
        if let Some(line) = self.lines.get(n)
            && line.receipts.load(Ordering::Relaxed) == 0
        {
            line.committed.store(false, Ordering::Relaxed);
        }
    }

    /// When the message came; `None` if it never did.
    pub(crate) fn received_at(&self, n: usize) -> Option<Instant> {
        match self.lines[n].received.load(Ordering::Relaxed) {
            0 => None,
            stamp => Some(self.began + Duration::from_nanos(stamp - 1)),
        }
    }

    /// The balance of the run.
    ///
    /// # Errors
    /// A message came that was never sent: the counting itself is wrong.
    pub(crate) fn count(&self) -> anyhow::Result<Count> {
        let unknown = self.unknown.load(Ordering::Relaxed);
        if unknown > 0 {
            bail!("{unknown} messages came with a number that was never sent");
        }
        let mut count = Count::default();
        for line in &self.lines {
            let (committed, receipts) =
                (line.committed.load(Ordering::Relaxed), u64::from(line.receipts.load(Ordering::Relaxed)));
            count.sent += u64::from(committed);
            count.received += u64::from(receipts > 0);
            count.lost += u64::from(committed && receipts == 0);
            count.duplicated += receipts.saturating_sub(1);
        }
        Ok(count)
    }

    fn stamp(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_nanos() as u64 + 1
    }
}

/// The number in a payload that [`crate::load::payload`] made, as the database writes it.
pub(crate) fn number(payload: &str) -> Option<usize> {
    let digits = payload.strip_prefix("{\"n\":")?.trim_start();
    let end = digits.find(|c: char| !c.is_ascii_digit())?;
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_and_never_came_is_lost_and_a_second_receipt_is_a_duplicate() {
        let (ledger, now) = (Ledger::new(4), Instant::now());
        ledger.commit_all(0..3, now);
        ledger.receive(0, now + Duration::from_millis(3));
        ledger.receive(0, now + Duration::from_millis(9));
        ledger.receive(2, now);
        let count = ledger.count().expect("counts");
        assert_eq!(count, Count { sent: 3, received: 2, lost: 1, duplicated: 1 });
        assert_eq!(ledger.latency(0), Some(Duration::from_millis(3)), "the first receipt counts");
        assert_eq!(ledger.latency(1), None);
        assert_eq!((ledger.committed(), ledger.received()), (3, 2));
    }

    #[test]
    fn a_message_that_nobody_sent_spoils_the_count() {
        let ledger = Ledger::new(1);
        ledger.receive(7, Instant::now());
        assert!(ledger.count().is_err());
    }

    #[test]
    fn a_number_is_read_from_a_payload() {
        assert_eq!(number(r#"{"n": 123, "pad": "x"}"#), Some(123));
        assert_eq!(number(r#"{"n":0}"#), Some(0));
        assert_eq!(number(r#"{"m": 1}"#), None);
        assert_eq!(number(r#"{"n": "x"}"#), None);
    }
}
