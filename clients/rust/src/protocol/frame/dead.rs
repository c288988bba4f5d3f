//! The frames by which dead letters are administered.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{bad, name};
use crate::protocol::error::ProtocolError;
use crate::protocol::limits::DEAD_IDS_MAX;

/// Client to broker: a page of dead letters, the oldest first. Answered by `dead_letters`, or by `error`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Dead {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The inbox; if left out, the agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbox: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The id of the last letter on the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
}

/// Client to broker: the dead letters to `redrive` or to `purge`. Answered after COMMIT by `redriven` or
/// `purged`, or by `error`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Chosen {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<i64>,
    /// Instead of `ids`: all dead letters of this inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbox: Option<String>,
    /// With `inbox`: only letters after this id, the `last` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
}

/// A dead letter as a client sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct DeadLetter {
    /// The delivery's id, by which `redrive` and `purge` name the letter. The same message may be dead in other
    /// inboxes too.
    pub id: i64,
    pub message_id: Uuid,
    pub inbox: String,
    pub from: String,
    #[serde(rename = "type")]
    pub message_type: String,
    pub priority: u8,
    pub attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// The whole payload; left out if it is long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
}

/// Broker to client: a page of dead letters.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct DeadLetters {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub letters: Vec<DeadLetter>,
    pub more: bool,
}

/// Broker to client: so many were redriven or purged, and that is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Done {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<i64>,
    pub more: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
}

/// The dead letters that stay dead, since the table of messages does not take the change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// How many.
    pub count: u64,
    /// Which is the first, and why.
    pub reason: String,
}

impl Dead {
    pub(super) fn check(&self) -> Result<(), ProtocolError> {
        self.inbox.as_deref().map_or(Ok(()), |inbox| name("inbox", inbox))
    }
}

impl Chosen {
    /// Checks that ids or an inbox are named: a client that forgot its keys must not get all of its letters
    /// redriven or purged.
    ///
    /// # Errors
    /// `bad_field`, with what is wrong.
    pub fn check(&self) -> Result<(), ProtocolError> {
        match &self.inbox {
            None if self.ids.is_empty() => {
                Err(bad("say which dead letters: \"ids\", or \"inbox\" for all of one"))
            }
            Some(_) if !self.ids.is_empty() => Err(bad("\"ids\" and \"inbox\" exclude each other")),
            None if self.ids.len() > DEAD_IDS_MAX => Err(bad(&format!("at most {DEAD_IDS_MAX} ids at once"))),
            None => Ok(()),
            Some(inbox) => name("inbox", inbox),
        }
    }
}
