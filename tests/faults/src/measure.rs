//! How long deliveries took, and when they resumed after each fault: from the ledger alone.

use serde::Serialize;

use crate::agents::INBOXES;
use crate::episode::Episode;
use crate::ledger::{Fate, Ledger, Line, Timing};

/// Milliseconds after a fault in which its effect is looked for, before later faults confuse it.
const LOOK_MS: u32 = 60_000;

/// The effect of a fault on deliveries. Times are milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// From the moment of the promise until every inbox that the fault reached had a message that was sent after that
    /// moment; `None` if some inbox never had one.
    pub resumed_ms: Option<u32>,
    /// The longest delay of a message that was on its way at the fault or shortly after.
    pub longest_ms: u32,
}

/// The effect of each fault.
pub fn effects(ledger: &Ledger, episodes: &[Episode]) -> Vec<Effect> {
    let effect =
        |e: &Episode| Effect { resumed_ms: resumed_ms(ledger, e), longest_ms: longest_at(ledger, e) };
    episodes.iter().map(effect).collect()
}

/// The longest delay of a message that no fault touched.
pub fn quiet_longest_ms(ledger: &Ledger, episodes: &[Episode]) -> u32 {
    let mut longest = 0;
    for line in ledger.lines.iter().filter(|line| is_prompt(line)) {
        let Some(delivered) = line.first_delivered_ms() else { continue };
        let met = |e: &Episode| e.skipped.is_none() && e.delayed(line.begun_ms, delivered);
        let delay = delay_ms(line, delivered);
        if delay > longest && !episodes.iter().any(met) {
            longest = delay;
        }
    }
    longest
}

fn resumed_ms(ledger: &Ledger, episode: &Episode) -> Option<u32> {
    let (since, _) = episode.promise();
    let mut first = [None; INBOXES as usize];
    for line in begun_in(ledger, since, since + LOOK_MS).filter(|line| is_prompt(line)) {
        let place = &mut first[usize::from(line.inbox)];
        let delivered = line.first_delivered_ms();
        *place = (*place).into_iter().chain(delivered).min();
    }
    let mut last = since;
    for inbox in (0..INBOXES).filter(|inbox| episode.reached(*inbox)) {
        last = last.max(first[usize::from(inbox)]?);
    }
    Some(last - since)
}

fn longest_at(ledger: &Ledger, episode: &Episode) -> u32 {
    let delay = |line: &Line| {
        let delivered = line.first_delivered_ms()?;
        let met = episode.reached(line.inbox) && episode.delayed(line.begun_ms, delivered);
        met.then(|| delay_ms(line, delivered))
    };
    let about = begun_in(ledger, episode.begun_ms.saturating_sub(LOOK_MS), episode.ended_ms + LOOK_MS);
    about.filter(|line| is_prompt(line)).filter_map(delay).max().unwrap_or(0)
}

/// The lines that were begun between two moments. Lines are in the order of their beginning.
fn begun_in(ledger: &Ledger, from_ms: u32, to_ms: u32) -> impl Iterator<Item = &Line> {
    let first = ledger.lines.partition_point(|line| line.begun_ms < from_ms);
    ledger.lines[first..].iter().take_while(move |line| line.begun_ms < to_ms)
}

fn is_prompt(line: &Line) -> bool {
    line.fate == Fate::Committed && line.timing == Timing::Now
}

/// The delay from the answer to COMMIT until the delivery; 0 if the delivery came before the answer.
fn delay_ms(line: &Line, delivered_ms: u32) -> u32 {
    delivered_ms.saturating_sub(line.answered_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Seen, What};
    use crate::schedule::{Fault, Planned};
    use crate::task::Wish;

    /// A message to each inbox for each pair of times: begun, and delivered.
    fn ledger(times: &[(u32, Option<u32>)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (begun_ms, delivered_ms) in times {
            for inbox in 0..INBOXES {
                let n = ledger.open(inbox..inbox + 1, Wish::Ack, Timing::Now);
                ledger.close(n, Fate::Committed);
                let line = &mut ledger.lines[n as usize];
                (line.begun_ms, line.answered_ms) = (*begun_ms, *begun_ms);
                if let Some(at_ms) = *delivered_ms {
                    ledger.see(n, Seen { at_ms, attempt: 1, process: 0, what: What::Delivered });
                }
            }
        }
        ledger
    }

    fn killed(begun_ms: u32, ended_ms: u32) -> Episode {
        let planned = Planned { number: 1, at_ms: 0, lasting_ms: 0, fault: Fault::KillBroker { broker: 0 } };
        let name = String::new();
        Episode { planned, name, begun_ms, ended_ms, inbox: None, skipped: None, note: None, defect: None }
    }

    #[test]
    fn delivery_resumes_with_the_first_message_that_was_sent_after_the_fault() {
        let ledger =
            ledger(&[(900, Some(1_100)), (1_050, Some(1_900)), (1_060, Some(1_300)), (9_000, Some(9_001))]);
        let effect = effects(&ledger, &[killed(1_000, 1_500)])[0];
        assert_eq!(effect.resumed_ms, Some(300), "what was sent before the fault says nothing");
        assert_eq!(effect.longest_ms, 850);
    }

    #[test]
    fn an_inbox_that_gets_nothing_has_not_resumed() {
        let mut ledger = ledger(&[(1_050, Some(1_060))]);
        assert_eq!(effects(&ledger, &[killed(1_000, 1_500)])[0].resumed_ms, Some(60));
        ledger.lines[3].inbox = 4;
        assert_eq!(effects(&ledger, &[killed(1_000, 1_500)])[0].resumed_ms, None);
    }

    #[test]
    fn a_quiet_delay_is_one_that_no_fault_met() {
        let ledger = ledger(&[(1_000, Some(4_000)), (30_000, Some(30_040))]);
        assert_eq!(quiet_longest_ms(&ledger, &[killed(1_000, 1_500)]), 40);
        assert_eq!(quiet_longest_ms(&ledger, &[]), 3_000);
    }
}
