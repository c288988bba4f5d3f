//! The task that tails: runs a round of the tail whenever the [`Bell`] says so, on a connection of its own.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, sleep_until, timeout};
use uuid::Uuid;

use crate::base::pace::Pace;
use crate::pipeline::alarm::Alarm;
use crate::pipeline::dispatch::Input;
use crate::pipeline::traffic::Traffic;
use crate::store::listen::Rope;
use crate::store::payload::{Wary, may_be_a_row};
use crate::store::tail::{Cursor, Round, set_armed};
use crate::store::{Connection, StoreError, Target};
use crate::watch::health::{Duty, Health};
use crate::watch::metrics::Metrics;
use postbell_engine::bell::{Bell, Flag, Heard};
use postbell_engine::inbox::event::Event;

/// The longest that a round may take. A slower round is given up together with its connection, because a message must
/// be served within 5 s.
const ROUND_WAIT: Duration = Duration::from_secs(4);
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// The channels and settings of the tail.
pub(crate) struct Tailer {
    /// The database to read.
    pub target: Target,
    /// This broker's id, which the tail joins with the leases.
    pub broker: Uuid,
    /// Learns how many deliveries the mesh makes.
    pub traffic: Arc<Traffic>,
    /// The rings and canaries that the listener hears.
    pub rope: Arc<Rope>,
    /// Notified when this broker itself made a delivery ready.
    pub wake: Arc<Notify>,
    /// Notified when this broker's lease had lapsed: producers did not ring for it meanwhile.
    pub lapsed: Arc<Notify>,
    /// The dispatcher, for the rows.
    pub inputs: mpsc::WeakSender<Input>,
    /// Learns when the next scheduled delivery is due.
    pub alarm: Alarm,
    /// Whether rows have recently cost too much to be made text.
    pub wary: Arc<Wary>,
    /// Learns of canaries and rounds.
    pub health: Health,
    /// Counts rings and rows.
    pub metrics: Metrics,
}

impl Tailer {
    /// Tails until the dispatcher's task is gone. A lost connection is replaced and the cursor kept, so nothing that
    /// commits meanwhile is missed.
    pub(crate) async fn run(self) {
        let mut pace = Pace::new(RECONNECT_FIRST, RECONNECT_MAX);
        let mut bell = Bell::new(Instant::now().into_std());
        let mut cursor = None;
        while self.inputs.strong_count() > 0 {
            self.health.began(Duty::Tail, Instant::now());
            let blamed = self.wary.blamed_total();
            let Err(e) = self.follow(&mut bell, &mut cursor, &mut pace).await else { return };
            self.health.failed(Duty::Tail, e.to_string());
            // The next round leaves that message out, so nobody needs to wait for it.
            if self.wary.blamed_total() > blamed {
                pace.reset();
            }
            let wait = pace.next_wait();
            tracing::warn!(error = %e, ?wait, "the tail's connection failed; trying again");
            sleep(wait).await;
        }
    }

    async fn follow(
        &self,
        bell: &mut Bell,
        cursor: &mut Option<Cursor>,
        pace: &mut Pace,
    ) -> Result<(), StoreError> {
        let connection = Connection::open(&self.target).await?;
        let cursor = self.resume(&connection, cursor).await?;
        // After an outage the flag in the database may have any value. So it is written first, before the bell starts
        // over.
        bell.wake_up(Instant::now().into_std());
        set_armed(&connection, self.broker, false).await?;
        loop {
            tokio::select! {
                () = sleep_until(bell.due().into()) => {}
                () = self.rope.changed() => {}
                () = self.wake.notified() => bell.wake(Instant::now().into_std()),
                () = self.lapsed.notified() => self.write(&connection, bell.wake_up(Instant::now().into_std())).await?,
            }
            let flag = bell.hear(Instant::now().into_std(), self.hear());
            self.write(&connection, flag).await?;
            if bell.due() > Instant::now().into_std() {
                continue;
            }
            let Some(round) = self.round(&connection, cursor).await? else { return Ok(()) };
            pace.reset();
            let now = Instant::now();
            let rows = round.rows + self.traffic.count(round.made);
            match bell.round(now.into_std(), rows, &round.in_progress, self.hear()) {
                Some(Flag::Arm) => {
                    set_armed(&connection, self.broker, true).await?;
                    bell.armed(Instant::now().into_std());
                }
                flag => self.write(&connection, flag).await?,
            }
            self.measure(bell);
        }
    }

    /// Returns the cursor to go on from: the present one, or a new one if the server has not reached what that one
    /// has read.
    async fn resume<'a>(
        &self,
        connection: &Connection,
        cursor: &'a mut Option<Cursor>,
    ) -> Result<&'a mut Cursor, StoreError> {
        match Cursor::adopt_restored(connection).await {
            Ok(0) => {}
            Ok(restored) => tracing::warn!(
                restored,
                "deliveries of another cluster's transactions, from a dump, were made this one's"
            ),
            // Nobody waits for it: each round reads these once more.
            Err(e) if e.may_be_of_a_row() && !connection.is_closed() => tracing::warn!(
                error = %e,
                "deliveries of another cluster's transactions could not be made this one's"
            ),
            Err(e) => return Err(e),
        }
        let server = Cursor::start(connection).await?;
        if cursor.as_ref().is_some_and(|cursor| cursor.is_ahead_of(&server)) {
            tracing::warn!(
                "the database is behind what was read of it: restored, or failed over; reading it anew"
            );
            if let Some(inputs) = self.inputs.upgrade() {
                // The dispatcher's task may be gone: then nobody needs the event.
                let _ = inputs.send(Input::Event(Event::TailBroken)).await;
            }
            *cursor = None;
        }
        Ok(cursor.get_or_insert(server))
    }

    /// Runs one round. Returns `None` once the dispatcher's task is gone.
    async fn round(&self, connection: &Connection, cursor: &mut Cursor) -> Result<Option<Round>, StoreError> {
        let Some(inputs) = self.inputs.upgrade() else { return Ok(None) };
        self.health.began(Duty::Tail, Instant::now());
        let mut brought = false;
        let was_wary = self.wary.is_wary(Instant::now());
        // A full dispatcher's queue makes this wait, and with it the server, so that no row is held twice.
        let bring = |rows| async {
            let _ = inputs.send(Input::Event(Event::Arrived(rows))).await;
        };
        let late =
            || StoreError::unavailable(format!("a round of the tail took over {} s", ROUND_WAIT.as_secs()));
        let round =
            timeout(ROUND_WAIT, cursor.round(connection, (self.broker, &self.wary), bring, &mut brought))
                .await;
        let is_late = round.is_err();
        let round = match round.unwrap_or_else(|_| Err(late())) {
            Ok(round) => round,
            Err(e) => {
                // From now on payloads are read apart for a while, so that a refill finds the row that cannot be
                // read, or not in time.
                if is_late || may_be_a_row(&e) {
                    self.wary.warn(Instant::now());
                }
                if brought {
                    let _ = inputs.send(Input::Event(Event::TailBroken)).await;
                }
                // No text was made, and it failed all the same: a message cannot be read at all. Slowness and a lost
                // connection may be such a message's, too, and another round would end in the same way.
                let is_of_a_row = was_wary && e.sqlstate().is_some() && may_be_a_row(&e);
                if is_of_a_row || e.is_slow() || e.is_cut_off() {
                    cursor.look_for_blame(&self.target, (self.broker, &self.wary)).await?;
                }
                return Err(e);
            }
        };
        self.health.succeeded(Duty::Tail);
        if let Some(due) = round.next_due {
            self.alarm.set(due);
        }
        self.metrics.tail_rows.inc_by(round.rows);
        let event =
            Event::TailRound { started_at: round.started_at.into_std(), snapshot: round.snapshot.clone() };
        Ok(inputs.send(Input::Event(event)).await.is_ok().then_some(round))
    }

    async fn write(&self, connection: &Connection, flag: Option<Flag>) -> Result<(), StoreError> {
        match flag {
            Some(flag) => set_armed(connection, self.broker, flag == Flag::Arm).await,
            None => Ok(()),
        }
    }

    fn hear(&self) -> Heard {
        // The canary must be read before the rings: see `Rope::canary`.
        let canary = self.rope.canary();
        let rings = self.rope.rings();
        if let Some(round_trip) = self.rope.take_round_trip() {
            self.metrics.bell_roundtrip_seconds.observe(round_trip.as_secs_f64());
            self.health.bell_seen(Instant::now());
        }
        Heard { up: self.rope.is_up(), rings, canary, canary_sent: self.rope.canary_sent() }
    }

    fn measure(&self, bell: &Bell) {
        let metrics = &self.metrics;
        metrics.bell_armed.set(i64::from(bell.is_armed()));
        metrics.bell_rings.inc_by(self.rope.rings().saturating_sub(metrics.bell_rings.get()));
        metrics.tail_late.inc_by(bell.late().saturating_sub(metrics.tail_late.get()));
    }
}
