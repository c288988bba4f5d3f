//! The frames, and how a line becomes one: no IO, no clock.
//!
//! A line is parsed twice, once for its `op` and once for that op's fields: an internally tagged enum could not
//! keep the payload as raw text, and could not tell an unknown op from a bad field.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::error::{ErrorCode, ProtocolError};
use super::limits::{ACK_TAGS_MAX, DURATION_MS_MAX, NAME_BYTES_MAX, PROTO};
use crate::message::{MessageType, Priority};

/// Client to broker: the first line of a session. Its `Debug` shows no token (`secret.rs`).
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Hello {
    #[serde(default = "proto")]
    pub proto: u32,
    pub agent: String,
    pub token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// A broker links for a session of its own: its id; `token` is its credential then, `agent` the inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u32>,
}

fn proto() -> u32 {
    PROTO
}

/// Client to broker: publish a message. Answered by `sent` after COMMIT, or by `error` with the same `ref`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Send {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// An agent's name, or `*` for every registered agent but the sender.
    pub to: String,
    #[serde(rename = "type")]
    pub message_type: MessageType,
    #[serde(default)]
    pub priority: Priority,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Box<RawValue>>,
    pub payload: Box<RawValue>,
}

/// Client to broker: deliveries handled. With a `ref`, `acked` follows after COMMIT.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Ack {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<u64>,
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// What a `nack` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NackOutcome {
    /// Give it back, not counted as an attempt.
    Release,
    /// It failed: counted, and retried after a backoff or `delay_ms`.
    Fail,
    /// To the dead letters at once.
    Dead,
}

/// Client to broker: a delivery not handled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Nack {
    pub tag: u64,
    pub outcome: NackOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Client to broker: move a deadline to `ms` from now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Extend {
    pub tag: u64,
    pub ms: u64,
}

/// Client to broker: a new window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Window {
    pub n: u32,
}

/// A line from a client.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
#[expect(missing_docs, reason = "each variant is the struct of its name")]
pub enum ClientFrame {
    Hello(Hello),
    Send(Send),
    Ack(Ack),
    Nack(Nack),
    Extend(Extend),
    Window(Window),
    Ping {},
    Pong {},
    Bye {},
}

/// What a session must keep to, told in the welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Limits {
    pub line_bytes: usize,
    pub payload_bytes: usize,
    pub window: u32,
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

/// Broker to client: a delivery pushed.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Msg {
    pub tag: u64,
    pub attempt: u32,
    pub deadline_ms: u64,
    pub id: Uuid,
    pub from: String,
    #[serde(rename = "type")]
    pub message_type: String,
    pub priority: u8,
    pub created_at: String,
    #[serde(default)]
    pub correlation_id: Option<String>,
    #[serde(default)]
    pub headers: Option<Box<RawValue>>,
    pub payload: Box<RawValue>,
}

/// The part of a `msg` line that is the same at every push: made once, when the delivery is read.
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

/// Appends a whole `msg` line to `out`.
pub fn push_msg(out: &mut Vec<u8>, tag: u64, attempt: u32, deadline_ms: u64, body: &[u8]) {
    use std::io::Write;
    write!(out, r#"{{"op":"msg","tag":{tag},"attempt":{attempt},"deadline_ms":{deadline_ms},"#)
        .expect("a Vec takes every write");
    out.extend_from_slice(body);
    out.push(b'\n');
}

/// A `msg` line, as [`push_msg`] writes it, under another tag; with its newline.
///
/// `None` if it was written by something else.
pub fn retag_msg(line: &[u8], tag: u64) -> Option<Vec<u8>> {
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

/// A line from the broker, but for `msg`, which [`push_msg`] writes.
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

/// Appends a frame and its newline to `out`.
pub fn push_line(out: &mut Vec<u8>, frame: &impl Serialize) {
    serde_json::to_writer(&mut *out, frame).expect("frames hold strings, numbers and JSON text only");
    out.push(b'\n');
}

#[derive(Deserialize)]
struct Op<'a> {
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    #[serde(default, rename = "ref")]
    reference: Option<serde_json::Value>,
}

fn op_of(line: &[u8]) -> Result<Op<'_>, ProtocolError> {
    let op: Op<'_> = serde_json::from_slice(line).map_err(|e| {
        // "op" or "ref" of a wrong type is a bad field; anything else is no JSON object.
        let code = match e.classify() {
            serde_json::error::Category::Data if line.trim_ascii_start().starts_with(b"{") => {
                ErrorCode::BadField
            }
            _ => ErrorCode::BadJson,
        };
        ProtocolError::new(code, format!("the line is not a JSON object with an \"op\": {e}"))
    })?;
    Ok(op)
}

fn fields<'a, T: Deserialize<'a>>(line: &'a [u8], op: &str) -> Result<T, ProtocolError> {
    serde_json::from_slice(line).map_err(|e| ProtocolError::new(ErrorCode::BadField, format!("{op}: {e}")))
}

impl ClientFrame {
    /// Reads a line a client sent, without its newline, and checks every bound that needs no state.
    ///
    /// # Errors
    /// `bad_json`, `bad_field` or `unknown_op`, with the line's `ref` where it has one.
    pub fn decode(line: &[u8]) -> Result<Self, ProtocolError> {
        if std::str::from_utf8(line).is_err() {
            return Err(ProtocolError::new(ErrorCode::BadJson, "the line is not UTF-8"));
        }
        let op = op_of(line)?;
        let reference = match op.reference {
            Some(serde_json::Value::String(s)) if s.len() <= NAME_BYTES_MAX => Some(s),
            None | Some(serde_json::Value::Null) => None,
            Some(_) => {
                let sentence = format!("\"ref\" must be a string of at most {NAME_BYTES_MAX} bytes");
                return Err(ProtocolError::new(ErrorCode::BadField, sentence));
            }
        };
        let name = op.op.as_deref().unwrap_or("");
        Self::decode_op(name, line).map_err(|e| e.for_ref(reference))
    }

    fn decode_op(op: &str, line: &[u8]) -> Result<Self, ProtocolError> {
        let frame = match op {
            "hello" => Self::Hello(fields(line, op)?),
            "send" => Self::Send(fields(line, op)?),
            "ack" => Self::Ack(fields(line, op)?),
            "nack" => Self::Nack(fields(line, op)?),
            "extend" => Self::Extend(fields(line, op)?),
            "window" => Self::Window(fields(line, op)?),
            "ping" => Self::Ping {},
            "pong" => Self::Pong {},
            "bye" => Self::Bye {},
            "" => {
                return Err(ProtocolError::new(ErrorCode::BadField, "the line has no \"op\""));
            }
            other => {
                let other: String = other.chars().take(40).collect();
                let sentence = format!("this broker knows no op {other:?}");
                return Err(ProtocolError::new(ErrorCode::UnknownOp, sentence));
            }
        };
        frame.check()?;
        Ok(frame)
    }

    fn check(&self) -> Result<(), ProtocolError> {
        match self {
            Self::Hello(h) => {
                name("agent", &h.agent)?;
                short("token", Some(&h.token))?;
                short("instance", h.instance.as_deref())?;
                short("client", h.client.as_deref())
            }
            Self::Send(s) => {
                name("to", &s.to)?;
                short("dedupe_key", s.dedupe_key.as_deref())?;
                short("correlation_id", s.correlation_id.as_deref())?;
                if s.headers.as_ref().is_some_and(|h| !h.get().starts_with('{')) {
                    return Err(bad("headers must be a JSON object"));
                }
                duration("delay_ms", s.delay_ms)?;
                duration("ttl_ms", s.ttl_ms)
            }
            Self::Ack(a) if a.tag.is_none() && a.tags.is_empty() => Err(bad("ack needs \"tag\" or \"tags\"")),
            Self::Ack(a) if a.tags.len() > ACK_TAGS_MAX => {
                Err(bad(&format!("an ack takes at most {ACK_TAGS_MAX} tags")))
            }
            Self::Nack(n) => duration("delay_ms", n.delay_ms),
            Self::Extend(e) => duration("ms", Some(e.ms)),
            _ => Ok(()),
        }
    }
}

fn bad(sentence: &str) -> ProtocolError {
    ProtocolError::new(ErrorCode::BadField, sentence)
}

fn name(field: &str, value: &str) -> Result<(), ProtocolError> {
    if value.is_empty() {
        return Err(bad(&format!("{field} must not be empty")));
    }
    short(field, Some(value))
}

fn short(field: &str, value: Option<&str>) -> Result<(), ProtocolError> {
    match value {
        Some(v) if v.len() > NAME_BYTES_MAX => {
            Err(bad(&format!("{field} is longer than {NAME_BYTES_MAX} bytes")))
        }
        // Postgres text cannot hold it, so no such name can exist.
        Some(v) if v.contains('\0') => Err(bad(&format!("{field} contains a zero character"))),
        _ => Ok(()),
    }
}

fn duration(field: &str, value: Option<u64>) -> Result<(), ProtocolError> {
    match value {
        Some(ms) if ms > DURATION_MS_MAX => {
            Err(bad(&format!("{field} is over {DURATION_MS_MAX} ms, a week")))
        }
        _ => Ok(()),
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
    /// Reads a line a broker sent; `None` is an op newer than this client, to be ignored.
    ///
    /// # Errors
    /// The line is not what the protocol says: the peer is no Postbell broker.
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

#[cfg(test)]
mod tests;
