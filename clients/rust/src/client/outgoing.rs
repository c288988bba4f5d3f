//! A message to send, and its options.

use std::time::Duration;

use serde::Serialize;

use super::ClientError;
use crate::message::{MessageType, Priority};
use crate::protocol::frame::Send;

/// A message to send.
#[derive(Clone, Debug)]
pub struct Outgoing(pub(super) Send);

impl Outgoing {
    /// To an agent, or to `*`: every registered agent except this one.
    ///
    /// # Errors
    /// The payload cannot be written as JSON.
    pub fn new(to: &str, message_type: MessageType, payload: &impl Serialize) -> Result<Self, ClientError> {
        let payload = serde_json::value::to_raw_value(payload)
            .map_err(|e| ClientError::Invalid(format!("the payload cannot be written as JSON: {e}")))?;
        Ok(Self(Send {
            reference: None,
            to: Some(to.to_owned()),
            topic: None,
            environment: None,
            group: None,
            to_instance: None,
            ordering_key: None,
            message_type,
            priority: Priority::default(),
            delay_ms: None,
            ttl_ms: None,
            dedupe_key: None,
            correlation_id: None,
            headers: None,
            payload,
        }))
    }

    /// How urgent the message is: 1 (highest) to 10.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.0.priority = priority;
        self
    }

    /// The message is not delivered before this much time has passed.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.0.delay_ms = Some(delay.as_millis() as u64);
        self
    }

    /// The message expires after this much time.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.ttl_ms = Some(ttl.as_millis() as u64);
        self
    }

    /// A second message with this key counts as the same message. So it is safe to send again, and the client
    /// does that by itself when it reconnects.
    pub fn dedupe_key(mut self, key: &str) -> Self {
        self.0.dedupe_key = Some(key.to_owned());
        self
    }

    /// Messages of an inbox with the same key are handled one after the other.
    pub fn ordering_key(mut self, key: &str) -> Self {
        self.0.ordering_key = Some(key.to_owned());
        self
    }

    /// The id that a question and its answer share.
    pub fn correlation_id(mut self, id: &str) -> Self {
        self.0.correlation_id = Some(id.to_owned());
        self
    }

    /// A JSON object that travels along.
    ///
    /// # Errors
    /// The headers cannot be written as JSON.
    pub fn headers(mut self, headers: &impl Serialize) -> Result<Self, ClientError> {
        let headers = serde_json::value::to_raw_value(headers)
            .map_err(|e| ClientError::Invalid(format!("the headers cannot be written as JSON: {e}")))?;
        self.0.headers = Some(headers);
        Ok(self)
    }
}
