//! Writes a batch; if the database does not take it as it is, halves it until the send to blame stands alone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::item::{Item, Verdict};
use crate::store::publish::{Held, Outgoing, Patience, Stored, Writer, held};

/// How long the halves of a batch may wait in all. Sends that are left then are tried again later, as a batch.
const WAITED_MAX: Duration = Duration::from_millis(300);

/// The sends of a batch that are not answered yet.
#[derive(Default)]
pub(super) struct Left {
    /// Sends that had to wait when they were tried alone, and why.
    pub(super) held: Vec<(Item, Held)>,
    /// Sends for which no time was left.
    pub(super) untried: Vec<Item>,
    /// Whether the whole batch was too slow although none of its sends is slow alone.
    pub(super) too_large: bool,
}

/// Writes a batch and answers every send except those in the returned `Left`. The whole batch is given the patience
/// `first`, its halves `then`.
pub(super) async fn write(
    writer: &mut Writer,
    batch: Vec<Item>,
    (first, then): (Patience, Patience),
    mut tell: impl FnMut(Item, Verdict),
) -> Left {
    let mut left = Left::default();
    let mut parts = VecDeque::from([batch]);
    let (mut waited, mut patience, mut was_slow) = (Duration::ZERO, first, false);
    while let Some(mut part) = parts.pop_front() {
        if waited > WAITED_MAX {
            left.untried.append(&mut part);
            continue;
        }
        let began = Instant::now();
        let messages: Vec<&Outgoing> = part.iter().map(|item| &item.message).collect();
        let error = match writer.publish(&messages, patience).await {
            Ok(stored) => {
                part.into_iter().zip(stored).for_each(|(item, stored)| tell(item, verdict(stored)));
                continue;
            }
            Err(error) => error,
        };
        // If the connection goes on, a passing error may come from one row: raised by its trigger, or by a table
        // elsewhere.
        let waits = held(&error).or_else(|| (error.is_retryable() && writer.is_open()).then_some(Held::Lock));
        if waits.is_none() && error.is_retryable() {
            // The server cannot be reached, so the rest is not tried.
            let sentence = error.to_string();
            let rest = part.into_iter().chain(parts.into_iter().flatten());
            rest.for_each(|item| tell(item, Verdict::Unknown(sentence.clone())));
            return left;
        }
        if waits.is_some() {
            // The halves' time does not include the wait of the whole batch.
            waited += if patience == then { began.elapsed() } else { Duration::ZERO };
            was_slow |= waits == Some(Held::Slow);
        }
        patience = then;
        match (part.len(), waits) {
            (1, Some(waits)) => left.held.extend(part.into_iter().map(|item| (item, waits))),
            (1, None) => {
                part.into_iter().for_each(|item| tell(item, Verdict::Refused(error.to_string())));
            }
            (n, _) => {
                let second = part.split_off(n / 2);
                parts.push_front(second);
                parts.push_front(part);
            }
        }
    }
    left.too_large = was_slow && left.held.is_empty();
    left
}

fn verdict(stored: Stored) -> Verdict {
    match stored {
        Stored::As(id) => Verdict::Stored(id),
        Stored::FirstIsGone => Verdict::NotStored(
            "the first message with this dedupe_key was just removed, or a trigger of agent_messages keeps this one out".to_owned(),
        ),
        Stored::KeptOut => Verdict::Refused(
            "a trigger or a rule of agent_messages keeps this message out without an error: it is not stored, and `postbell \
             doctor` names what could do so"
                .to_owned(),
        ),
    }
}
