//! Why a client, or one of its requests, ended.

use std::time::Duration;

use crate::protocol::ErrorCode;

/// The reason why a client, or one of its requests, ended.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClientError {
    /// The URL is not one of a broker.
    #[error("{0}")]
    Url(String),
    /// The broker cannot be reached.
    #[error("the broker at {address} cannot be reached: {reason}")]
    Unreachable {
        /// The address that was tried.
        address: String,
        /// The kind of the system's error, for programs.
        kind: std::io::ErrorKind,
        /// The system's error, for people.
        reason: String,
    },
    /// TLS with the broker failed: most often its certificate is not trusted.
    #[error("TLS with the broker at {address} failed: {reason}")]
    Tls {
        /// The broker's address.
        address: String,
        /// A sentence for a person: what is wrong and what to do.
        reason: String,
    },
    /// The broker refused the connection or the request.
    #[error("the broker says: {message} ({code})")]
    Refused {
        /// The kind of refusal.
        code: ErrorCode,
        /// The broker's sentence.
        message: String,
        /// How long to wait before trying again, if the broker said so.
        retry: Option<Duration>,
    },
    /// The peer does not speak the protocol.
    #[error("what answers is no Postbell broker: {0}")]
    Protocol(String),
    /// The connection fell before the answer came.
    #[error("the connection fell before the broker answered; it is not known whether it did what was asked")]
    Interrupted,
    /// No answer came in time.
    #[error("the broker did not answer in {0:?}")]
    Timeout(Duration),
    /// A question was not answered.
    #[error("{whom} did not answer in {within:?}")]
    NoAnswer {
        /// The agent, topic or group that was asked.
        whom: String,
        /// How long the answer was waited for.
        within: Duration,
    },
    /// The input cannot be sent, or cannot be used to connect.
    #[error("{0}")]
    Invalid(String),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// Whether trying again may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted | Self::Timeout(_) | Self::NoAnswer { .. } => true,
            Self::Refused { code, .. } => {
                let is_no = matches!(code, ErrorCode::Rejected | ErrorCode::Forbidden | ErrorCode::UnknownOp);
                !is_final(*code) && !is_no
            }
            Self::Url(_) | Self::Tls { .. } | Self::Protocol(_) | Self::Invalid(_) | Self::Closed => false,
        }
    }
}

/// Refusals that connecting again would only repeat, or that say to stay away.
pub(super) fn is_final(code: ErrorCode) -> bool {
    use ErrorCode::{
        BadField, BadJson, Disabled, Forbidden, HelloExpected, LineTooLong, PlaintextRefused,
        ProtoUnsupported, TakenOver, Unauthorized,
    };
    matches!(
        code,
        BadField
            | BadJson
            | Disabled
            | Forbidden
            | HelloExpected
            | LineTooLong
            | PlaintextRefused
            | ProtoUnsupported
            | TakenOver
            | Unauthorized
    )
}
