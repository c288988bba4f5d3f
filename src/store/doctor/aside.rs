//! Writes that the user's tables do not take.

use super::Check;
use crate::store::aside::{COUNTED_MAX, Count, counts_on};
use crate::store::connection::Connection;
use crate::store::error::StoreError;

/// One check for each kind that is set aside, with one of its reasons.
pub(super) async fn set_aside(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let counts = counts_on(connection).await?;
    if counts.is_empty() {
        return Ok(vec![Check::ok("set aside", "the tables take all that is written to them")]);
    }
    Ok(counts.iter().map(|count| Check::warn("set aside", sentence(count))).collect())
}

fn sentence(found: &Count) -> String {
    let Count { kind, count, reason, reasons, inbox, .. } = found;
    let or_more = if *count >= COUNTED_MAX.unsigned_abs() { " or more" } else { "" };
    let others = match reasons {
        1 => String::new(),
        n => format!(" (and {} other reasons)", n - 1),
    };
    if kind == "presence" {
        return format!(
            "the registry does not take the presence of {count}{or_more} agents, such as {inbox}: {reason}{others}"
        );
    }
    format!(
        "{count}{or_more} outcomes ({kind}) could not be written to agent_messages, such as of {inbox}: {reason}{others}. \
         `postbell aside list` shows each; a broker writes them by itself once it is mended, `postbell aside retry --all` \
         at once"
    )
}
