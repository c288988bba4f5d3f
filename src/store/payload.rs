//! Payloads as text, at a bounded cost.
//!
//! A row does not show how long its text will be: `1e131071` is stored in ten bytes and written in 131,072, and a
//! text of 60 MB may be stored in a tenth of that. So statements that read many rows make text only of small
//! payloads, and even these can blow up. Larger payloads are read here, a few at a time, after their cost is known. A
//! group that fails is halved until the row to blame is alone.

pub(super) mod blamed;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use serde_json::value::RawValue;
use tokio_postgres::Row;
use uuid::Uuid;

use super::cell::Cells;
use super::cut_off::halves;
use super::error::StoreError;
use super::pool::Pool;
use crate::store::sql::queries;
use blamed::Blamed;
use postbell_client::protocol::limits::{ENVELOPE_BYTES_MAX, LINE_BYTES_MAX};
use postbell_engine::inbox::Unfit;

/// The most bytes that payload and headers may each have, stored and unpacked, to be made text together with hundreds
/// of others. With the numbers that take the most text, that is 30 MB.
const LIGHT_BYTES_MAX: i32 = 4_096;
/// The most bytes of all names of a message together; a message with more does not fit into a line.
pub(super) const NAMES_BYTES_MAX: i32 = ENVELOPE_BYTES_MAX as i32;
/// The most bytes of text that payload and headers may have to be pushed at all.
pub(super) const TEXT_BYTES_MAX: i32 = LINE_BYTES_MAX as i32;
/// A text with more than this many bytes for each stored byte has blown up.
const BLOWN_FACTOR: usize = 16;
/// Texts of fewer bytes do not count.
const BLOWN_BYTES_MIN: usize = 1_024;
/// The most bytes of blown-up text in one statement; after that the statement is given up.
const BLOWN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How long payloads are then made text apart only.
const WARY_FOR: Duration = Duration::from_secs(60);

const _: () = assert!((LIGHT_BYTES_MAX as usize) < ENVELOPE_BYTES_MAX);

/// Whether rows have been met of late that cost more than they should, and those that cannot be read at all.
#[derive(Debug, Default)]
pub(crate) struct Wary {
    until: Mutex<Option<Instant>>,
    /// Each until a moment: somebody may mend the table and redrive it.
    blamed: Mutex<HashMap<Uuid, (Instant, Arc<str>)>>,
    blamed_total: AtomicU64,
}

impl Wary {
    /// Notes that a row cost too much, or could not be read.
    pub(crate) fn warn(&self, now: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + WARY_FOR);
    }

    /// Whether payloads must be made text apart.
    pub(crate) fn is_wary(&self, now: Instant) -> bool {
        self.until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| now < until)
    }

    /// This message cannot be read.
    pub(super) fn blame(&self, message: Uuid, error: &StoreError) {
        let mut blamed = self.blamed.lock().unwrap_or_else(PoisonError::into_inner);
        if blamed.len() < blamed::BLAMED_MAX {
            self.blamed_total.fetch_add(1, Ordering::Relaxed);
            blamed.insert(message, (Instant::now() + WARY_FOR, error.to_string().into()));
        }
    }

    /// How many messages were blamed so far.
    pub(crate) fn blamed_total(&self) -> u64 {
        self.blamed_total.load(Ordering::Relaxed)
    }

    /// Messages that cannot be read.
    pub(super) fn blamed(&self, now: Instant) -> Blamed {
        let mut blamed = self.blamed.lock().unwrap_or_else(PoisonError::into_inner);
        blamed.retain(|_, (until, _)| now < *until);
        Blamed::of(&blamed)
    }

    /// The most bytes of a payload that may be made text together with others.
    pub(super) fn light_bytes(&self, now: Instant) -> i32 {
        if self.is_wary(now) { 0 } else { LIGHT_BYTES_MAX }
    }
}

/// Adds up, over one statement, the text that was longer than its row promised.
#[derive(Debug, Default)]
pub(super) struct Weighed {
    blown: usize,
}

impl Weighed {
    /// Adds a row, before anything is made of it.
    ///
    /// # Errors
    /// There was too much blown-up text: the statement must be given up.
    pub(super) fn add(&mut self, row: &Row) -> Result<(), StoreError> {
        let stored = row.cell::<_, Option<i32>>("stored")?.unwrap_or(0);
        self.add_text(stored.unsigned_abs() as usize, row.raw_size_bytes())
    }

    fn add_text(&mut self, stored: usize, text: usize) -> Result<(), StoreError> {
        if text > BLOWN_BYTES_MIN + stored.saturating_mul(BLOWN_FACTOR) {
            self.blown = self.blown.saturating_add(text);
        }
        match self.blown > BLOWN_BYTES_MAX {
            false => Ok(()),
            true => Err(StoreError::refused(format!(
                "some messages have numbers or texts that are far larger than they are stored ({} MB so far): each \
                 is read by itself for a while",
                self.blown >> 20
            ))),
        }
    }
}

/// Whether the content of a row is to blame, so that other rows can be read: bad data (22), a limit of the server
/// (54), memory, a damaged page or another fault inside it (XX), or a statement that took too long.
fn is_of_the_row(error: &StoreError) -> bool {
    let code = error.sqlstate().unwrap_or_default();
    code.starts_with("22")
        || code.starts_with("54")
        || code.starts_with("XX")
        || matches!(code, "53200" | "57014")
}

/// Whether one row of many may be to blame: the server says so, or an answer could not be read.
pub(crate) fn may_be_a_row(error: &StoreError) -> bool {
    is_of_the_row(error)
        || blamed::is_of_the_tables(error)
        || (error.sqlstate().is_none() && !error.is_retryable())
}

/// The result of reading one payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Text {
    /// The texts, as JSON.
    Whole { payload: String, headers: Option<String> },
    /// The reason why they cannot be pushed.
    Unfit(Unfit),
}

impl Text {
    /// The payload, if it was read.
    pub(super) fn json(&self) -> Option<Box<RawValue>> {
        match self {
            Self::Whole { payload, .. } => RawValue::from_string(payload.clone()).ok(),
            Self::Unfit(_) => None,
        }
    }
}

/// Reads payloads and headers that have at most `most_bytes` of text together. A message that is not in the answer is
/// gone from the table.
///
/// # Errors
/// See [`StoreError`]: the database did not answer. A fault of one row is not an error but that row's answer.
pub(super) async fn read(
    pool: &Pool,
    messages: &[Uuid],
    most_bytes: i32,
) -> Result<HashMap<Uuid, Text>, StoreError> {
    read_unless(pool, messages, most_bytes, is_of_the_row).await
}

/// Reads payloads and headers for somebody who looks at them. An error of a user's function, which may be about one row
/// or about all, is that row's answer here: nothing is decided by the answer.
///
/// # Errors
/// See [`read`].
pub(super) async fn read_shown(
    pool: &Pool,
    messages: &[Uuid],
    most_bytes: i32,
) -> Result<HashMap<Uuid, Text>, StoreError> {
    read_unless(pool, messages, most_bytes, may_be_a_row).await
}

async fn read_unless(
    pool: &Pool,
    messages: &[Uuid],
    most_bytes: i32,
    is_a_row: fn(&StoreError) -> bool,
) -> Result<HashMap<Uuid, Text>, StoreError> {
    let mut found = HashMap::with_capacity(messages.len());
    let mut groups = vec![messages];
    while let Some(group) = groups.pop() {
        match (pool.query(queries::PAYLOAD, &[&group, &most_bytes]).await, group) {
            (Ok(rows), _) => {
                for row in &rows {
                    found.insert(row.cell("message_id")?, text(row, most_bytes));
                }
            }
            (Err(e), [message]) if is_a_row(&e) => {
                found.insert(*message, Text::Unfit(Unfit::Unreadable(e.to_string())));
            }
            (Err(e), [_, _, ..]) if is_a_row(&e) => {
                tracing::debug!(error = %e, messages = group.len(), "looking for the message that is to blame");
                groups.extend(halves(group));
            }
            (Err(e), _) => return Err(e),
        }
    }
    Ok(found)
}

fn text(row: &Row, most: i32) -> Text {
    match whole_or_sentence(row, most) {
        Ok(text) => text,
        Err(e) => Text::Unfit(Unfit::Unreadable(e.to_string())),
    }
}

fn whole_or_sentence(row: &Row, most: i32) -> Result<Text, StoreError> {
    if let Some(payload) = row.cell("payload")? {
        return Ok(Text::Whole { payload, headers: row.cell("headers")? });
    }
    let [stored, raw, bytes] = ["stored", "raw", "bytes"].map(|name| row.cell::<_, Option<i32>>(name));
    let sentence = match (stored?, raw?, row.cell::<_, Option<i64>>("digits")?, bytes?) {
        (_, _, _, Some(bytes)) => format!("payload and headers have {bytes} bytes as text"),
        (_, _, Some(digits), None) => format!("the payload's numbers have some {digits} digits"),
        (_, Some(raw), None, None) => format!("payload and headers have {raw} bytes unpacked"),
        (stored, None, _, None) => format!("payload and headers have {} bytes stored", stored.unwrap_or(0)),
    };
    Ok(Text::Unfit(Unfit::TooLarge(format!("{sentence}, and at most {most} of text can be pushed"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_blows_up_is_noticed_and_what_does_not_is_not() {
        let mut weighed = Weighed::default();
        for _ in 0..100_000 {
            assert!(weighed.add_text(100, 600).is_ok(), "escapes");
            assert!(weighed.add_text(4_096, 60_000).is_ok(), "a text that is packed well");
        }
        let mut weighed = Weighed::default();
        let rows = (0..).find(|_| weighed.add_text(16, 131_072).is_err());
        assert_eq!(rows, Some(64), "a number of 131,072 digits in each");
    }

    #[test]
    fn wariness_ends() {
        let (wary, now) = (Wary::default(), Instant::now());
        assert_eq!(wary.light_bytes(now), LIGHT_BYTES_MAX);
        wary.warn(now);
        assert_eq!(wary.light_bytes(now), 0);
        assert_eq!(wary.light_bytes(now + WARY_FOR), LIGHT_BYTES_MAX);
    }
}
