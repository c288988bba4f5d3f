//! Dead letters: deliveries that were given up, with the reason. Dead letters leave only by redrive or purge.

mod batch;
mod done;
mod page;
mod ruled;

use std::time::SystemTime;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use uuid::Uuid;

use super::cell::Cells;
use super::error::StoreError;
use super::payload::{self, Text};
use super::pool::Pool;
use crate::base::moment;
use crate::store::sql::queries;

pub use batch::{purge, purge_some, redrive, redrive_some};
pub use done::{Done, Partly, Refusal};
pub use page::{LETTER_BYTES_MAX, page};

/// The most bytes of payload and headers, as text, that an operator is shown.
const SHOWN_BYTES_MAX: i32 = 16 * 1024 * 1024;

/// A filter for a list of dead letters.
#[derive(Clone, Debug, Default)]
pub struct Filter<'a> {
    /// Only dead letters of this inbox.
    pub inbox: Option<&'a str>,
    /// Only dead letters with this text in the reason.
    pub reason: Option<&'a str>,
    /// Only deliveries with a lower id: the last one of the page before.
    pub before: Option<i64>,
    /// The most dead letters of a page.
    pub limit: i64,
}

/// A choice of dead letters to redrive or purge.
#[derive(Clone, Debug)]
pub enum Chosen<'a> {
    /// These deliveries.
    Ids(&'a [i64]),
    /// All dead letters of this inbox.
    Inbox(&'a str),
    /// All dead letters.
    All,
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the columns of deliveries and agent_messages")]
pub struct DeadLetter {
    /// The number by which redrive and purge name it.
    pub delivery_id: i64,
    pub message_id: Uuid,
    pub inbox: String,
    pub from_agent_id: String,
    pub message_type: String,
    pub priority: i16,
    /// The number of failed attempts.
    pub attempt: i16,
    pub reason: Option<String>,
    #[serde(serialize_with = "moment::serialize")]
    pub dead_at: Option<SystemTime>,
    #[serde(serialize_with = "moment::serialize")]
    pub created_at: Option<SystemTime>,
}

/// A dead letter with everything that is stored of its message.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the columns of agent_messages")]
pub struct DeadMessage {
    #[serde(flatten)]
    pub letter: DeadLetter,
    #[serde(serialize_with = "moment::serialize")]
    pub expires_at: Option<SystemTime>,
    pub correlation_id: Option<String>,
    pub dedupe_key: Option<String>,
    pub headers: Option<Box<RawValue>>,
    /// The payload; null if it is left out.
    pub payload: Box<RawValue>,
    /// The reason why payload and headers are not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// Returns a page of dead letters, the newest first.
///
/// # Errors
/// See [`StoreError`].
pub async fn list(pool: &Pool, filter: &Filter<'_>) -> Result<Vec<DeadLetter>, StoreError> {
    let Filter { inbox, reason, before, limit } = filter;
    let rows = pool.query(queries::DEAD_LIST, &[inbox, reason, before, limit]).await?;
    rows.iter().map(letter).collect()
}

/// Returns the dead letters of a delivery or of a message, with payloads. `id` is a delivery's number or a message's
/// UUID.
///
/// # Errors
/// `id` is neither, or no dead letter has it.
pub async fn show(pool: &Pool, id: &str) -> Result<Vec<DeadMessage>, StoreError> {
    let (delivery, message) = (id.parse::<i64>().ok(), Uuid::parse_str(id).ok());
    if delivery.is_none() && message.is_none() {
        return Err(StoreError::refused(format!("{id} is neither a delivery's number nor a message's id")));
    }
    let rows = pool.query(queries::DEAD_SHOW, &[&delivery, &message]).await?;
    if rows.is_empty() {
        return Err(StoreError::refused(format!(
            "{id} is no dead letter: `postbell dead list` shows those there are"
        )));
    }
    let messages = rows.iter().map(|row| row.cell("message_id")).collect::<Result<Vec<Uuid>, _>>()?;
    let texts = payload::read_shown(pool, &messages, SHOWN_BYTES_MAX).await?;
    let shown = rows.iter().zip(&messages).map(|(row, id)| dead_message(row, texts.get(id)));
    shown.collect()
}

fn letter(row: &Row) -> Result<DeadLetter, StoreError> {
    Ok(DeadLetter {
        delivery_id: row.cell("delivery_id")?,
        message_id: row.cell("message_id")?,
        inbox: row.text("inbox")?.unwrap_or_default(),
        from_agent_id: row.text("from_agent_id")?.unwrap_or_default(),
        message_type: row.text("message_type")?.unwrap_or_default(),
        priority: row.cell("priority")?,
        attempt: row.cell("attempt")?,
        reason: row.text("reason")?,
        dead_at: row.cell("dead_at")?,
        created_at: row.cell("created_at")?,
    })
}

fn dead_message(row: &Row, text: Option<&Text>) -> Result<DeadMessage, StoreError> {
    let (headers, payload, left_out) = match text {
        Some(Text::Whole { payload, headers }) => {
            (headers.clone().and_then(json), json(payload.clone()), None)
        }
        Some(Text::Unfit(unfit)) => (None, None, Some(unfit.sentence().to_owned())),
        None => (None, None, Some("the message is gone".to_owned())),
    };
    Ok(DeadMessage {
        letter: letter(row)?,
        expires_at: row.cell("expires_at")?,
        correlation_id: row.text("correlation_id")?,
        dedupe_key: row.text("dedupe_key")?,
        headers,
        payload: payload.unwrap_or_else(|| RawValue::NULL.to_owned()),
        left_out,
    })
}

fn json(text: String) -> Option<Box<RawValue>> {
    RawValue::from_string(text).ok()
}
