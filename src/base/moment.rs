//! Times as RFC 3339. SQL may hold any time, from -infinity to infinity, and the library that writes times
//! panics outside 1970 to 9999. So every time is written here, and `clippy.toml` forbids the library's
//! functions elsewhere.
#![allow(clippy::disallowed_methods, reason = "the one place that bounds what it writes")]

use std::time::{Duration, SystemTime};

/// The last second that RFC 3339 can write: the end of the year 9999.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// With microseconds, as `2026-11-24T01:02:03.000004Z`. A time outside 1970 to 9999 becomes the nearest time
/// inside.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_micros(bounded(at)).to_string()
}

/// With milliseconds; otherwise as [`rfc3339`].
pub(crate) fn rfc3339_millis(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(bounded(at)).to_string()
}

/// With whole seconds; otherwise as [`rfc3339`].
pub(crate) fn rfc3339_seconds(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(bounded(at)).to_string()
}

/// As JSON with whole seconds; null for `None` and for times before 1970.
///
/// # Errors
/// The serializer's.
pub(crate) fn serialize<S: serde::Serializer>(
    at: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) if *at >= SystemTime::UNIX_EPOCH => serializer.collect_str(&rfc3339_seconds(*at)),
        _ => serializer.serialize_none(),
    }
}

fn bounded(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).min(LAST_SECOND);
    SystemTime::UNIX_EPOCH + since
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_that_sql_can_hold_is_written() {
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH), "1970-01-01T00:00:00.000000Z");
        assert_eq!(rfc3339(SystemTime::UNIX_EPOCH - Duration::from_secs(9)), "1970-01-01T00:00:00.000000Z");
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(10_u64.pow(12));
        assert_eq!(rfc3339(far), "9999-12-31T23:59:59.000000Z");
        assert_eq!(rfc3339_millis(far), "9999-12-31T23:59:59.000Z");
        assert_eq!(rfc3339_seconds(far), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn json_has_null_where_there_is_no_time_to_say() {
        #[derive(serde::Serialize)]
        struct Row(#[serde(serialize_with = "serialize")] Option<SystemTime>);
        let text = |at| serde_json::to_string(&Row(at)).expect("serializes");
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(10_u64.pow(12));
        assert_eq!(text(Some(far)), "\"9999-12-31T23:59:59Z\"");
        assert_eq!(text(Some(SystemTime::UNIX_EPOCH - Duration::from_secs(9))), "null");
        assert_eq!(text(None), "null");
    }
}
