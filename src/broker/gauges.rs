//! Metrics that are read from the database: only when somebody asks for them, and not more often than needed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use crate::agents::presence::Presence;
use crate::store::gauges::{self, FlowEnd};
use crate::store::{Pool, StoreError, aside};
use crate::watch::health::Health;
use crate::watch::http::Refresh;
use crate::watch::metrics::{AGENTS_MAX, Metrics};

/// How long the counts of waiting deliveries are kept. Counting a large backlog is work, so several scrapers share
/// one count.
const FRESH: Duration = Duration::from_secs(10);
/// How long the counts of the mesh are kept, which change slowly or cover a span of time anyway.
const MESH_FRESH: Duration = Duration::from_secs(15);
/// How long uptimes are kept: a day's uptime changes slowly, and is the sum of many spans.
const UPTIME_FRESH: Duration = Duration::from_secs(60);
/// The most agents that are read; further agents are not even counted.
const AGENTS_READ_MAX: i64 = 100_000;

/// The sources and targets of the gauges.
#[derive(Clone)]
pub(super) struct Gauges {
    pub(super) pool: Pool,
    pub(super) metrics: Metrics,
    pub(super) presence: Presence,
    pub(super) health: Health,
}

/// The time at which each part was read last. The lock is never held across a statement.
#[derive(Default)]
struct Last {
    waiting: Option<Instant>,
    mesh: Option<Instant>,
    /// The point up to which the mesh's flow was read.
    flow: Option<FlowEnd>,
    uptime: Option<Instant>,
}

impl Gauges {
    /// Makes the function that `/metrics` calls before it answers.
    pub(super) fn refresh(self) -> Refresh {
        let last: Arc<Mutex<Last>> = Arc::default();
        Arc::new(move || {
            let (gauges, last) = (self.clone(), last.clone());
            Box::pin(async move {
                // Health comes first, since it needs no database, and the reads below may hang.
                gauges.note_health();
                if let Err(e) = gauges.read(&last).await {
                    tracing::debug!(error = %e, "the database's gauges keep their last values");
                }
            })
        })
    }

    /// Reads the parts that are due. If the database is slow, the scrape goes on without them and they are not read
    /// again at once. Uptimes are the exception: a minute is long to be without them.
    async fn read(&self, last: &Mutex<Last>) -> Result<(), StoreError> {
        let lock = || last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |at: Option<Instant>, fresh| at.is_none_or(|at| at.elapsed() >= fresh);
        if is_due(lock().waiting, FRESH) {
            lock().waiting = Some(Instant::now());
            self.read_waiting().await?;
        }
        if is_due(lock().mesh, MESH_FRESH) {
            lock().mesh = Some(Instant::now());
            let since = lock().flow;
            let asides = aside::counts(&self.pool).await?;
            self.metrics.set_set_aside(asides.iter().map(|c| (c.kind.as_str(), c.count)));
            let (reading, end) = gauges::mesh(&self.pool, since).await?;
            self.metrics.set_mesh(&reading).map_err(refused)?;
            lock().flow = Some(end);
        }
        if is_due(lock().uptime, UPTIME_FRESH) {
            let uptimes = gauges::uptimes(&self.pool, AGENTS_MAX as i64 + 1).await?;
            self.metrics.set_uptime(uptimes).map_err(refused)?;
            lock().uptime = Some(Instant::now());
        }
        Ok(())
    }

    fn note_health(&self) {
        let now = Instant::now();
        let standstills = self.health.standstills(now).into_iter();
        let standstills: Vec<_> = standstills.map(|s| (s.duty, s.lasts.as_secs_f64())).collect();
        self.metrics.set_standstills(&standstills);
        let readiness = self.health.ready(now);
        self.metrics.set_ready_to_serve(readiness.ready, readiness.conditions.iter().map(|c| (c.name, c.ok)));
    }

    async fn read_waiting(&self) -> Result<(), StoreError> {
        let waiting = gauges::waiting(&self.pool).await?;
        self.metrics.set_ready(&waiting.priorities);
        self.metrics.unknown_recipient.set(waiting.unknown);
        self.metrics.set_waiting(&waiting.agents).map_err(refused)?;
        let agents = gauges::agents(&self.pool, AGENTS_READ_MAX).await?;
        let known =
            agents.iter().map(|(agent, environment)| (agent, environment, self.presence.is_connected(agent)));
        self.metrics.set_agents(known).map_err(refused)
    }
}

fn refused(e: prometheus::Error) -> StoreError {
    StoreError::refused(format!("the gauges: {e}"))
}
