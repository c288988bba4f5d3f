//! The latest messages of an agent.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::base::moment::rfc3339;
use crate::store::cell::Cells;
use crate::store::error::StoreError;
use crate::store::payload;
use crate::store::pool::Pool;
use crate::store::sql::queries;

/// The most messages in one answer.
pub const MESSAGES_MAX: i64 = 200;
/// Messages that are over are looked for among this many of the newest: some 20 ms of the database.
const LOOKED_AT: i64 = 20_000;
/// The longest payload that is shown, in bytes of text.
const PAYLOAD_BYTES_MAX: i32 = 4_096;

/// A message from or to an agent, and its delivery if there still is one. Times are RFC 3339.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the columns of agent_messages and deliveries")]
pub struct ListedMessage {
    pub id: Uuid,
    pub from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The topic, the environment or the group, for a message to many or to one of many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub many: Option<String>,
    #[serde(rename = "type")]
    pub message_type: String,
    pub priority: i64,
    pub status: Option<String>,
    pub created_at: Option<String>,
    pub delivered_at: Option<String>,
    pub processed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The delivery, if it is not settled yet or is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
}

/// The delivery of a message.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "the columns of deliveries")]
pub struct DeliveryState {
    pub id: i64,
    pub state: String,
    pub failed_attempts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The number of recipients that have not settled the message yet.
    pub open: i64,
}

/// Returns the latest messages from and to an agent, the newest first, and the time by the database's clock.
///
/// # Errors
/// See [`StoreError`].
pub async fn messages(
    pool: &Pool,
    agent: &str,
    limit: i64,
) -> Result<(Vec<ListedMessage>, Option<String>), StoreError> {
    let limit = limit.clamp(1, MESSAGES_MAX);
    let rows = match pool.query(queries::STATUS_MESSAGES, &[&agent, &limit, &LOOKED_AT]).await {
        // One of the newest messages cannot be read: these are left out, and the agent's open ones are shown.
        Err(e) if !e.is_retryable() => {
            pool.query(queries::STATUS_MESSAGES, &[&agent, &limit, &0_i64]).await?
        }
        rows => rows?,
    };
    let read_at = match rows.first() {
        Some(row) => Some(rfc3339(row.cell("read_at")?)),
        None => None,
    };
    let mut found = rows.iter().map(message).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<_> = found.iter().map(|message| message.id).collect();
    let texts = payload::read_shown(pool, &ids, PAYLOAD_BYTES_MAX).await?;
    for message in &mut found {
        message.payload = texts.get(&message.id).and_then(payload::Text::json);
    }
    Ok((found, read_at))
}

fn message(row: &Row) -> Result<ListedMessage, StoreError> {
    let time = |column| Ok::<_, StoreError>(row.cell::<_, Option<SystemTime>>(column)?.map(rfc3339));
    let text = |column| row.text(column);
    let delivery = match row.cell("delivery_id")? {
        None => None,
        Some(id) => Some(DeliveryState {
            id,
            state: text("state")?.unwrap_or_default(),
            failed_attempts: row.cell::<_, Option<i16>>("attempt")?.unwrap_or(0).into(),
            due_at: time("due_at")?,
            dead_at: time("dead_at")?,
            reason: text("last_error")?,
            open: row.cell::<_, Option<i64>>("open")?.unwrap_or(1),
        }),
    };
    Ok(ListedMessage {
        id: row.cell("message_id")?,
        from: text("from_agent_id")?.unwrap_or_default(),
        to: text("to_agent_id")?,
        many: text("many")?,
        message_type: text("message_type")?.unwrap_or_default(),
        priority: row.cell::<_, Option<i64>>("priority")?.unwrap_or(5),
        status: text("status")?,
        created_at: time("created_at")?,
        delivered_at: time("delivered_at")?,
        processed_at: time("processed_at")?,
        deliver_at: time("deliver_at")?,
        error: text("error_message")?,
        delivery,
        payload: None,
    })
}
