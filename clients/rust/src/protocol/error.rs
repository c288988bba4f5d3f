//! The refusals that a client is told.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident, $word:literal, $fatal:literal;)*) => {
        /// Why a request, or a whole session, was refused. The word is the wire code and the metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
            /// A code this client does not know: a newer broker's.
            #[serde(other, rename = "unknown")] Unknown,
        }

        impl ErrorCode {
            /// Every code a broker sends.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word on the wire and in the metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* Self::Unknown => "unknown" }
            }

            /// Whether the broker closes the connection after this code.
            pub fn is_fatal(self) -> bool {
                match self { $(Self::$variant => $fatal,)* Self::Unknown => false }
            }
        }
    };
}

error_codes! {
    /// The first line was not a `hello`.
    HelloExpected, "hello_expected", true;
    /// No `hello` came in time.
    HelloTimeout, "hello_timeout", true;
    /// The agent is unknown or disabled, or the token is wrong; the answer does not tell which.
    Unauthorized, "unauthorized", true;
    /// The client speaks a version this broker does not.
    ProtoUnsupported, "proto_unsupported", true;
    /// A token in clear, from another machine without permission for that, or at a port that speaks TLS.
    PlaintextRefused, "plaintext_refused", true;
    /// A line is longer than the limit.
    LineTooLong, "line_too_long", true;
    /// The same agent and instance connected again, and the newer session goes on.
    TakenOver, "taken_over", true;
    /// Nothing came for two heartbeats.
    Silent, "silent", true;
    /// The client did not read what was written to it.
    SlowReader, "slow_reader", true;
    /// For a broker that links: the inbox is not this broker's, or not any more.
    NotOwner, "not_owner", true;
    /// The broker is stopping.
    Stopping, "stopping", true;
    /// Too many connections stand before the door; come again after `retry_ms`.
    Busy, "busy", true;
    /// This agent has as many connections to this broker as its role allows.
    TooManyConnections, "too_many_connections", true;
    /// The agent was disabled or removed, or the token it came in with is void.
    Disabled, "disabled", true;
    /// The agent's role changed; connect again to have it.
    RoleChanged, "role_changed", true;
    /// The line is no JSON object.
    BadJson, "bad_json", false;
    /// A field is missing, has the wrong type, or is out of its bounds.
    BadField, "bad_field", false;
    /// The `op` is unknown.
    UnknownOp, "unknown_op", false;
    /// A second `hello` on one connection.
    AlreadyWelcome, "already_welcome", false;
    /// The tag is not in flight: never pushed to this session, already settled, or its deadline passed.
    UnknownTag, "unknown_tag", false;
    /// The payload or the whole message is over the limit.
    PayloadTooLarge, "payload_too_large", false;
    /// The agent's role does not allow this.
    Forbidden, "forbidden", false;
    /// The agent asks for more than its role allows; nothing was done, and the client may ask again after
    /// `retry_ms`.
    SlowDown, "slow_down", false;
    /// The database refused the message; the sentence says why.
    Rejected, "rejected", false;
    /// The database cannot be reached; try again.
    Unavailable, "unavailable", false;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal with its sentence, as it goes to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct ProtocolError {
    /// The kind of refusal.
    pub code: ErrorCode,
    /// A sentence for a person: what happened and what to do.
    pub message: String,
    /// The `ref` of the request that this answers.
    pub reference: Option<String>,
    /// How many milliseconds the client should wait before trying again.
    pub retry_ms: Option<u64>,
}

impl ProtocolError {
    /// A refusal that answers no particular request.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), reference: None, retry_ms: None }
    }

    /// Adds the advice to try again after this wait, rounded up to a millisecond.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_ms = Some(u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX));
        self
    }

    /// Names the `ref` of the request that this answers.
    pub fn for_ref(mut self, reference: Option<String>) -> Self {
        self.reference = reference;
        self
    }
}
