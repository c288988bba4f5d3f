//! Writes a batch; if the database does not take it as it is, halves it until the send to blame stands alone.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

use super::item::{Item, Verdict};
use crate::store::StoreError;
use crate::store::cut_off::Losses;
use crate::store::publish::{InsertPatience, Looked, NewMessage, Stored, WaitReason, Writer, held};

/// How long the halves of a batch may wait in all. Sends that are left then are tried again later, as a batch.
const WAITED_MAX: Duration = Duration::from_millis(300);
/// A batch that loses so many connections is searched, since each of them could be opened.
const LOST_MAX: u32 = 2;

/// The sends of a batch that are not answered yet.
#[derive(Default)]
pub(super) struct Left {
    /// Sends that had to wait when they were tried alone, and why.
    pub(super) held: Vec<(Item, WaitReason)>,
    /// The words of the database to the last of them.
    pub(super) why: Option<String>,
    /// Sends for which no time was left.
    pub(super) untried: Vec<Item>,
    /// Whether the whole batch was too slow although none of its sends is slow alone.
    pub(super) too_large: bool,
}

/// Writes a batch and answers every send except those in the returned `Left`. The whole batch is given the patience
/// `first`, its halves `then`. `losses` bounds how many connections the search for one send may lose.
pub(super) async fn write(
    (writer, losses): (&mut Writer, &mut Losses),
    batch: Vec<Item>,
    (first, then): (InsertPatience, InsertPatience),
    mut tell: impl FnMut(Item, Verdict),
) -> Left {
    let mut left = Left::default();
    let mut parts = VecDeque::from([batch]);
    let (mut waited, mut patience, mut was_slow, mut lost) = (Duration::ZERO, first, false, 0);
    while let Some(mut part) = parts.pop_front() {
        if waited > WAITED_MAX {
            left.untried.append(&mut part);
            continue;
        }
        let began = Instant::now();
        let error = match writer.publish(&messages(&part), patience).await {
            Ok(stored) => {
                part.into_iter().zip(stored).for_each(|(item, stored)| tell(item, verdict(stored)));
                continue;
            }
            Err(error) => error,
        };
        // A passing error may come from one row: raised by its trigger, or by a table elsewhere.
        let kept = writer.is_open();
        let mut waits = held(&error);
        if waits.is_none() && error.is_retryable() && writer.may_be_a_send(&error, then).await {
            waits = Some(if kept { WaitReason::Lock } else { WaitReason::ReadOnly });
        }
        if waits.is_none() && error.is_retryable() {
            // Without an answer the server process may have ended at a row.
            let Some(stored) = look(writer, losses, &part, then).await else {
                let sentence = error.to_string();
                let rest = part.into_iter().chain(parts.into_iter().flatten());
                rest.for_each(|item| tell(item, Verdict::Unknown(sentence.clone())));
                return left;
            };
            let (done, open): (Vec<_>, Vec<_>) =
                part.into_iter().partition(|item| stored.contains(&item.message.id));
            for item in done {
                let id = item.message.id;
                tell(item, Verdict::Stored(id));
            }
            part = open;
            lost += 1;
            if part.is_empty() {
                continue;
            }
            if lost < LOST_MAX {
                parts.push_front(part);
                continue;
            }
        } else if waits.is_some() {
            // The halves' time does not include the wait of the whole batch.
            waited += if patience == then { began.elapsed() } else { Duration::ZERO };
            was_slow |= waits == Some(WaitReason::Slow);
        }
        patience = then;
        match (part.len(), waits) {
            (1, Some(waits)) => {
                left.held.extend(part.into_iter().map(|item| (item, waits)));
                left.why = Some(error.to_string());
            }
            (1, None) => tell(part.remove(0), refusal(error)),
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

fn messages(part: &[Item]) -> Vec<&NewMessage> {
    part.iter().map(|item| &item.message).collect()
}

/// Which of a part's messages are stored after its connection was lost. `None`: the server cannot be reached or takes no
/// insert, or too many connections were lost, so nothing further is tried.
async fn look(
    writer: &mut Writer,
    losses: &mut Losses,
    part: &[Item],
    patience: InsertPatience,
) -> Option<HashSet<Uuid>> {
    let now = Instant::now();
    if losses.are_too_many(now) {
        return None;
    }
    losses.add(now);
    match writer.look(&messages(part), patience).await {
        Ok(Looked::Stored(stored)) => Some(stored),
        Ok(Looked::Standby) | Err(_) => None,
    }
}

fn refusal(error: StoreError) -> Verdict {
    match error.is_retryable() {
        true => Verdict::Lost(error),
        false => Verdict::Refused(error.to_string()),
    }
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
