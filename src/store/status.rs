//! Readings of the database for the status page. Each is bounded in rows, and made only while somebody watches.

mod messages;

use uuid::Uuid;

use super::aside::{Count, counts};
use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;
use crate::store::sql::queries;
use postbell_client::message::Priority;

pub use messages::{DeliveryState, ListedMessage, MESSAGES_MAX, messages};

/// A registered agent.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns of agent_registry")]
pub struct Agent {
    pub agent_id: String,
    pub agent_type: String,
    pub environment: String,
    pub role: String,
    pub enabled: bool,
    pub status: String,
    /// The time since its last heartbeat, in seconds.
    pub seen_seconds: Option<f64>,
    /// The broker that owns its inbox.
    pub broker_id: Option<Uuid>,
    /// That broker's name.
    pub broker: Option<String>,
}

/// A broker of this database.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns of brokers")]
pub struct Broker {
    pub id: Uuid,
    pub name: String,
    pub version: String,
    pub armed: bool,
    pub is_alive: bool,
    pub up_seconds: f64,
    pub inboxes: i64,
}

/// The ready deliveries of one inbox at one priority.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns say it")]
pub struct ReadyCount {
    pub inbox: String,
    pub priority: Priority,
    pub count: i64,
    pub oldest_seconds: Option<f64>,
    /// Whether some broker has a session on the inbox.
    pub is_taken: bool,
}

/// The number of messages from one sender to one recipient.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the columns of agent_messages")]
pub struct Edge {
    pub from: String,
    pub to: Option<String>,
    /// The topic, the environment or the group, for a message to many or to one of many.
    pub many: Option<String>,
    pub messages: i64,
    pub failed: i64,
}

/// Everything that one reading has.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each type says it")]
pub struct Reading {
    pub agents: Vec<Agent>,
    pub brokers: Vec<Broker>,
    pub waiting: Vec<ReadyCount>,
    /// The number of dead letters by inbox.
    pub dead: Vec<(String, i64)>,
    pub scheduled: i64,
    pub edges: Vec<Edge>,
    pub set_aside: Vec<Count>,
}

/// The bounds of a reading.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Bounds {
    pub agents: i64,
    pub flow_messages: i64,
    pub flow_seconds: i64,
}

/// Reads everything, one statement after the other.
///
/// # Errors
/// See [`StoreError`].
pub async fn read(pool: &Pool, bounds: Bounds) -> Result<Reading, StoreError> {
    let (dead, scheduled) = dead(pool).await?;
    Ok(Reading {
        agents: agents(pool, bounds.agents).await?,
        brokers: brokers(pool).await?,
        waiting: waiting(pool).await?,
        dead,
        scheduled,
        edges: edges(pool, bounds).await?,
        set_aside: counts(pool).await?,
    })
}

async fn agents(pool: &Pool, at_most: i64) -> Result<Vec<Agent>, StoreError> {
    let rows = pool.query(queries::STATUS_AGENTS, &[&at_most]).await?;
    let agents = rows.iter().map(|row| {
        Ok(Agent {
            agent_id: row.text("agent_id")?.unwrap_or_default(),
            agent_type: row.text("agent_type")?.unwrap_or_default(),
            environment: row.text("environment")?.unwrap_or_default(),
            role: row.text("role")?.unwrap_or_default(),
            enabled: row.cell("enabled")?,
            status: row.text("status")?.unwrap_or_default(),
            seen_seconds: row.cell("seen_seconds")?,
            broker_id: row.cell("broker_id")?,
            broker: row.cell("broker")?,
        })
    });
    agents.collect()
}

async fn brokers(pool: &Pool) -> Result<Vec<Broker>, StoreError> {
    let rows = pool.query(queries::STATUS_BROKERS, &[]).await?;
    let brokers = rows.iter().map(|row| {
        Ok(Broker {
            id: row.cell("broker_id")?,
            name: row.cell("name")?,
            version: row.cell("version")?,
            armed: row.cell("armed")?,
            is_alive: row.cell("is_alive")?,
            up_seconds: row.cell("up_seconds")?,
            inboxes: row.cell("inboxes")?,
        })
    });
    brokers.collect()
}

async fn waiting(pool: &Pool) -> Result<Vec<ReadyCount>, StoreError> {
    let rows = pool.query(queries::STATUS_WAITING, &[]).await?;
    let waiting = rows.iter().map(|row| {
        Ok(ReadyCount {
            inbox: row.text("inbox")?.unwrap_or_default(),
            priority: Priority::new(row.cell::<_, i16>("priority")?.into()).unwrap_or_default(),
            count: row.cell("waiting")?,
            oldest_seconds: row.cell("oldest_seconds")?,
            is_taken: row.cell("is_taken")?,
        })
    });
    waiting.collect()
}

async fn dead(pool: &Pool) -> Result<(Vec<(String, i64)>, i64), StoreError> {
    let (mut dead, mut scheduled) = (Vec::new(), 0);
    for row in pool.query(queries::STATUS_DEAD, &[]).await? {
        match row.text("inbox")? {
            Some(inbox) => dead.push((inbox, row.cell("n")?)),
            None => scheduled = row.cell("n")?,
        }
    }
    Ok((dead, scheduled))
}

async fn edges(pool: &Pool, bounds: Bounds) -> Result<Vec<Edge>, StoreError> {
    let rows = match pool.query(queries::STATUS_FLOW, &[&bounds.flow_messages, &bounds.flow_seconds]).await {
        // One of the newest messages cannot be read: the page is without arrows until that one is older.
        Err(e) if !e.is_retryable() => {
            pool.query(queries::STATUS_FLOW, &[&0_i64, &bounds.flow_seconds]).await?
        }
        rows => rows?,
    };
    let edges = rows.iter().map(|row| {
        Ok(Edge {
            from: row.text("from_agent_id")?.unwrap_or_default(),
            to: row.text("to_agent_id")?,
            many: row.text("many")?,
            messages: row.cell("messages")?,
            failed: row.cell("failed")?,
        })
    });
    edges.collect()
}
