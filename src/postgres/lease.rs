//! This broker's own lease, and the leases of the inboxes it dispatches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::connection::Connection;
use super::error::StoreError;
use super::listen::canary_channel;

/// How long a broker that is not heard of keeps its inboxes.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often it renews.
pub const RENEW_EVERY: Duration = Duration::from_secs(1);
/// It stops dispatching this long before its lease ends, so that two never do.
pub const LEASE_MARGIN: Duration = Duration::from_millis(500);
/// Brokers that have been silent for so long are forgotten, and their agents are offline.
pub const FORGET_AFTER: Duration = Duration::from_secs(10);

const _: () = assert!(RENEW_EVERY.as_millis() + LEASE_MARGIN.as_millis() < LEASE.as_millis());
const _: () = assert!(LEASE.as_millis() < FORGET_AFTER.as_millis());

const RENEW: &str = include_str!("../../sql/queries/broker_renew.sql");
const LEAVE: &str = include_str!("../../sql/queries/broker_leave.sql");
const ACQUIRE: &str = include_str!("../../sql/queries/lease_acquire.sql");
const RELEASE: &str = include_str!("../../sql/queries/lease_release.sql");

/// Who this broker is, for the others and for people.
#[derive(Clone, Debug)]
pub struct BrokerRow {
    /// Made anew at each start.
    pub id: Uuid,
    /// What people call it.
    pub name: String,
    /// Where its agents connect.
    pub address: String,
}

/// A renewal that succeeded.
#[derive(Clone, Copy, Debug)]
pub struct Renewed {
    /// Until when, counted from before the statement was sent: on our clock it ends no later than on the server's.
    pub until: Instant,
    /// It had ended before: other brokers may have taken inboxes.
    pub lapsed: bool,
}

/// Renews this broker's lease and sends a canary.
///
/// # Errors
/// See [`StoreError`].
pub async fn renew(connection: &Connection, broker: &BrokerRow, canary: u64) -> Result<Renewed, StoreError> {
    let sent_at = Instant::now();
    let row = connection
        .query_one(
            RENEW,
            &[
                &broker.id,
                &(LEASE.as_millis() as i64),
                &broker.name,
                &broker.address,
                &env!("CARGO_PKG_VERSION"),
                &canary_channel(broker.id),
                &canary.to_string(),
            ],
        )
        .await?;
    Ok(Renewed { until: sent_at + LEASE, lapsed: row.get("lapsed") })
}

/// Gives everything back: the broker is no more.
///
/// # Errors
/// See [`StoreError`].
pub async fn leave(connection: &Connection, broker: Uuid) -> Result<(), StoreError> {
    connection.execute(LEAVE, &[&broker]).await?;
    Ok(())
}

/// Takes what can be taken of these inboxes: each with its epoch. The others are another live broker's.
///
/// # Errors
/// See [`StoreError`].
pub async fn acquire(
    connection: &Connection,
    broker: Uuid,
    inboxes: &[Arc<str>],
) -> Result<HashMap<String, i64>, StoreError> {
    let names: Vec<&str> = inboxes.iter().map(|i| &**i).collect();
    let rows = connection.query(ACQUIRE, &[&names, &broker]).await?;
    Ok(rows.iter().map(|row| (row.get("inbox"), row.get("epoch"))).collect())
}

/// Gives inboxes back.
///
/// # Errors
/// See [`StoreError`].
pub async fn release(connection: &Connection, broker: Uuid, inboxes: &[Arc<str>]) -> Result<(), StoreError> {
    let names: Vec<&str> = inboxes.iter().map(|i| &**i).collect();
    connection.execute(RELEASE, &[&names, &broker]).await?;
    Ok(())
}
