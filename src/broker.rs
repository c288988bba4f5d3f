//! The broker: its tasks, how they start, and how they stop.
//!
//! Sockets and the stop signal come from outside, so that a test runs exactly what production runs. `config` turns settings into
//! values; `address` finds where other brokers reach this one; `gauges` are read from the database when somebody asks for
//! them; `draining` asks the sessions to leave before the tasks stop.
//!
//! The broker must never know what a message is: this code makes the channels and hands each task its ends. `cli::serve` and `cli::dev` call it, and
//! the tests.

mod address;
pub mod config;
mod draining;
mod gauges;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::time::Instant;

use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use uuid::Uuid;

use crate::agents::access::Access;
use crate::agents::presence::Presence;
use crate::agents::server;
use crate::agents::server::tls::{Tls, TlsError};
use crate::agents::session::{Phase, Shared};
use crate::broker::config::Config;
use crate::pipeline::alarm::Alarm;
use crate::pipeline::dead_letters::{self, REQUESTS_MAX};
use crate::pipeline::dispatch::{self, INPUTS_MAX, Input, Load, Ports};
use crate::pipeline::leaser::Leaser;
use crate::pipeline::publisher::PUBLISHES_MAX;
use crate::pipeline::refiller::Refiller;
use crate::pipeline::rest::Rest;
use crate::pipeline::router::RouterTask;
use crate::pipeline::settler::Settler;
use crate::pipeline::tailer::Tailer;
use crate::pipeline::traffic::Traffic;
use crate::pipeline::{listener, publisher, reaper, settler};
use crate::store::agents::Token;
use crate::store::lease::{BrokerRow, LEASE_MARGIN};
use crate::store::listen::{Rope, round_trip};
use crate::store::migrate::schema_state;
use crate::store::payload::Wary;
use crate::store::{Connection, Pool, StoreError};
use crate::watch::agent_metrics;
use crate::watch::flow::Flow;
use crate::watch::health::Health;
use crate::watch::http::api::admission::Admission;
use crate::watch::http::api::{Pools, Site};
use crate::watch::http::{self, HttpState};
use crate::watch::metrics::Metrics;
use crate::watch::spans::Spans;
use crate::watch::status::Status;
use postbell_engine::guard::Guard;
use postbell_engine::inbox::dispatcher::{Dispatcher, Rules, UNSETTLED_MAX};

/// The connections for those who look on: one, because a session pooler has few, and no delivery waits for it.
pub const LOOKING_ON_SIZE: u32 = 1;

/// How long a notification may take at start-up. After this time LISTEN counts as not working on this server.
const LISTEN_WAIT: Duration = Duration::from_secs(5);

/// How a broker's stop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Deliveries that were still in flight at the deadline: given back, and delivered again.
    pub given_back: usize,
    /// Outcomes that could not be written. Their deliveries are pushed again.
    pub unsettled: usize,
    /// Whether a task ended by itself, which is a defect. The broker then stops, so that the platform starts it anew.
    pub broken: bool,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another broker's metrics are already in the registry.
    #[error("the metrics could not be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A certificate file or key file of the agents' port cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Checks that a broker can run on this database: it can be reached, it is migrated, and LISTEN works on it.
///
/// # Errors
/// A sentence that says what to do.
pub async fn check(config: &Config) -> Result<(), StoreError> {
    // LISTEN is tried first: on a transaction pooler anything else may fail with an error that does not name the
    // cause.
    round_trip(&config.database, LISTEN_WAIT).await?;
    let connection = Connection::open(&config.database).await?;
    if let Some(sentence) = schema_state(&connection).await?.refusal() {
        return Err(StoreError::refused(sentence));
    }
    Ok(())
}

/// The state that the tasks share.
struct House {
    pool: Pool,
    /// For gauges, the status page and lists of dead letters, which plan otherwise and may take long.
    looking_on: Pool,
    health: Health,
    metrics: Metrics,
    rope: Arc<Rope>,
    wake: Arc<Notify>,
    lapsed: Arc<Notify>,
    rest: Rest,
    presence: Presence,
    flow: Flow,
    spans: Spans,
    broker: BrokerRow,
}

/// The tasks that a stopping broker ends one by one.
struct Core {
    dispatcher: JoinHandle<()>,
    leaser: JoinHandle<()>,
    router: JoinHandle<()>,
}

/// Runs a broker on these sockets until `stop`, then drains it.
///
/// # Errors
/// See [`StartError`].
pub async fn run(
    mut config: Config,
    agents: TcpListener,
    http: TcpListener,
    registry: Registry,
    stop: impl Future<Output = ()>,
) -> Result<Stopped, StartError> {
    let tls = config.tls.as_ref().map(Tls::load).transpose()?;
    let metrics = Metrics::register(&registry)?;
    config.database = config.database.impatient();
    let listening = agents.local_addr().unwrap_or(config.listen);
    let address = address::advertised(&config, listening).await;
    let certificate = tls.as_ref().map(Tls::shown);
    let id = Uuid::now_v7();
    let identity = BrokerRow { id, name: config.name.clone(), address, token: Token::random(), certificate };
    let house = House {
        // The publisher has one connection of its own, because its patience with locks differs from that of the
        // others.
        pool: Pool::new(config.database.clone(), config.pool_size.saturating_sub(1).max(1)),
        looking_on: Pool::new(config.database.clone().looking_on(), LOOKING_ON_SIZE),
        health: Health::new(),
        metrics,
        rope: Arc::default(),
        wake: Arc::default(),
        lapsed: Arc::default(),
        rest: Rest::new(),
        presence: Presence::new(id),
        flow: Flow::new(Instant::now()),
        spans: Spans::to(config.spans_url.as_deref(), &config.name),
        broker: identity,
    };
    Ok(house.live(config, tls, agents, http, registry, stop).await)
}

impl House {
    async fn live(
        self,
        config: Config,
        tls: Option<Tls>,
        agents: TcpListener,
        http: TcpListener,
        registry: Registry,
        stop: impl Future<Output = ()>,
    ) -> Stopped {
        let (inputs, inputs_rx) = mpsc::channel(INPUTS_MAX);
        let (publishes, publishes_rx) = mpsc::channel(PUBLISHES_MAX);
        let (phase, phase_rx) = watch::channel(Phase::Running);
        let (load, load_rx) = watch::channel(Load::default());
        let (leaser_stop, leaser_stopped) = oneshot::channel();
        let (router_stop, router_stopped) = oneshot::channel();
        let (http_stop, http_stopped) = oneshot::channel::<()>();
        let (accept_stop, accept_stopped) = oneshot::channel::<()>();
        let mut background = JoinSet::new();
        let stopped = (leaser_stopped, router_stopped);
        let Core { dispatcher: mut core, mut leaser, mut router } =
            self.spawn_core(&config, &mut background, inputs_rx, inputs.downgrade(), load, stopped);
        background.spawn(publisher::run(
            config.database.clone(),
            publishes_rx,
            self.wake.clone(),
            (self.metrics.clone(), self.spans.clone()),
        ));
        let (dead_letters, dead_rx) = mpsc::channel(REQUESTS_MAX);
        background.spawn(dead_letters::run(self.pool.clone(), dead_rx, self.wake.clone()));
        let access = Access::new(self.rope.clone());
        background.spawn(access.clone().run(self.pool.clone()));
        let mut state = HttpState::new(registry, self.health.clone());
        let gauges = gauges::Gauges {
            pool: self.looking_on.clone(),
            metrics: self.metrics.clone(),
            presence: self.presence.clone(),
            health: self.health.clone(),
        };
        state.refresh = Some(gauges.refresh());
        let status = self.status(inputs.downgrade());
        // Not among the background tasks, because the broker works without it.
        let showing = tokio::spawn(status.clone().run());
        let admission = Admission::new(config.status, config.tokens.clone(), self.pool.clone());
        let pools = Pools { reads: self.looking_on.clone(), writes: self.pool.clone() };
        state.site = Some(Site::new(admission, status, pools, self.wake.clone()));
        let http = tokio::spawn(http::serve(http, state, async {
            let _ = http_stopped.await;
        }));
        let shared = Arc::new(Shared {
            broker: config.name.as_str().into(),
            identity: self.broker.clone(),
            tls: config.tls.clone(),
            linked: watch::Sender::new(0),
            encrypted: tls.is_some(),
            allow_plaintext: config.allow_plaintext,
            pool: self.pool.clone(),
            guard: Guard::new(config.unauthenticated),
            access: access.clone(),
            inputs: inputs.clone(),
            publishes,
            dead_letters,
            presence: self.presence.clone(),
            phase: phase_rx,
            metrics: self.metrics.clone(),
            flow: self.flow.clone(),
            spans: self.spans.clone(),
            last_id: AtomicU64::new(0),
        });
        let linked = shared.linked.subscribe();
        if let Some(tls) = tls.clone() {
            background.spawn(tls.follow(self.metrics.clone()));
        }
        let accepting = tokio::spawn(server::serve(agents, tls, shared, async {
            let _ = accept_stopped.await;
        }));

        let broken = tokio::select! {
            () = stop => false,
            // These run as long as the broker does. If one of them has ended, the broker would only look alive.
            Some(ended) = background.join_next() => is_broken(ended),
            ended = &mut core => is_broken(ended),
            ended = &mut leaser => is_broken(ended),
            ended = &mut router => is_broken(ended),
        };
        self.health.set_draining(true);
        // First of all, since producers would leave their messages to a broker that goes.
        let _ = router_stop.send(());
        let mut stopped = draining::drain(config.drain, inputs, &phase, load_rx, linked).await;
        stopped.broken = broken;
        let _ = accept_stop.send(());
        let _ = accepting.await;
        // If this cannot be written, other brokers find the agents gone once this broker's lease has ended.
        let _ = self.presence.write_changed(&self.pool).await;
        // Every sender of inputs is gone now, so the dispatcher ends, and then the tasks that it feeds.
        if !core.is_finished() {
            let _ = timeout(draining::SETTLE_WAIT, core).await;
        }
        if !router.is_finished() {
            let _ = router.await;
        }
        let _ = leaser_stop.send(());
        if !leaser.is_finished() {
            let _ = leaser.await;
        }
        showing.abort();
        background.shutdown().await;
        let _ = http_stop.send(());
        let _ = http.await;
        let spans = self.spans;
        // Closing blocks, and nothing waits for its result.
        let _ = tokio::task::spawn_blocking(move || spans.close()).await;
        stopped
    }

    fn status(&self, inputs: mpsc::WeakSender<Input>) -> Status {
        let Self { looking_on: pool, flow, health, metrics, broker, .. } = self;
        Status::new(pool.clone(), flow.clone(), health.clone(), metrics.clone(), inputs, broker.clone())
    }

    /// Starts the tasks behind the sessions. Returns those that are stopped by themselves.
    fn spawn_core(
        &self,
        config: &Config,
        background: &mut JoinSet<()>,
        inputs_rx: mpsc::Receiver<Input>,
        inputs: mpsc::WeakSender<Input>,
        load: watch::Sender<Load>,
        (leaser_stopped, router_stopped): (oneshot::Receiver<()>, oneshot::Receiver<()>),
    ) -> Core {
        let rules = Rules {
            ack_deadline: config.ack_deadline,
            retry: config.retry,
            lease_margin: LEASE_MARGIN,
            unsettled_max: UNSETTLED_MAX,
        };
        let dispatcher = Dispatcher::new(rules, rand::random());
        // One batch may wait while one is written; the next gathers at the dispatcher.
        let (settle, settle_rx) = mpsc::channel(1);
        let (mark, mark_rx) = mpsc::channel(1);
        let (refill, refill_rx) = mpsc::channel(1);
        let (lease, lease_rx) = mpsc::channel(1);
        let ports = Ports { settle, mark, refill, lease, wake: self.wake.clone() };
        let known = (self.metrics.clone(), self.health.clone());
        let dispatcher = tokio::spawn(dispatch::run(dispatcher, inputs_rx, ports, load, known));

        let target = || config.database.clone();
        let alarm = Alarm::default();
        let traffic = Arc::new(Traffic::new());
        let leaser = Leaser {
            target: target(),
            broker: self.broker.clone(),
            rope: self.rope.clone(),
            traffic: traffic.clone(),
            lapsed: self.lapsed.clone(),
            presence: self.presence.clone(),
            rest: self.rest.clone(),
            inputs: inputs.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
        };
        let wary = Arc::new(Wary::default());
        let tailer = Tailer {
            target: target(),
            broker: self.broker.id,
            traffic: traffic.clone(),
            rope: self.rope.clone(),
            wake: self.wake.clone(),
            lapsed: self.lapsed.clone(),
            inputs: inputs.clone(),
            alarm: alarm.clone(),
            wary: wary.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
        };
        let wake = self.wake.clone();
        let aside = Arc::new(Notify::new());
        let settler = Settler {
            target: target(),
            broker: self.broker.id,
            inputs: inputs.clone(),
            wake: wake.clone(),
            aside: aside.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            flow: self.flow.clone(),
        };
        let router = RouterTask {
            target: target(),
            broker: self.broker.id,
            routing: config.routing,
            traffic,
            wake: wake.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
        };
        background.spawn(settler.run(settle_rx));
        background.spawn(settler::marker::run(target(), mark_rx, self.health.clone()));
        let told = (self.rest.clone(), aside);
        background.spawn(settler::aside::run(target(), self.pool.clone(), told, self.health.clone()));
        let (pool, health) = (self.pool.clone(), self.health.clone());
        background.spawn(Refiller { pool, inputs, wary, health }.run(refill_rx));
        background.spawn(listener::run(target(), self.broker.id, self.rope.clone(), self.health.clone()));
        background.spawn(tailer.run());
        let rest = self.rest.clone();
        background.spawn(reaper::promote(self.pool.clone(), alarm, rest, wake, self.health.clone()));
        self.spawn_clocks(config, background);
        Core {
            dispatcher,
            leaser: tokio::spawn(leaser.run(lease_rx, leaser_stopped)),
            router: tokio::spawn(router.run(router_stopped)),
        }
    }

    /// Starts the tasks that go by the clock and are not on a message's way.
    fn spawn_clocks(&self, config: &Config, background: &mut JoinSet<()>) {
        let (pool, metrics) = (self.pool.clone(), self.metrics.clone());
        let health = self.health.clone();
        background.spawn(reaper::sweep(
            pool.clone(),
            self.broker.id,
            config.retention,
            metrics.clone(),
            (self.rest.clone(), health.clone()),
        ));
        let upkeep = reaper::upkeep::Upkeep {
            pool: pool.clone(),
            target: config.database.clone(),
            rest: self.rest.clone(),
            wake: self.wake.clone(),
            health: self.health.clone(),
        };
        background.spawn(upkeep.run());
        background.spawn(reaper::resting::run(pool.clone(), config.alerts, self.rest.clone()));
        let wakes = (self.rest.clone(), self.wake.clone());
        background.spawn(reaper::alerts::run(pool.clone(), config.alerts, wakes, metrics.clone(), health));
        background.spawn(self.presence.clone().run(pool.clone(), self.rope.clone(), self.health.clone()));
        background.spawn(agent_metrics::run(pool, metrics));
    }
}

/// Logs how a task ended that should not have ended, and returns true.
fn is_broken(ended: Result<(), tokio::task::JoinError>) -> bool {
    let error = ended.err().map_or("it returned".to_owned(), |e| e.to_string());
    tracing::error!(%error, "a task of the broker failed, by a defect: stopping; please report it");
    true
}
