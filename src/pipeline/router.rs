//! The task that place what producers leave: runs a round whenever [`Router`] says so, on a connection that it has
//! only while this broker is the router.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{sleep, sleep_until};
use uuid::Uuid;

use crate::base::pace::Pace;
use crate::pipeline::traffic::Traffic;
use crate::store::router::{Routed, RouterPlace};
use crate::store::{Connection, StoreError, Target};
use crate::watch::health::{Duty, Health};
use crate::watch::metrics::Metrics;
use postbell_engine::router::{LEFT_FOR, MeshLoad, PROBED_FOR, ROUTE_MAX, Router, RouterStep, Routing};

/// The longest that a round may take. A slower one is given up, and triggers route: what holds it up then holds up one
/// producer.
const ROUND_WAIT: Duration = Duration::from_secs(3);
/// How long a broker that stops goes on routing what was left to it. Another broker, or the next start, does the rest.
const STOP_WAIT: Duration = Duration::from_millis(500);
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

const _: () = assert!(ROUND_WAIT.as_millis() < LEFT_FOR.as_millis() + PROBED_FOR.as_millis());

/// The channels and settings of the router's task.
pub(crate) struct RouterTask {
    /// The database to read and write.
    pub target: Target,
    /// This broker's id.
    pub broker: Uuid,
    /// When messages are left.
    pub routing: Routing,
    /// Tells what the tail and the leases know.
    pub traffic: Arc<Traffic>,
    /// Notified when deliveries were made.
    pub wake: Arc<Notify>,
    /// Learns of rounds.
    pub health: Health,
    /// Counts deliveries.
    pub metrics: Metrics,
}

impl RouterTask {
    /// RouterPlace until `stop`; then nothing is left to this broker any more.
    pub(crate) async fn run(self, mut stop: oneshot::Receiver<()>) {
        let mut pace = Pace::new(RECONNECT_FIRST, RECONNECT_MAX);
        let mut router = Router::new(self.routing, Instant::now().into_std());
        let mut load: Option<MeshLoad> = None;
        let mut made = self.traffic.made();
        let target = Target { answer_wait: Some(ROUND_WAIT), ..self.target.clone() };
        loop {
            let due = router.due();
            tokio::select! {
                _ = &mut stop => return,
                () = async { sleep_until(due.map_or_else(Instant::now, Instant::from_std)).await }, if due.is_some() => {}
                () = self.traffic.orphan() => router.orphaned(true),
                Ok(()) = made.changed() => {
                    let total = *made.borrow_and_update();
                    router.load(is_busy(&mut load, total));
                }
            }
            if router.step(Instant::now().into_std()) != RouterStep::Take {
                continue;
            }
            let routing = async {
                let connection = Connection::open(&target).await?;
                self.hold(&connection, (&mut router, &mut load), &mut made, &mut stop, &mut pace).await
            };
            let routed = routing.await;
            self.metrics.router.set(0);
            match routed {
                Ok(LetGo::Place) => self.health.succeeded(Duty::Route),
                Ok(LetGo::Broker) => return,
                Err(e) => {
                    router.failed(Instant::now().into_std());
                    self.health.failed(Duty::Route, e.to_string());
                    let wait = pace.next_wait();
                    tracing::warn!(error = %e, ?wait, "routing what was left failed; triggers route for a while");
                    sleep(wait).await;
                }
            }
        }
    }

    /// Takes the router's place, and place until it is given back or lost.
    async fn hold(
        &self,
        connection: &Connection,
        (router, load): (&mut Router, &mut Option<MeshLoad>),
        made: &mut watch::Receiver<u64>,
        stop: &mut oneshot::Receiver<()>,
        pace: &mut Pace,
    ) -> Result<LetGo, StoreError> {
        let now = || Instant::now().into_std();
        let Some(mut place) = RouterPlace::take(connection, self.broker).await? else {
            router.refused(now());
            return Ok(LetGo::Place);
        };
        self.metrics.router.set(1);
        router.taken(now());
        loop {
            let due = router.due().unwrap_or_else(now);
            tokio::select! {
                _ = &mut *stop => {
                    self.end(connection, place).await?;
                    return Ok(LetGo::Broker);
                }
                () = sleep_until(due.into()) => {}
                Ok(()) = made.changed() => {
                    let total = *made.borrow_and_update();
                    router.load(is_busy(load, total));
                    continue;
                }
            }
            let step = router.step(now());
            let began = now();
            let routed = match step {
                RouterStep::Wait | RouterStep::Take => continue,
                RouterStep::Mark { stop } => {
                    let drawn = place.mark(connection, stop).await?;
                    router.marked(now(), drawn);
                    continue;
                }
                RouterStep::GiveBack => {
                    place.give_back(connection, true).await?;
                    router.lost(now());
                    return Ok(LetGo::Place);
                }
                RouterStep::Route { leave } => {
                    self.health.began(Duty::Route, Instant::now());
                    place.route(connection, leave).await?
                }
                RouterStep::Note => {
                    self.health.began(Duty::Route, Instant::now());
                    place.note(connection).await?
                }
            };
            let Some(routed) = routed else {
                tracing::info!("another broker place now");
                router.lost(now());
                return Ok(LetGo::Place);
            };
            self.tell(routed);
            if step != RouterStep::Note {
                pace.reset();
            }
            let leave = if let RouterStep::Route { leave } = step { leave } else { None };
            router.routed((began, now()), routed.seen, routed.oldest, leave);
        }
    }

    fn tell(&self, routed: Routed) {
        self.health.succeeded(Duty::Route);
        if routed.made > 0 {
            self.metrics.routed.inc_by(routed.made);
            self.traffic.routed(routed.made);
            self.wake.notify_one();
        }
    }

    /// Has nothing left any more, and place what was. Another broker, or the next start, place what commits too late.
    async fn end(&self, connection: &Connection, mut place: RouterPlace) -> Result<(), StoreError> {
        let drawn = place.mark(connection, true).await?;
        let until = Instant::now() + STOP_WAIT;
        loop {
            let Some(routed) = place.route(connection, None).await? else { return Ok(()) };
            let is_over = routed.oldest >= drawn;
            if is_over || Instant::now() >= until {
                return place.give_back(connection, is_over).await;
            }
            sleep(ROUTE_MAX).await;
        }
    }
}

/// Why the task let its connection go.
#[derive(Debug)]
enum LetGo {
    /// This broker is not the router.
    Place,
    /// The broker stops.
    Broker,
}

/// Whether the mesh is busy; the first count is where counting begins.
fn is_busy(load: &mut Option<MeshLoad>, made: u64) -> bool {
    let now = Instant::now().into_std();
    load.get_or_insert_with(|| MeshLoad::new(now, made)).is_busy(now, made)
}
