//! This broker's own lease, and the leases of the inboxes it dispatches.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use uuid::Uuid;

use super::agents::{Token, hash, is_hash};
use super::cell::Cells;
use super::connection::Connection;
use super::error::StoreError;
use super::listen::canary_channel;
use super::pool::Pool;
use postbell_client::certificates::Fingerprint;
use postbell_engine::inbox::event::Owner;

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
const WANT: &str = include_str!("../../sql/queries/lease_want.sql");
const AUTHENTICATE: &str = include_str!("../../sql/queries/broker_authenticate.sql");

/// Who this broker is, for the others and for people.
#[derive(Clone, Debug)]
pub struct BrokerRow {
    /// Made anew at each start.
    pub id: Uuid,
    /// What people call it.
    pub name: String,
    /// Where the other brokers reach its agents' port.
    pub address: String,
    /// What it shows them when it links to them.
    pub token: Token,
    /// Of its certificate, as it is now, where its agents' port speaks TLS.
    pub certificate: Option<watch::Receiver<Fingerprint>>,
}

/// A renewal that succeeded.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// Until when, counted from before the statement was sent: on our clock it ends no later than on the server's.
    pub until: Instant,
    /// It had ended before: other brokers may have taken inboxes.
    pub lapsed: bool,
    /// Whether the canary flies.
    pub canary_sent: bool,
    /// How full the server's queue of notifications is, 0 to 1.
    pub queue_usage: f64,
    /// Whether this connection holds the lock by which the others see that the process lives.
    pub is_known_alive: bool,
    /// Inboxes that another broker asks for.
    pub wanted: Vec<Arc<str>>,
}

/// Renews this broker's lease and sends a canary; takes the lock of the living where this connection has it not.
/// `standstill`: which duties stand still, in sentences, for `postbell doctor`.
///
/// # Errors
/// See [`StoreError`].
pub async fn renew(
    connection: &Connection,
    broker: &BrokerRow,
    canary: u64,
    is_known_alive: bool,
    standstill: Option<&str>,
) -> Result<Renewed, StoreError> {
    let sent_at = Instant::now();
    let certificate = broker.certificate.as_ref().map(|c| c.borrow().to_string());
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
                &broker.token.hash().as_slice(),
                &!is_known_alive,
                &certificate,
                &standstill,
            ],
        )
        .await?;
    Ok(Renewed {
        until: sent_at + LEASE,
        lapsed: row.cell("lapsed")?,
        canary_sent: row.cell("sent")?,
        queue_usage: row.cell("queue_usage")?,
        is_known_alive: row.cell("is_known_alive")?,
        wanted: row.cell::<_, Vec<String>>("wanted")?.into_iter().map(Arc::from).collect(),
    })
}

/// Gives everything back: the broker is no more.
///
/// # Errors
/// See [`StoreError`].
pub async fn leave(connection: &Connection, broker: Uuid) -> Result<(), StoreError> {
    connection.execute(LEAVE, &[&broker]).await?;
    Ok(())
}

/// What became of a question for an inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It is this broker's, under this epoch.
    Ours(i64),
    /// It is another live broker's; `None` if it changed hands meanwhile, or its owner is of an older version.
    Theirs(Option<Owner>),
}

/// Takes what can be taken of these inboxes. `refusing`: brokers that refuse connections, which may be dead.
///
/// # Errors
/// See [`StoreError`].
pub async fn acquire(
    connection: &Connection,
    broker: Uuid,
    inboxes: &[Arc<str>],
    refusing: &[Uuid],
) -> Result<Vec<(Arc<str>, Acquired)>, StoreError> {
    let names: Vec<&str> = inboxes.iter().map(|i| &**i).collect();
    let rows = connection.query(ACQUIRE, &[&names, &broker, &refusing]).await?;
    let answers = rows.iter().map(|row| {
        let acquired = match row.cell::<_, Option<i64>>("epoch")? {
            Some(epoch) => Acquired::Ours(epoch),
            None => Acquired::Theirs(match row.cell("owner")? {
                None => None,
                Some(broker) => Some(Owner {
                    broker,
                    address: row.cell::<_, &str>("address")?.into(),
                    certificate: row.cell::<_, Option<&str>>("certificate_sha256")?.map(Arc::from),
                }),
            }),
        };
        Ok((row.cell::<_, &str>("inbox")?.into(), acquired))
    });
    answers.collect()
}

/// Asks the owners of these inboxes to give them back, if they have no session of their own.
///
/// # Errors
/// See [`StoreError`].
pub async fn want(connection: &Connection, broker: Uuid, inboxes: &[Arc<str>]) -> Result<(), StoreError> {
    let names: Vec<&str> = inboxes.iter().map(|i| &**i).collect();
    connection.execute(WANT, &[&names, &broker]).await?;
    Ok(())
}

/// Whether this is a live broker's credential.
///
/// # Errors
/// See [`StoreError`].
pub async fn authenticate(pool: &Pool, broker: Uuid, token: &str) -> Result<bool, StoreError> {
    let rows = pool.query(AUTHENTICATE, &[&broker]).await?;
    let stored: Option<&[u8]> = rows.first().map_or(Ok(None), |row| row.cell("token_hash"))?;
    Ok(is_hash(&hash(token), stored.unwrap_or_default()))
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
