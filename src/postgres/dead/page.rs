//! A page of dead letters as the protocol shows it.

use std::time::SystemTime;

use serde_json::value::RawValue;
use tokio_postgres::Row;

use crate::message::Priority;
use crate::postgres::Pool;
use crate::postgres::error::StoreError;
use crate::postgres::row::rfc3339;
use crate::protocol::frame::dead::DeadLetter;
use crate::protocol::limits::{
    DEAD_LETTERS_BYTES_MAX, DEAD_PAYLOAD_BYTES_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX,
};

const PAGE: &str = include_str!("../../../sql/queries/dead_page.sql");

/// What JSON may make of a character: `\u0000`.
const ESCAPE_BYTES: usize = 6;
/// The most bytes that a letter takes as JSON: the statement cuts three names and a reason, and the rest is numbers, times
/// and keys.
pub const LETTER_BYTES_MAX: usize =
    ESCAPE_BYTES * (3 * NAME_BYTES_MAX + REASON_BYTES_MAX) + DEAD_PAYLOAD_BYTES_MAX + 512;

// So every page shows at least one, and asking on comes to an end.
const _: () = assert!(LETTER_BYTES_MAX <= DEAD_LETTERS_BYTES_MAX);

/// The dead letters of an inbox, the oldest first, from after a delivery on; at most so many.
///
/// # Errors
/// See [`StoreError`].
pub async fn page(pool: &Pool, inbox: &str, after: i64, most: i64) -> Result<Vec<DeadLetter>, StoreError> {
    let payload_bytes = DEAD_PAYLOAD_BYTES_MAX as i32;
    let rows = pool.query(PAGE, &[&inbox, &after, &most, &payload_bytes]).await?;
    Ok(rows.iter().map(letter).collect())
}

fn letter(row: &Row) -> DeadLetter {
    let time = |column: &str| row.get::<_, Option<SystemTime>>(column).map(rfc3339);
    let text = |column: &str| row.get::<_, Option<String>>(column);
    DeadLetter {
        id: row.get("delivery_id"),
        message_id: row.get("message_id"),
        inbox: row.get("inbox"),
        from: text("from_agent_id").unwrap_or_default(),
        message_type: text("message_type").unwrap_or_default(),
        priority: Priority::new(row.get::<_, i16>("priority").into()).unwrap_or_default().get(),
        attempts: u32::try_from(row.get::<_, i16>("attempt")).unwrap_or(0),
        reason: text("reason"),
        dead_at: time("dead_at"),
        created_at: time("created_at"),
        payload: text("payload").and_then(|payload| RawValue::from_string(payload).ok()),
    }
}
