//! The values that a label may have. An enum cannot be misspelled and cannot grow without bound.

use postbell_client::protocol::ErrorCode;

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailReason {
    /// The agent said `fail`.
    Nack,
    /// The ack deadline passed.
    Deadline,
    /// The session ended before the ack.
    Disconnect,
}

impl FailReason {
    /// Every reason.
    pub const ALL: &'static [Self] = &[Self::Nack, Self::Deadline, Self::Disconnect];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nack => "nack",
            Self::Deadline => "deadline",
            Self::Disconnect => "disconnect",
        }
    }
}

/// Why a delivery became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// The delivery failed as often as it may.
    MaxAttempts,
    /// The agent said `dead`.
    Rejected,
    /// The payload is over the protocol's limit, so it cannot be pushed at all.
    PayloadTooLarge,
    /// The delivery's row holds values that cannot be read.
    Unreadable,
}

impl DeadReason {
    /// Every reason.
    pub const ALL: &'static [Self] =
        &[Self::MaxAttempts, Self::Rejected, Self::PayloadTooLarge, Self::Unreadable];

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxAttempts => "max_attempts",
            Self::Rejected => "rejected",
            Self::PayloadTooLarge => "payload_too_large",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client said `bye`.
    Bye,
    /// The socket ended or broke.
    Disconnect,
    /// The TLS handshake failed or took too long.
    Tls,
    /// The broker refused to go on, with this code.
    Refused(ErrorCode),
}

impl CloseReason {
    /// Every reason. A new fatal code of the protocol is included without a change here.
    pub fn all() -> impl Iterator<Item = Self> {
        let fatal = ErrorCode::ALL.iter().copied().filter(|code| code.is_fatal()).map(Self::Refused);
        [Self::Bye, Self::Disconnect, Self::Tls].into_iter().chain(fatal)
    }

    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bye => "bye",
            Self::Tls => "tls",
            Self::Refused(code) if code.is_fatal() => code.as_str(),
            // Any other code leaves the session open. If such a code arrives here all the same, the connection has
            // ended, and a series of its own would not have started at 0.
            Self::Disconnect | Self::Refused(_) => "disconnect",
        }
    }
}
