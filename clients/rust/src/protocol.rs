//! The wire protocol: newline-delimited JSON, specified in `protocol/PROTOCOL.md`, which the tests replay.
//!
//! [`frame`] knows no IO and no tokio, so it can be tested from byte strings, and it serves client and server
//! alike. [`codec`] is the only adaptor to a socket.

#[cfg(feature = "client")]
pub mod codec;
pub mod error;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod secret;
pub mod topic;
pub mod written;

pub use error::{ErrorCode, ProtocolError};
pub use frame::{ClientFrame, ServerFrame};
pub use ids::{Rank, Tag};
