//! This broker's own lease, and the leases of the inboxes that it dispatches.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::watch;
use uuid::Uuid;

use super::agents::{Token, hash, is_hash};
use super::cell::Cells;
use super::connection::{Connection, Target, WriteLimit};
use super::error::StoreError;
use super::listen::canary_channel;
use super::pool::Pool;
use crate::store::sql::queries;
use postbell_client::certificates::Fingerprint;
use postbell_engine::inbox::Epoch;
use postbell_engine::inbox::event::Owner;

/// How long a broker that does not renew keeps its inboxes.
pub const LEASE: Duration = Duration::from_secs(3);
/// How often a broker renews its lease.
pub const RENEW_EVERY: Duration = Duration::from_secs(1);
/// A broker stops dispatching this long before its lease ends, so that two never dispatch one inbox.
pub const LEASE_MARGIN: Duration = Duration::from_millis(500);
/// How long one statement about inboxes may take: a lock on one lease must not keep the renewal waiting.
pub const PART_WAIT: Duration = Duration::from_millis(300);
/// Brokers that have been silent for this long are forgotten, and their agents are offline.
pub const FORGET_AFTER: Duration = Duration::from_secs(10);

/// [`PART_WAIT`], for the statement and its COMMIT together.
const PART: WriteLimit = WriteLimit::Each(Duration::from_millis(PART_WAIT.as_millis() as u64 / 2));

/// How long a renewal waits for a lock: so short that the next one is in time.
const LOCK_WAIT: Duration = Duration::from_millis(400);

/// How long the rows of agents and leases may take when a broker leaves.
const LEAVE: WriteLimit = WriteLimit::Each(Duration::from_millis(500));

const _: () = assert!(
    RENEW_EVERY.as_millis() + 2 * LOCK_WAIT.as_millis() + LEASE_MARGIN.as_millis() < LEASE.as_millis()
);
const _: () = assert!(LEASE.as_millis() < FORGET_AFTER.as_millis());

/// This broker, as the other brokers and people see it.
#[derive(Clone, Debug)]
pub struct BrokerRow {
    /// A new id for each start.
    pub id: Uuid,
    /// The name that people use.
    pub name: String,
    /// The address at which other brokers reach its agents' port.
    pub address: String,
    /// The token that it shows to other brokers when it links to them.
    pub token: Token,
    /// The fingerprint of its present certificate, if its agents' port speaks TLS.
    pub certificate: Option<watch::Receiver<Fingerprint>>,
}

/// The result of a renewal.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// The end of the lease, counted from before the statement was sent: by this machine's clock it is not later than
    /// by the server's.
    pub until: Instant,
    /// Whether the lease had ended before, so that other brokers may have taken inboxes.
    pub lapsed: bool,
    /// Whether the canary was sent.
    pub canary_sent: bool,
    /// How full the server's queue of notifications is, 0 to 1.
    pub queue_usage: f64,
    /// Whether this connection holds the lock by which other brokers see that the process lives.
    pub is_known_alive: bool,
    /// Inboxes of this broker that another broker asks for.
    pub wanted: Vec<Arc<str>>,
    /// Whether the router is a broker that does not live.
    pub is_orphaned: bool,
    /// The inboxes that the table says are this broker's.
    pub held: LeaseSum,
    /// Signs of something that a sweep has to do with; `None` if they were not asked for.
    pub signs: Option<Signs>,
}

/// Signs of something that a sweep has to do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// A number for all that leaves a trace: a delivery was made, a message was noted that no trigger saw, a trigger was touched.
    pub seen: i64,
    /// Whether another broker has been silent for [`FORGET_AFTER`].
    pub is_broker_gone: bool,
    /// The first transaction that is in progress: all before it have ended.
    pub open_from: i64,
    /// The renewal's own transaction. The snapshot's end would not do: a transaction that is open may be beyond it.
    pub begun_until: i64,
}

/// The leases of a broker, summed up: equal sums mean that table and broker know the same leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseSum {
    inboxes: i64,
    sum: i64,
}

impl LeaseSum {
    /// The sum of these leases, as `broker_renew.sql` makes it.
    pub fn of<'a>(leases: impl Iterator<Item = (&'a str, Epoch)>) -> Self {
        let (mut inboxes, mut sum) = (0, 0_i128);
        for (inbox, epoch) in leases {
            inboxes += 1;
            sum += i128::from(epoch.0) + inbox.chars().count() as i128;
        }
        Self { inboxes, sum: (sum % i128::from(i64::MAX)) as i64 }
    }
}

/// Opens a connection for leases. Whatever somebody locks, a renewal fails early enough for another try.
///
/// # Errors
/// See [`StoreError`].
pub async fn open(target: &Target) -> Result<Connection, StoreError> {
    let connection = Connection::open(target).await?;
    connection.set(&format!("set lock_timeout = {}", LOCK_WAIT.as_millis())).await?;
    Ok(connection)
}

/// Renews this broker's lease and sends a canary. Also takes the lock that shows that the process lives, if this
/// connection does not hold it (`is_known_alive`). `standstill` names the duties that stand still, in sentences for
/// `postbell doctor`. [`Signs`] are looked for if they are `wanted`.
///
/// # Errors
/// See [`StoreError`].
pub async fn renew(
    connection: &Connection,
    broker: &BrokerRow,
    canary: u64,
    is_known_alive: bool,
    standstill: Option<&str>,
    wanted: bool,
) -> Result<Renewed, StoreError> {
    let sent_at = Instant::now();
    let certificate = broker.certificate.as_ref().map(|c| c.borrow().to_string());
    let row = connection
        .query_one(
            queries::BROKER_RENEW,
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
                &(FORGET_AFTER.as_millis() as i64),
                &wanted,
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
        is_orphaned: row.cell("is_orphaned")?,
        held: LeaseSum { inboxes: row.cell("held")?, sum: row.cell("held_sum")? },
        signs: match row.cell("signs")? {
            None => None,
            Some(seen) => Some(Signs {
                seen,
                is_broker_gone: row.cell("is_one_gone")?,
                open_from: row.cell("open_from")?,
                begun_until: row.cell("begun_until")?,
            }),
        },
    })
}

/// The inboxes that the table says are this broker's, with their epochs.
///
/// # Errors
/// See [`StoreError`].
pub async fn held(connection: &Connection, broker: Uuid) -> Result<Vec<(Arc<str>, Epoch)>, StoreError> {
    let rows = connection.query(queries::LEASE_HELD, &[&broker]).await?;
    rows.iter().map(|row| Ok((row.cell::<_, &str>("inbox")?.into(), Epoch(row.cell("epoch")?)))).collect()
}

/// Gives back every inbox, and deletes this broker's row. If an agent's row, or a lease, does not take its part of that,
/// the broker's own lease ends and nothing else: then the inboxes are free as well, and another broker sweeps the rest.
///
/// # Errors
/// See [`StoreError`].
pub async fn leave(target: &Target, broker: Uuid) -> Result<(), StoreError> {
    let mut connection = Connection::open(target).await?;
    match connection.write_count(LEAVE, queries::BROKER_LEAVE, &[&broker]).await {
        Err(e) if e.may_be_of_a_row() => {
            tracing::info!(error = %e, "the leases end by themselves, since a row refuses to let this broker go");
            if connection.is_closed() {
                connection = Connection::open(target).await?;
            }
            connection.execute(queries::BROKER_END, &[&broker]).await?;
        }
        left => _ = left?,
    }
    Ok(())
}

/// The answer to a request for an inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboxAnswer {
    /// The inbox is this broker's, under this epoch.
    Ours(Epoch),
    /// The inbox is another live broker's; `None` if it changed hands meanwhile, or its owner is of an older version.
    Theirs(Option<Owner>),
}

/// Acquires as many of these inboxes as are free. `refusing` are brokers that refuse connections, and so may be dead.
///
/// # Errors
/// See [`StoreError`].
pub async fn acquire(
    connection: &Connection,
    broker: Uuid,
    inboxes: &[Arc<str>],
    refusing: &[Uuid],
) -> Result<Vec<(Arc<str>, InboxAnswer)>, StoreError> {
    let names: Vec<&str> = inboxes.iter().map(|i| &**i).collect();
    let rows = connection.write(PART, queries::LEASE_ACQUIRE, &[&names, &broker, &refusing]).await?;
    let answers = rows.iter().map(|row| {
        let acquired = match row.cell::<_, Option<i64>>("epoch")? {
            Some(epoch) => InboxAnswer::Ours(Epoch(epoch)),
            None => InboxAnswer::Theirs(match row.cell("owner")? {
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

/// Asks the owners of these inboxes to give them back, unless they have sessions of their own on them.
///
/// # Errors
/// See [`StoreError`].
pub async fn want(connection: &Connection, broker: Uuid, inboxes: &[Arc<str>]) -> Result<(), StoreError> {
    let names: Vec<&str> = inboxes.iter().map(|i| &**i).collect();
    connection.write_count(PART, queries::LEASE_WANT, &[&names, &broker]).await?;
    Ok(())
}

/// Whether this is the credential of a live broker.
///
/// # Errors
/// See [`StoreError`].
pub async fn authenticate(pool: &Pool, broker: Uuid, token: &str) -> Result<bool, StoreError> {
    let rows = pool.query(queries::BROKER_AUTHENTICATE, &[&broker]).await?;
    let stored: Option<&[u8]> = rows.first().map_or(Ok(None), |row| row.cell("token_hash"))?;
    Ok(is_hash(&hash(token), stored.unwrap_or_default()))
}

/// Gives inboxes back, each as the ownership with this epoch.
///
/// # Errors
/// See [`StoreError`].
pub async fn release(
    connection: &Connection,
    broker: Uuid,
    inboxes: &[(Arc<str>, Epoch)],
) -> Result<(), StoreError> {
    let names: Vec<&str> = inboxes.iter().map(|(inbox, _)| &**inbox).collect();
    let epochs: Vec<i64> = inboxes.iter().map(|(_, epoch)| epoch.0).collect();
    connection.write_count(PART, queries::LEASE_RELEASE, &[&names, &epochs, &broker]).await?;
    Ok(())
}
