//! From a row of the tail or a refill to an entry of a lane.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio_postgres::Row;

use crate::inbox::{Entry, Terms};
use crate::message::{LANES, PRIORITY_HIGHEST, PRIORITY_LOWEST, Priority};
use crate::protocol::frame::MsgBody;
use crate::protocol::limits::{ENVELOPE_BYTES_MAX, LINE_BYTES_MAX, PUSH_HEAD_BYTES_MAX};
use crate::spans::Spans;

/// What a message may have in all, as text, to be read at all; what is larger is not fetched.
pub(super) const MESSAGE_BYTES_MAX: i32 = LINE_BYTES_MAX as i32;

/// The last second that RFC 3339 can write: the end of the year 9999.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

const _: () = assert!(ENVELOPE_BYTES_MAX < MESSAGE_BYTES_MAX as usize);

/// The database's clock and ours at about the same moment, so that ages need no clock of this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) database: SystemTime,
    pub(super) here: Instant,
    /// When the rows were not there yet, as far as that is known.
    pub(super) unseen: Option<Instant>,
}

impl Clocks {
    fn age(&self, created_at: SystemTime) -> Duration {
        self.database.duration_since(created_at).unwrap_or(Duration::ZERO)
    }

    fn ready(&self, created_at: SystemTime) -> Duration {
        let unseen = self.unseen.map_or(Duration::MAX, |at| self.here.saturating_duration_since(at));
        self.age(created_at).min(unseen)
    }

    fn instant(&self, at: SystemTime) -> Option<Instant> {
        match at.duration_since(self.database) {
            Ok(later) => self.here.checked_add(later),
            Err(_) => Some(self.here),
        }
    }
}

/// The inbox and the entry of a row.
pub(super) fn entry(row: &Row, clocks: &Clocks) -> (Arc<str>, Entry) {
    let inbox: &str = row.get("inbox");
    let created_at: SystemTime = row.get::<_, Option<_>>("created_at").unwrap_or(clocks.database);
    let lane = usize::try_from(row.get::<_, i16>("lane")).unwrap_or(0).min(LANES - 1);
    let entry = Entry {
        delivery_id: row.get("delivery_id"),
        message_id: row.get("message_id"),
        lane,
        attempt: u32::try_from(row.get::<_, i16>("attempt")).unwrap_or(0),
        read_at: clocks.here,
        age_when_read: clocks.age(created_at),
        ready_when_read: clocks.ready(created_at),
        expires_at: row.get::<_, Option<SystemTime>>("expires_at").and_then(|at| clocks.instant(at)),
        terms: terms(row),
        body: body(row, created_at),
    };
    (inbox.into(), entry)
}

/// As the trigger reads what the column may hold in an adopted table.
fn priority(row: &Row) -> Priority {
    let asked = row.get::<_, Option<i32>>("priority").map_or(Priority::default().get().into(), i64::from);
    Priority::new(asked.clamp(PRIORITY_HIGHEST.into(), PRIORITY_LOWEST.into())).unwrap_or_default()
}

/// Most messages have none.
fn terms(row: &Row) -> Option<Box<Terms>> {
    let text = |column| row.get::<_, Option<&str>>(column).map(Arc::from);
    let terms = Terms {
        instance: text("to_instance"),
        ordering_key: text("ordering_key"),
        trace: Spans::reads(row.get("headers")),
    };
    (terms != Terms::default()).then(|| Box::new(terms))
}

/// `None` where the line would be over the limit.
fn body(row: &Row, created_at: SystemTime) -> Option<Bytes> {
    let payload: &RawValue = serde_json::from_str(row.get::<_, Option<&str>>("payload")?).ok()?;
    let headers: Option<&RawValue> =
        row.get::<_, Option<&str>>("headers").and_then(|h| serde_json::from_str(h).ok());
    let body = MsgBody {
        id: row.get("message_id"),
        from: row.get("from_agent_id"),
        message_type: row.get("message_type"),
        priority: priority(row).get(),
        created_at: &rfc3339(created_at),
        topic: row.get("topic"),
        group: row.get("to_group"),
        correlation_id: row.get("correlation_id"),
        headers,
        payload,
    }
    .encode();
    (body.len() + PUSH_HEAD_BYTES_MAX <= LINE_BYTES_MAX).then(|| body.into())
}

/// A time that SQL may have set to anything, infinity included, as text.
pub(super) fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).min(LAST_SECOND);
    humantime::format_rfc3339_micros(SystemTime::UNIX_EPOCH + since).to_string()
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
    }

    #[test]
    fn ages_are_the_databases() {
        let mut clocks = Clocks { database: SystemTime::UNIX_EPOCH, here: Instant::now(), unseen: None };
        let earlier = SystemTime::UNIX_EPOCH - Duration::from_secs(5);
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
        assert_eq!(clocks.age(earlier), Duration::from_secs(5));
        assert_eq!(clocks.age(later), Duration::ZERO);
        assert_eq!(clocks.instant(later), Some(clocks.here + Duration::from_secs(5)));
        assert_eq!(clocks.instant(earlier), Some(clocks.here));
        assert_eq!(clocks.ready(earlier), Duration::from_secs(5));
        clocks.here += Duration::from_secs(2);
        clocks.unseen = Some(clocks.here - Duration::from_secs(2));
        assert_eq!(clocks.ready(earlier), Duration::from_secs(2), "its transaction was open for three");
        assert_eq!(clocks.ready(later), Duration::ZERO);
    }
}
