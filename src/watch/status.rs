//! The data of the status page and of `postbell top`: the mesh at a glance, and the flow, live.
//!
//! While somebody watches, the mesh is read from the database, once for all who watch; the longer a read takes, the
//! longer the pause after it. The flow is sent in frames, at most [`FRAMES_PER_SECOND`]. While nobody watches, this
//! costs a look at a histogram every ten seconds.

mod delivery;
pub(crate) mod mesh;
mod picture;
mod verdict;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Mutex, broadcast, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::pipeline::dispatch::Input;
use crate::store::Pool;
use crate::store::lease::BrokerRow;
use crate::store::status::{Bounds, Reading, read};
use crate::watch::flow::{Flow, Watch};
use crate::watch::health::Health;
use crate::watch::metrics::Metrics;
use mesh::{Mesh, This};
use postbell_engine::inbox::dispatcher::Here;

/// Frames of the flow a second.
pub const FRAMES_PER_SECOND: u32 = 5;
/// The most events that may wait for one who watches. A reader further behind is dropped.
pub const BEHIND_MAX: usize = 64;
/// How often the delivery time's minutes are read.
const MINUTES_EVERY: Duration = Duration::from_secs(10);
/// The least time between two readings of the mesh; a reading that took long is followed by [`PAUSE_FACTOR`] times
/// its duration.
const READ_EVERY: Duration = Duration::from_secs(2);
/// Reading takes at most a twentieth of one connection.
const PAUSE_FACTOR: u32 = 20;
/// The pause grows with the mesh, whose text goes to everybody who watches.
const READ_EVERY_PER_AGENT: Duration = Duration::from_millis(3);
/// After this time the database counts as not answering.
const READ_WAIT: Duration = Duration::from_secs(4);
/// How long the dispatcher may take to tell which agents are connected.
const SURVEY_WAIT: Duration = Duration::from_secs(1);

/// Everybody who may watch reads this, so it names no host.
const OLD: &str =
    "The database could not be read: agents and depths are as they last were. The broker keeps trying.";
const BOUNDS: Bounds = Bounds { agents: 20_000, flow_messages: 2_000, flow_seconds: 600 };

/// The data that is shown; clones share it.
#[derive(Clone)]
pub struct Status(Arc<StatusParts>);

struct StatusParts {
    pool: Pool,
    flow: Flow,
    health: Health,
    metrics: Metrics,
    inputs: mpsc::WeakSender<Input>,
    broker: BrokerRow,
    started: Instant,
    known: Mutex<LastReading>,
    live: broadcast::Sender<Bytes>,
}

/// The last reading of the mesh, which everybody who asks is shown.
#[derive(Default)]
struct LastReading {
    reading: Reading,
    /// The reason why the reading may be old.
    fault: Option<String>,
    /// The time before which the mesh is not read again.
    next: Option<Instant>,
    text: Bytes,
}

/// A place to watch, with text for an event stream.
pub struct Live {
    /// The events. An error means that the reader is too slow, or that the broker stops.
    pub events: broadcast::Receiver<Bytes>,
    _watch: Watch,
}

impl Status {
    /// Shows data of these parts. `inputs` is asked which agents are connected.
    pub fn new(
        pool: Pool,
        flow: Flow,
        health: Health,
        metrics: Metrics,
        inputs: mpsc::WeakSender<Input>,
        broker: BrokerRow,
    ) -> Self {
        let (live, _) = broadcast::channel(BEHIND_MAX);
        let started = Instant::now();
        let known = Mutex::default();
        Self(Arc::new(StatusParts { pool, flow, health, metrics, inputs, broker, started, known, live }))
    }

    /// The counts of what flows, for the tasks that see it.
    pub fn flow(&self) -> &Flow {
        &self.0.flow
    }

    /// Begins to watch; `None` if as many as may already do.
    pub fn watch(&self) -> Option<Live> {
        let watch = self.0.flow.watch()?;
        Some(Live { events: self.0.live.subscribe(), _watch: watch })
    }

    /// The mesh as JSON, read anew if it is time.
    pub async fn mesh(&self) -> Bytes {
        // One caller reads; the others wait and find the reading fresh.
        let mut known = self.0.known.lock().await;
        if known.next.is_none_or(|next| next <= Instant::now()) {
            self.read(&mut known).await;
        }
        known.text.clone()
    }

    /// Runs until it is dropped.
    pub async fn run(self) {
        tokio::join!(self.follow_minutes(), self.send_frames(), self.send_meshes());
    }

    async fn follow_minutes(&self) {
        let mut every = interval(MINUTES_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            self.0.flow.minutes(Instant::now(), &self.0.metrics.delivery_counts());
        }
    }

    async fn send_frames(&self) {
        loop {
            self.0.flow.watched().await;
            sleep(Duration::from_secs(1) / FRAMES_PER_SECOND).await;
            if let Some(frame) = self.0.flow.take_frame(Instant::now()) {
                self.send("flow", &json(&frame));
            }
        }
    }

    /// Sends the mesh only when it changed, so a mesh at rest sends nothing.
    async fn send_meshes(&self) {
        let mut last = Bytes::new();
        loop {
            self.0.flow.watched().await;
            let text = self.mesh().await;
            if text != last {
                self.send("mesh", &text);
                last = text;
            }
            let next = self.0.known.lock().await.next;
            tokio::time::sleep_until(next.unwrap_or_else(Instant::now)).await;
        }
    }

    fn send(&self, event: &str, json: &[u8]) {
        // Perhaps nobody watches any more.
        let _ = self.0.live.send(event_text(event, json));
    }

    async fn read(&self, known: &mut LastReading) {
        let began = Instant::now();
        match timeout(READ_WAIT, read(&self.0.pool, BOUNDS)).await {
            Ok(Ok(reading)) => (known.reading, known.fault) = (reading, None),
            failed => {
                let error = failed.map_or("it took too long".to_owned(), |e| {
                    e.err().map_or(String::new(), |e| e.to_string())
                });
                tracing::debug!(error, "the status could not be read");
                known.fault = Some(OLD.to_owned());
            }
        }
        // If the database did not answer, it is read again soon.
        let took = if known.fault.is_none() { began.elapsed() } else { Duration::ZERO };
        let mesh = self.assemble(known, self.survey().await);
        let pause = READ_EVERY + READ_EVERY_PER_AGENT * mesh.agents.len() as u32;
        known.next = Some(Instant::now() + pause.max(took * PAUSE_FACTOR));
        known.text = json(&mesh).into();
    }

    fn assemble(&self, known: &LastReading, here: HashMap<Arc<str>, Here>) -> Mesh {
        let now = Instant::now();
        let StatusParts { flow, health, metrics, broker, started, .. } = &*self.0;
        let readiness = health.ready(now);
        let picture = picture::picture(&known.reading, broker.id, &here);
        let mut mesh = Mesh {
            broker: This {
                name: broker.name.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ready: readiness.ready,
                up_minutes: started.elapsed().as_secs() / 60,
                sessions: here.values().map(|h| h.sessions).sum(),
                in_flight: here.values().map(|h| h.in_flight).sum(),
                database: known.fault.clone(),
            },
            brokers: picture::brokers(&known.reading, broker.id),
            environments: picture.environments,
            agents: picture.agents,
            agents_left_out: picture.left_out,
            depth: picture.depth,
            scheduled: known.reading.scheduled.max(0) as u64,
            set_aside: picture::set_aside(&known.reading.set_aside),
            dead: known.reading.dead.iter().map(|(_, n)| (*n).max(0) as u64).sum(),
            groups: picture.groups,
            unknown: picture.unknown,
            delivery: delivery::summary(flow.minutes(now, &metrics.delivery_counts())),
            flow_seconds: BOUNDS.flow_seconds as u64,
            flow: picture::edges(&known.reading),
            ..Mesh::default()
        };
        mesh.verdict = verdict::verdict(&mesh, &readiness);
        mesh
    }

    /// Asks the dispatcher which agents are connected. Empty if the dispatcher does not answer, because the broker
    /// then stops.
    async fn survey(&self) -> HashMap<Arc<str>, Here> {
        let Some(inputs) = self.0.inputs.upgrade() else { return HashMap::new() };
        let (answer, answered) = oneshot::channel();
        let asked = async {
            inputs.send(Input::Survey(answer)).await.ok()?;
            answered.await.ok()
        };
        timeout(SURVEY_WAIT, asked).await.ok().flatten().unwrap_or_default()
    }
}

/// An event of an event stream. JSON text has no line end inside.
pub fn event_text(event: &str, json: &[u8]) -> Bytes {
    [b"event: ", event.as_bytes(), b"\ndata: ", json, b"\n\n"].concat().into()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Strings, numbers and lists always serialize.
    serde_json::to_vec(value).unwrap_or_default()
}
