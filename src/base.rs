//! Small things that any folder may use: waits between attempts, times as text, what the system grants.
//!
//! This folder must know nothing of brokers, agents, messages or tables. Everybody above calls it.

pub(crate) mod moment;
pub(crate) mod names;
pub mod open_files;
pub(crate) mod pace;
pub mod sockets;
pub(crate) mod trace;
