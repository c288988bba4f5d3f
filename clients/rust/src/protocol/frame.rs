//! The frames, and how a line becomes one: no IO, no clock. This file has the lines of a client; `server.rs`
//! has a broker's.
//!
//! A line is parsed twice, first for its `op` and then for that op's fields: an internally tagged enum could
//! not keep the payload as raw text, and could not tell an unknown op from a bad field.

pub mod dead;
pub mod lock;
mod server;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use self::dead::{Chosen, Dead};
use self::lock::{AcquireLock, ReleaseLock};
use super::error::{ErrorCode, ProtocolError};
use super::ids::{Rank, Tag};
use super::limits::{ACK_TAGS_MAX, DURATION_MS_MAX, NAME_BYTES_MAX, PROTO};
use super::topic::{check_pattern, check_topic};
use crate::message::{MessageType, Priority};

pub use server::{Limits, Msg, MsgBody, ServerFrame, Welcome, push_msg, retag_msg};

/// Client to broker: the first line of a session, whose `Debug` shows no token (`secret.rs`).
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
    /// Take from this group instead of from the agent's own inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The id of a broker that links for a session of its own; then `token` is its credential and `agent` the
    /// inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<Uuid>,
    /// With `broker`: the rank; among sessions of the same agent and instance, the highest goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<Rank>,
    /// With `broker`: the longest that the agent may hold a delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// An object or an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A group's inbox has this prefix and the group's name; no agent's name begins so.
pub const GROUP_INBOX: &str = "group:";
/// The recipient that stands for every registered agent except the sender.
pub const EVERYBODY: &str = "*";

fn proto() -> u32 {
    PROTO
}

/// Client to broker: publish a message. Answered by `sent` after COMMIT, or by `error` with the same `ref`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Send {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// An agent's name, or `*` for every registered agent except the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Instead of `to`: the agents that subscribed to this topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Instead of `to`: every agent of this environment except the sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Instead of `to`: one of the agents that take from this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// With `to`: this process of that agent, if it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_instance: Option<String>,
    /// Messages of an inbox with the same key are handled one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordering_key: Option<String>,
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

/// Client to broker: these deliveries are handled. With a `ref`, `acked` follows after COMMIT.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Ack {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// The outcome that a `nack` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NackOutcome {
    /// Give the delivery back; the attempt is not counted.
    Release,
    /// The attempt failed: it is counted, and another follows after a backoff or `delay_ms`.
    Fail,
    /// A dead letter at once.
    Dead,
}

/// Client to broker: this delivery is not handled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Nack {
    pub tag: Tag,
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
    pub tag: Tag,
    pub ms: u64,
}

/// Client to broker: the agent has begun with these deliveries. Nothing is answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Begun {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
}

/// Client to broker: subscribe to this topic or pattern, or unsubscribe. Answered after COMMIT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Topic {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub topic: String,
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
    Subscribe(Topic),
    Unsubscribe(Topic),
    Acquire(AcquireLock),
    Release(ReleaseLock),
    Ack(Ack),
    Nack(Nack),
    Extend(Extend),
    Begun(Begun),
    Window(Window),
    Dead(Dead),
    Redrive(Chosen),
    Purge(Chosen),
    Ping {},
    Pong {},
    Bye {},
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
        // An "op" or "ref" of a wrong type is a bad field; anything else is no JSON object.
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
    /// Reads a line from a client, without its newline, and checks every bound that needs no state.
    ///
    /// # Errors
    /// `bad_json`, `bad_field` or `unknown_op`, with the line's `ref` if it has one.
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
            "subscribe" => Self::Subscribe(fields(line, op)?),
            "unsubscribe" => Self::Unsubscribe(fields(line, op)?),
            "acquire" => Self::Acquire(fields(line, op)?),
            "release" => Self::Release(fields(line, op)?),
            "ack" => Self::Ack(fields(line, op)?),
            "nack" => Self::Nack(fields(line, op)?),
            "extend" => Self::Extend(fields(line, op)?),
            "begun" => Self::Begun(fields(line, op)?),
            "window" => Self::Window(fields(line, op)?),
            "dead" => Self::Dead(fields(line, op)?),
            "redrive" => Self::Redrive(fields(line, op)?),
            "purge" => Self::Purge(fields(line, op)?),
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
                if h.broker.is_none() && h.agent.starts_with(GROUP_INBOX) {
                    return Err(bad(
                        "an agent is not called \"group:…\": say hello by its name, with \"group\"",
                    ));
                }
                h.group.as_deref().map_or(Ok(()), |group| name("group", group))?;
                short("token", Some(&h.token))?;
                short("instance", h.instance.as_deref())?;
                short("client", h.client.as_deref())?;
                h.environment.as_deref().map_or(Ok(()), |e| name("environment", e))?;
                short("version", h.version.as_deref())?;
                h.capabilities.as_ref().map_or(Ok(()), check_capabilities)
            }
            Self::Send(s) => {
                s.check_address()?;
                short("dedupe_key", s.dedupe_key.as_deref())?;
                short("correlation_id", s.correlation_id.as_deref())?;
                short("ordering_key", s.ordering_key.as_deref())?;
                if s.headers.as_ref().is_some_and(|h| !h.get().starts_with('{')) {
                    return Err(bad("headers must be a JSON object"));
                }
                duration("delay_ms", s.delay_ms)?;
                duration("ttl_ms", s.ttl_ms)
            }
            Self::Acquire(a) => a.check(),
            Self::Release(r) => r.check(),
            Self::Subscribe(t) | Self::Unsubscribe(t) => check_pattern(&t.topic).map_err(|e| bad(&e)),
            Self::Ack(a) if a.tag.is_none() && a.tags.is_empty() => Err(bad("ack needs \"tag\" or \"tags\"")),
            Self::Ack(a) if a.tags.len() > ACK_TAGS_MAX => {
                Err(bad(&format!("an ack takes at most {ACK_TAGS_MAX} tags")))
            }
            Self::Begun(b) if b.tag.is_none() && b.tags.is_empty() => {
                Err(bad("begun needs \"tag\" or \"tags\""))
            }
            Self::Begun(b) if b.tags.len() > ACK_TAGS_MAX => {
                Err(bad(&format!("begun takes at most {ACK_TAGS_MAX} tags")))
            }
            Self::Nack(n) => duration("delay_ms", n.delay_ms),
            Self::Extend(e) => duration("ms", Some(e.ms)),
            Self::Dead(d) => d.check(),
            Self::Redrive(c) | Self::Purge(c) => c.check(),
            _ => Ok(()),
        }
    }
}

impl Send {
    fn check_address(&self) -> Result<(), ProtocolError> {
        if let Some(instance) = &self.to_instance {
            short("to_instance", Some(instance))?;
            if self.to.as_deref().is_none_or(|to| to == EVERYBODY) {
                return Err(bad("\"to_instance\" names a process of the agent in \"to\""));
            }
        }
        match (&self.to, &self.topic, &self.environment, &self.group) {
            (Some(to), None, None, None) if to.starts_with(GROUP_INBOX) => {
                Err(bad("no agent is called \"group:…\": to send to a group, name it as \"group\""))
            }
            (Some(to), None, None, None) => name("to", to),
            (None, Some(topic), None, None) => check_topic(topic).map_err(|e| bad(&e)),
            (None, None, Some(environment), None) => name("environment", environment),
            (None, None, None, Some(group)) => name("group", group),
            _ => Err(bad("send needs one of \"to\", \"topic\", \"environment\" and \"group\"")),
        }
    }
}

fn check_capabilities(value: &serde_json::Value) -> Result<(), ProtocolError> {
    match value.is_object() || value.is_array() {
        false => Err(bad("capabilities must be a JSON object or array")),
        true if has_zero(value) => Err(bad("capabilities contains a zero character")),
        true => Ok(()),
    }
}

/// Whether a zero character is in it, which Postgres's jsonb cannot hold. The parser bounds the depth.
fn has_zero(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(text) => text.contains('\0'),
        serde_json::Value::Array(values) => values.iter().any(has_zero),
        serde_json::Value::Object(fields) => fields.iter().any(|(k, v)| k.contains('\0') || has_zero(v)),
        _ => false,
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
        // Postgres text cannot hold a zero character, so no such name can exist.
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

#[cfg(test)]
mod tests;
