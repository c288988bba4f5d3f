//! The lines of a broker.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::dead::{DeadLetters, Done};
use super::lock::{Lock, LockReleased};
use super::{Topic, fields, op_of};
use crate::protocol::error::{ErrorCode, ProtocolError};
use crate::protocol::ids::Tag;

/// The bounds of a session, told in the welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Limits {
    pub line_bytes: usize,
    pub payload_bytes: usize,
    pub window: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
}

/// Broker to client: the session exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Welcome {
    pub proto: u32,
    pub broker: String,
    pub session: u64,
    pub limits: Limits,
    pub heartbeat_ms: u32,
}

/// Broker to client: a delivery.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Msg {
    pub tag: Tag,
    pub attempt: u32,
    pub deadline_ms: u64,
    pub id: Uuid,
    pub from: String,
    #[serde(rename = "type")]
    pub message_type: String,
    pub priority: u8,
    pub created_at: String,
    #[serde(default)]
    pub topic: Option<String>,
    #[serde(default)]
    pub group: Option<String>,
    #[serde(default)]
    pub correlation_id: Option<String>,
    #[serde(default)]
    pub headers: Option<Box<RawValue>>,
    pub payload: Box<RawValue>,
}

/// The part of a `msg` line that is the same at every push; encoded once, when the delivery is read.
#[derive(Serialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct MsgBody<'a> {
    pub id: Uuid,
    pub from: &'a str,
    #[serde(rename = "type")]
    pub message_type: &'a str,
    pub priority: u8,
    pub created_at: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<&'a RawValue>,
    pub payload: &'a RawValue,
}

impl MsgBody<'_> {
    /// The end of a `msg` line, from `"id":` to the closing brace; [`push_msg`] writes what comes before it.
    pub fn encode(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("strings, numbers and JSON text serialize");
        line.remove(0);
        line
    }
}

impl From<Lock> for ServerFrame {
    fn from(lock: Lock) -> Self {
        Self::Lock(lock)
    }
}

impl From<LockReleased> for ServerFrame {
    fn from(released: LockReleased) -> Self {
        Self::Released(released)
    }
}

/// Appends a whole `msg` line to `out`.
pub fn push_msg(out: &mut Vec<u8>, tag: Tag, attempt: u32, deadline_ms: u64, body: &[u8]) {
    use std::io::Write;
    write!(out, r#"{{"op":"msg","tag":{tag},"attempt":{attempt},"deadline_ms":{deadline_ms},"#)
        .expect("a Vec takes every write");
    out.extend_from_slice(body);
    out.push(b'\n');
}

/// Puts another tag into a `msg` line that [`push_msg`] wrote; returns the line with its newline.
///
/// `None` if the line was written by something else.
pub fn retag_msg(line: &[u8], tag: Tag) -> Option<Vec<u8>> {
    use std::io::Write;
    const HEAD: &[u8] = br#"{"op":"msg","tag":"#;
    let rest = line.strip_prefix(HEAD)?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let mut out = Vec::with_capacity(line.len() + 20);
    out.extend_from_slice(HEAD);
    write!(out, "{tag}").ok()?;
    out.extend_from_slice(rest.get(digits..).filter(|rest| rest.starts_with(b","))?);
    out.push(b'\n');
    Some(out)
}

/// A line from the broker. [`push_msg`] writes `msg`, so this does not serialize that variant.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub enum ServerFrame {
    Welcome(Welcome),
    #[serde(skip)]
    Msg(Msg),
    Sent {
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
        id: Uuid,
    },
    Acked {
        #[serde(rename = "ref")]
        reference: String,
    },
    Subscribed(Topic),
    Unsubscribed(Topic),
    Lock(Lock),
    Released(LockReleased),
    #[serde(rename = "dead_letters")]
    DeadLetters(DeadLetters),
    Redriven(Done),
    Purged(Done),
    Error {
        code: ErrorCode,
        fatal: bool,
        #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_ms: Option<u64>,
        message: String,
    },
    Drain {
        after_ms: u64,
    },
    Ping {},
    Pong {},
}

impl From<ProtocolError> for ServerFrame {
    fn from(e: ProtocolError) -> Self {
        let ProtocolError { code, message, reference, retry_ms } = e;
        Self::Error { code, fatal: code.is_fatal(), reference, retry_ms, message }
    }
}

#[derive(Deserialize)]
struct SentFields {
    #[serde(default, rename = "ref")]
    reference: Option<String>,
    id: Uuid,
}

#[derive(Deserialize)]
struct AckedFields {
    #[serde(rename = "ref")]
    reference: String,
}

#[derive(Deserialize)]
struct ErrorFields {
    code: ErrorCode,
    fatal: bool,
    #[serde(default, rename = "ref")]
    reference: Option<String>,
    #[serde(default)]
    retry_ms: Option<u64>,
    message: String,
}

#[derive(Deserialize)]
struct DrainFields {
    after_ms: u64,
}

impl ServerFrame {
    /// Reads a line from a broker; `None` for an op that is newer than this client, which ignores the line.
    ///
    /// # Errors
    /// The line is not as the protocol says: the peer is no Postbell broker.
    pub fn decode(line: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let op = op_of(line)?;
        let name = op.op.as_deref().unwrap_or("");
        Ok(Some(match name {
            "msg" => Self::Msg(fields(line, name)?),
            "welcome" => Self::Welcome(fields(line, name)?),
            "sent" => {
                let SentFields { reference, id } = fields(line, name)?;
                Self::Sent { reference, id }
            }
            "acked" => {
                let AckedFields { reference } = fields(line, name)?;
                Self::Acked { reference }
            }
            "subscribed" => Self::Subscribed(fields(line, name)?),
            "unsubscribed" => Self::Unsubscribed(fields(line, name)?),
            "lock" => Self::Lock(fields(line, name)?),
            "released" => Self::Released(fields(line, name)?),
            "dead_letters" => Self::DeadLetters(fields(line, name)?),
            "redriven" => Self::Redriven(fields(line, name)?),
            "purged" => Self::Purged(fields(line, name)?),
            "error" => {
                let ErrorFields { code, fatal, reference, retry_ms, message } = fields(line, name)?;
                Self::Error { code, fatal, reference, retry_ms, message }
            }
            "drain" => {
                let DrainFields { after_ms } = fields(line, name)?;
                Self::Drain { after_ms }
            }
            "ping" => Self::Ping {},
            "pong" => Self::Pong {},
            _ => return Ok(None),
        }))
    }
}
