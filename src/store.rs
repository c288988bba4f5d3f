//! Everything that talks to Postgres: the only folder that names `tokio_postgres` or `bb8`.
//!
//! Each statement is a file of `sql/queries`, prepared once per connection (`sql`). `connection` and `pool` are the ways to the database,
//! `url` and `tls` what leads there; `error` tells a refusal without quoting a row. One file each asks on behalf of a task: `tail`,
//! `refill`, `payload`, `settle`, `publish`, `lease`, `listen`, `reap`, `sweep`, `resting`, `dead`, `presence`, `locks`. `migrate`, `drift`, `rehearsal`
//! and `doctor` look after the schema; `status` and `gauges` read for those who look on.
//!
//! The store must never know sessions, windows or metrics: the store is told what to ask, and answers with rows and a `StoreError`.
//! The tasks of
//! `pipeline`, `agents` and `watch` call it, and the commands that need no broker.

pub mod access;
pub(crate) mod adopt;
pub(crate) mod agent_metrics;
pub mod agents;
pub(crate) mod alerts;
pub mod aside;
pub(crate) mod blame;
mod cell;
pub(crate) mod connection;
pub(crate) mod cut_off;
pub mod dead;
pub mod doctor;
pub mod drift;
pub(crate) mod due;
pub(crate) mod error;
pub mod forgetting;
pub mod gauges;
pub mod grants;
mod halves;
pub mod lease;
pub mod listen;
pub(crate) mod locks;
pub mod migrate;
mod network;
pub(crate) mod payload;
pub(crate) mod pool;
pub(crate) mod presence;
pub(crate) mod publish;
pub mod reap;
pub(crate) mod refill;
mod rehearsal;
pub(crate) mod resting;
pub(crate) mod rights;
pub(crate) mod router;
mod row;
pub mod settle;
pub(crate) mod sql;
pub mod status;
pub mod subscriptions;
pub mod sweep;
pub(crate) mod tail;
pub(crate) mod tls;
mod unlogged;
pub(crate) mod url;

pub use connection::{Connection, Target};
pub use error::StoreError;
pub use network::local_ip;
pub use pool::Pool;
pub use url::DatabaseUrl;
