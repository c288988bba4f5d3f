//! Everything that talks to Postgres: the only folder that names `tokio_postgres` or `bb8`.
//!
//! Each statement is a file of `sql/queries`, prepared once per connection.

pub mod access;
pub mod adopt;
pub mod agent_metrics;
pub mod agents;
pub mod alerts;
pub mod aside;
mod cell;
pub mod connection;
pub mod dead;
pub mod doctor;
pub mod drift;
pub mod error;
pub mod gauges;
pub mod grants;
pub mod lease;
pub mod listen;
pub mod locks;
pub mod migrate;
mod network;
pub mod payload;
pub mod pool;
pub mod presence;
pub mod publish;
pub mod reap;
pub mod refill;
mod rehearsal;
pub(crate) mod rights;
mod row;
pub mod settle;
pub mod status;
pub mod subscriptions;
pub mod sweep;
pub mod tail;
pub mod tls;
pub mod url;

pub use connection::{Connection, Target};
pub use error::StoreError;
pub use network::local_ip;
pub use pool::Pool;
pub use url::DatabaseUrl;
