//! One connected agent: the port, the session, and what is known of the agent meanwhile.
//!
//! `server` accepts connections and speaks TLS; `session` is one agent's connection, with its link where another broker owns the inbox;
//! `access` says what an agent may do, and hears when that changes; `presence` writes that it is here.
//!
//! A session must never know another session, nor SQL. `broker` starts the server.

pub mod access;
pub(crate) mod presence;
pub(crate) mod server;
pub(crate) mod session;
