//! A batch that the database does not take as it is: halved until what is wrong with it stands alone.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::item::{Item, Verdict};
use crate::store::publish::{Held, Outgoing, Patience, Stored, Writer, held};

/// How long the halves of a batch may wait in all; what is left then is tried again later, as a batch.
const WAITED_MAX: Duration = Duration::from_millis(300);

/// What a batch came to, besides what was told.
#[derive(Default)]
pub(super) struct Left {
    /// Each of these alone had to wait.
    pub(super) held: Vec<(Item, Held)>,
    /// There was no time to try these again.
    pub(super) untried: Vec<Item>,
    /// The whole batch was too slow, and none of it alone is to blame.
    pub(super) too_large: bool,
}

/// Writes a batch; tells what became of each but for those that are left. The whole is given `first`, halves of it `then`.
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
        // What passes on a connection that goes on may be one row's: raised by its trigger, by a table elsewhere.
        let waits = held(&error).or_else(|| (error.is_retryable() && writer.is_open()).then_some(Held::Lock));
        if waits.is_none() && error.is_retryable() {
            // The server is away: nothing is gained by asking it for the rest.
            let sentence = error.to_string();
            let rest = part.into_iter().chain(parts.into_iter().flatten());
            rest.for_each(|item| tell(item, Verdict::Unknown(sentence.clone())));
            return left;
        }
        if waits.is_some() {
            // The whole batch's own wait is not the halves' fault.
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
