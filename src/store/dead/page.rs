//! A page of dead letters, as the protocol shows it.

use std::time::SystemTime;

use tokio_postgres::Row;

use crate::base::moment::rfc3339;
use crate::store::Pool;
use crate::store::cell::Cells;
use crate::store::error::StoreError;
use crate::store::payload;
use crate::store::sql::queries;
use postbell_client::message::Priority;
use postbell_client::protocol::frame::dead::DeadLetter;
use postbell_client::protocol::limits::{
    DEAD_LETTERS_BYTES_MAX, DEAD_PAYLOAD_BYTES_MAX, NAME_BYTES_MAX, REASON_BYTES_MAX,
};
use postbell_engine::inbox::DeliveryId;

/// The most bytes that JSON makes of a character: `\u0000`.
const ESCAPE_BYTES: usize = 6;
/// The most bytes that a letter takes as JSON. The statement cuts three names and a reason; the rest is numbers,
/// times and keys.
pub const LETTER_BYTES_MAX: usize =
    ESCAPE_BYTES * (3 * NAME_BYTES_MAX + REASON_BYTES_MAX) + DEAD_PAYLOAD_BYTES_MAX + 512;

// Every page then shows at least one letter, so asking page by page comes to an end.
const _: () = assert!(LETTER_BYTES_MAX <= DEAD_LETTERS_BYTES_MAX);

/// Returns the dead letters of an inbox with ids above `after`, the oldest first; at most `most`.
///
/// # Errors
/// See [`StoreError`].
pub async fn page(
    pool: &Pool,
    inbox: &str,
    after: DeliveryId,
    most: i64,
) -> Result<Vec<DeadLetter>, StoreError> {
    let rows = pool.query(queries::DEAD_PAGE, &[&inbox, &after.0, &most]).await?;
    let mut letters = rows.iter().map(letter).collect::<Result<Vec<_>, _>>()?;
    let messages: Vec<_> = letters.iter().map(|letter| letter.message_id).collect();
    let texts = payload::read_shown(pool, &messages, DEAD_PAYLOAD_BYTES_MAX as i32).await?;
    for letter in &mut letters {
        letter.payload = texts.get(&letter.message_id).and_then(payload::Text::json);
    }
    Ok(letters)
}

fn letter(row: &Row) -> Result<DeadLetter, StoreError> {
    let time = |column| Ok::<_, StoreError>(row.cell::<_, Option<SystemTime>>(column)?.map(rfc3339));
    Ok(DeadLetter {
        id: row.cell("delivery_id")?,
        message_id: row.cell("message_id")?,
        inbox: row.text("inbox")?.unwrap_or_default(),
        from: row.text("from_agent_id")?.unwrap_or_default(),
        message_type: row.text("message_type")?.unwrap_or_default(),
        priority: Priority::new(row.cell::<_, i16>("priority")?.into()).unwrap_or_default().get(),
        attempts: u32::try_from(row.cell::<_, i16>("attempt")?).unwrap_or(0),
        reason: row.text("reason")?,
        dead_at: time("dead_at")?,
        created_at: time("created_at")?,
        payload: None,
    })
}
