//! Makes an entry of a lane from a row of the tail or a refill.

use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use uuid::Uuid;

use super::cell::Cells;
use super::error::StoreError;
use crate::base::moment::rfc3339;
use crate::base::trace;
use postbell_client::message::{LANES, PRIORITY_HIGHEST, PRIORITY_LOWEST, Priority};
use postbell_client::protocol::frame::MsgBody;
use postbell_client::protocol::limits::{LINE_BYTES_MAX, PUSH_HEAD_BYTES_MAX};
use postbell_engine::inbox::{Attempt, DeliveryId, Entry, Terms, Unfit};

/// The database's clock and ours at about the same moment, so that ages do not depend on this machine's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    pub(super) database: SystemTime,
    pub(super) here: Instant,
    /// A time at which the rows were not visible yet, if one is known.
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

/// The place of payload and headers.
pub(super) enum Content<'a> {
    /// In the row, if they were read there.
    InRow,
    /// Read apart: payload and headers.
    Read(&'a str, Option<&'a str>),
    /// Not to be pushed, for this reason.
    Unfit(Unfit),
}

/// Makes the inbox and the entry of a row.
///
/// # Errors
/// A column of Postbell's own cannot be read. A user's column never causes an error: the entry is then unfit.
pub(super) fn entry(
    row: &Row,
    clocks: &Clocks,
    content: Content<'_>,
) -> Result<(Arc<str>, Entry), StoreError> {
    let inbox: &str = row.cell("inbox")?;
    let time = |column| row.cell::<_, Option<SystemTime>>(column).ok().flatten();
    let created_at = time("created_at").unwrap_or(clocks.database);
    let (terms, body) = terms_and_body(MessageColumns::of(row, &content), content, &rfc3339(created_at));
    let entry = Entry {
        attempt: Attempt {
            delivery_id: DeliveryId(row.cell("delivery_id")?),
            failed: u32::try_from(row.cell::<_, i16>("attempt")?).unwrap_or(0),
        },
        message_id: row.cell("message_id")?,
        lane: usize::try_from(row.cell::<_, i16>("lane")?).unwrap_or(0).min(LANES - 1),
        read_at: clocks.here.into_std(),
        age_when_read: clocks.age(created_at),
        ready_when_read: clocks.ready(created_at),
        expires_at: time("expires_at").and_then(|at| clocks.instant(at).map(Instant::into_std)),
        terms: (terms != Terms::default()).then(|| Box::new(terms)),
        body,
    };
    Ok((inbox.into(), entry))
}

fn terms_and_body(
    message: Result<MessageColumns<'_>, StoreError>,
    content: Content<'_>,
    created_at: &str,
) -> (Terms, Option<Bytes>) {
    let (mut terms, body) = match message {
        Ok(message) => (message.terms(), message.body(created_at)),
        Err(e) => (Terms::default(), Err(Unfit::Unreadable(e.to_string()))),
    };
    let body = match content {
        Content::Unfit(unfit) => Err(unfit),
        _ => body,
    };
    match body {
        Ok(body) => (terms, Some(body)),
        Err(unfit) => {
            terms.unfit = Some(unfit);
            (terms, None)
        }
    }
}

/// The user's columns of a message.
struct MessageColumns<'a> {
    id: Uuid,
    from: &'a str,
    message_type: &'a str,
    priority: Priority,
    topic: Option<&'a str>,
    group: Option<&'a str>,
    instance: Option<&'a str>,
    ordering_key: Option<&'a str>,
    in_company: bool,
    correlation_id: Option<&'a str>,
    headers: Option<&'a str>,
    payload: Option<&'a str>,
}

impl<'a> MessageColumns<'a> {
    fn of(row: &'a Row, content: &Content<'a>) -> Result<Self, StoreError> {
        let (payload, headers) = match content {
            Content::Read(payload, headers) => (Some(*payload), *headers),
            _ => (row.cell("payload")?, row.cell("headers")?),
        };
        // An adopted table's priority may have any value; it is read as the trigger reads it.
        let asked =
            row.cell::<_, Option<i32>>("priority")?.map_or(Priority::default().get().into(), i64::from);
        let asked = asked.clamp(PRIORITY_HIGHEST.into(), PRIORITY_LOWEST.into());
        Ok(Self {
            id: row.cell("message_id")?,
            // Null if the sender was deleted since and the table has `on delete set null`.
            from: row.cell::<_, Option<&str>>("from_agent_id")?.unwrap_or_default(),
            message_type: row.cell::<_, Option<&str>>("message_type")?.unwrap_or_default(),
            priority: Priority::new(asked).unwrap_or_default(),
            topic: row.cell("topic")?,
            group: row.cell("to_group")?,
            instance: row.cell("to_instance")?,
            ordering_key: row.cell("ordering_key")?,
            in_company: row.cell::<_, Option<bool>>("in_company")?.unwrap_or(false),
            correlation_id: row.cell("correlation_id")?,
            headers,
            payload,
        })
    }

    /// The terms of its delivery; most messages have none.
    fn terms(&self) -> Terms {
        Terms {
            instance: self.instance.map(Arc::from),
            ordering_key: self.ordering_key.map(Arc::from),
            trace: trace::named_by(self.headers),
            priority: self.instance.map(|_| self.priority).unwrap_or_default(),
            in_company: self.in_company,
            unfit: None,
        }
    }

    fn body(&self, created_at: &str) -> Result<Bytes, Unfit> {
        let json = |text| {
            serde_json::from_str::<&RawValue>(text)
                .map_err(|e| Unfit::Unreadable(format!("the payload or the headers are no JSON: {e}")))
        };
        let payload = self.payload.ok_or(Unfit::Left)?;
        if payload.len() > LINE_BYTES_MAX {
            let bytes = payload.len();
            let sentence =
                format!("the payload has {bytes} bytes as text, and at most {LINE_BYTES_MAX} can be pushed");
            return Err(Unfit::TooLarge(sentence));
        }
        let payload = json(payload)?;
        let headers = self.headers.map(json).transpose()?;
        let body = MsgBody {
            id: self.id,
            from: self.from,
            message_type: self.message_type,
            priority: self.priority.get(),
            created_at,
            topic: self.topic,
            group: self.group,
            correlation_id: self.correlation_id,
            headers,
            payload,
        }
        .encode();
        match body.len() + PUSH_HEAD_BYTES_MAX {
            fits if fits <= LINE_BYTES_MAX => Ok(body.into()),
            bytes => Err(Unfit::TooLarge(format!(
                "the message's line has {bytes} bytes, and at most {LINE_BYTES_MAX} can be pushed"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
