//! A batch as the parameters of its statement: an array a column.

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::NewMessage;
use postbell_client::protocol::frame::EVERYBODY;

/// In the order of sql/queries/publish.sql.
pub(super) struct Columns<'a> {
    pub(super) ids: Vec<Uuid>,
    senders: Vec<&'a str>,
    recipients: Vec<Option<&'a str>>,
    types: Vec<&'static str>,
    payloads: Vec<&'a str>,
    priorities: Vec<i32>,
    delays: Vec<Option<i64>>,
    ttls: Vec<Option<i64>>,
    keys: Vec<Option<&'a str>>,
    correlations: Vec<Option<&'a str>>,
    headers: Vec<Option<&'a str>>,
    topics: Vec<Option<&'a str>>,
    environments: Vec<Option<&'a str>>,
    groups: Vec<Option<&'a str>>,
    instances: Vec<Option<&'a str>>,
    ordering_keys: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(batch: &[&'a NewMessage]) -> Self {
        fn column<'a, T>(batch: &[&'a NewMessage], of: impl Fn(&'a NewMessage) -> T) -> Vec<T> {
            batch.iter().map(|o| of(o)).collect()
        }
        Self {
            ids: column(batch, |o| o.id),
            senders: column(batch, |o| &*o.from),
            recipients: column(batch, |o| o.send.to.as_deref().filter(|to| *to != EVERYBODY)),
            types: column(batch, |o| o.send.message_type.as_str()),
            payloads: column(batch, |o| o.send.payload.get()),
            priorities: column(batch, |o| i32::from(o.send.priority.get())),
            delays: column(batch, |o| o.send.delay_ms.map(|ms| ms as i64)),
            ttls: column(batch, |o| o.send.ttl_ms.map(|ms| ms as i64)),
            keys: column(batch, |o| o.send.dedupe_key.as_deref()),
            correlations: column(batch, |o| o.send.correlation_id.as_deref()),
            headers: column(batch, |o| o.send.headers.as_ref().map(|h| h.get())),
            topics: column(batch, |o| o.send.topic.as_deref()),
            environments: column(batch, |o| o.send.environment.as_deref()),
            groups: column(batch, |o| o.send.group.as_deref()),
            instances: column(batch, |o| o.send.to_instance.as_deref()),
            ordering_keys: column(batch, |o| o.send.ordering_key.as_deref()),
        }
    }

    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 16] {
        [
            &self.ids,
            &self.senders,
            &self.recipients,
            &self.types,
            &self.payloads,
            &self.priorities,
            &self.delays,
            &self.ttls,
            &self.keys,
            &self.correlations,
            &self.headers,
            &self.topics,
            &self.environments,
            &self.groups,
            &self.instances,
            &self.ordering_keys,
        ]
    }
}
