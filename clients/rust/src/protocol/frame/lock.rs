//! The frames of locks.

use serde::{Deserialize, Serialize};

use super::{bad, name};
use crate::protocol::error::ProtocolError;
use crate::protocol::limits::{LOCK_MS_MAX, LOCK_MS_MIN};

/// Client to broker: hold this lock for so long. Answered by `lock`, or by `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct AcquireLock {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub key: String,
    pub ttl_ms: u64,
    /// The fence of the lock, if the client holds it and wants to hold it longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<i64>,
}

/// Client to broker: give this lock back, or say that its task is done. Answered by `released` after COMMIT, or by `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct ReleaseLock {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub key: String,
    pub fence: i64,
    #[serde(default)]
    pub done: bool,
}

/// Broker to client: whether the client holds the lock now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct Lock {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub key: String,
    pub held: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<i64>,
    /// The agent that holds the lock, if another does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
    /// Whether the task is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
}

/// Broker to client: the lock is given back, or its task is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "PROTOCOL.md describes each field once")]
pub struct LockReleased {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    pub key: String,
}

impl AcquireLock {
    pub(super) fn check(&self) -> Result<(), ProtocolError> {
        match self.ttl_ms {
            LOCK_MS_MIN..=LOCK_MS_MAX => name("key", &self.key),
            _ => Err(bad(&format!("ttl_ms is not between {LOCK_MS_MIN} and {LOCK_MS_MAX}"))),
        }
    }
}

impl ReleaseLock {
    pub(super) fn check(&self) -> Result<(), ProtocolError> {
        name("key", &self.key)
    }
}
