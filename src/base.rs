//! Small things that any folder may use: waits between attempts, times as text, what the system grants.
//!
//! It must know nothing of brokers, agents, messages or tables. Everybody above calls it.

pub mod moment;
pub mod open_files;
pub mod pace;
pub mod sockets;
pub mod trace;
