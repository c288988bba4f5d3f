//! Times of the database in JSON.

use std::time::SystemTime;

use serde::Serializer;

/// As RFC 3339 in UTC, such as `2026-11-24T01:02:03Z`; null for none.
pub(super) fn rfc3339<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        // humantime panics on times before 1970, which a table may well hold.
        Some(at) if *at >= SystemTime::UNIX_EPOCH => {
            serializer.collect_str(&humantime::format_rfc3339_seconds(*at))
        }
        _ => serializer.serialize_none(),
    }
}
