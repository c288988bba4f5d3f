//! The task that holds the leases: this broker's own, renewed each second, and those of its inboxes.

mod answering;
mod asking;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::agents::presence::Presence;
use crate::base::names::few;
use crate::base::pace::Pace;
use crate::pipeline::dispatch::{Input, LeaseRequest};
use crate::pipeline::rest::Rest;
use crate::pipeline::traffic::Traffic;
use crate::store::error::Fault;
use crate::store::lease::{BrokerRow, LEASE, RENEW_EVERY, held, leave, open, release, renew};
use crate::store::listen::Rope;
use crate::store::{Connection, StoreError, Target};
use crate::watch::health::{Health, LeasesRefused};
use crate::watch::metrics::Metrics;
use asking::{ASK_AGAIN, Asked, Differing};
use postbell_engine::inbox::event::Event;

/// The most inboxes that a line of the log names.
const NAMED_MAX: usize = 5;
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// The channels and settings of the task that holds the leases.
pub(crate) struct Leaser {
    /// The database to read and write.
    pub target: Target,
    /// This broker's row.
    pub broker: BrokerRow,
    /// Sends canaries, and hears them come back.
    pub rope: Arc<Rope>,
    /// Learns whether the router lives.
    pub traffic: Arc<Traffic>,
    /// Notified when this broker's lease had lapsed.
    pub lapsed: Arc<Notify>,
    /// Learns that the lease had lapsed.
    pub presence: Presence,
    /// Learns of signs that there is something to sweep.
    pub rest: Rest,
    /// The dispatcher, for changes of ownership.
    pub inputs: mpsc::WeakSender<Input>,
    /// Learns whether the database answers.
    pub health: Health,
    /// Shows whether the database answers, and how full its queue of notifications is.
    pub metrics: Metrics,
}

impl Leaser {
    /// Holds the leases until `stop`, or until the dispatcher's task is gone; then gives them all back.
    pub(crate) async fn run(
        self,
        mut requests: mpsc::Receiver<Vec<LeaseRequest>>,
        mut stop: oneshot::Receiver<()>,
    ) {
        let mut pace = Pace::new(RECONNECT_FIRST, RECONNECT_MAX);
        let mut asked = Asked::new(Instant::now());
        loop {
            let held = async {
                let connection = open(&self.target).await?;
                self.hold(&connection, &mut requests, &mut asked, &mut pace).await
            };
            let error = tokio::select! {
                result = held => match result { Ok(()) => return self.leave().await, Err(e) => e },
                _ = &mut stop => return self.leave().await,
            };
            self.database_up(false);
            // A server that refuses a statement is reached.
            let is_refused = error.sqlstate().is_some() && error.fault() != Fault::Passing;
            let all =
                || LeasesRefused { inboxes: "all inboxes".to_owned(), why: error.to_string(), is_most: true };
            self.health.set_leases_refused(is_refused.then(all));
            let wait = pace.next_wait();
            tracing::warn!(error = %error, ?wait, "the lease's connection failed; trying again");
            tokio::select! {
                () = sleep(wait) => {}
                _ = &mut stop => return self.leave().await,
            }
        }
    }

    async fn hold(
        &self,
        connection: &Connection,
        requests: &mut mpsc::Receiver<Vec<LeaseRequest>>,
        asked: &mut Asked,
        pace: &mut Pace,
    ) -> Result<(), StoreError> {
        let mut renewal = interval(RENEW_EVERY);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_known_alive = false;
        let mut again = interval(ASK_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = renewal.tick() => {
                    is_known_alive = self.renew(connection, asked, is_known_alive).await?;
                    pace.reset();
                }
                batch = requests.recv() => match batch {
                    Some(batch) => batch.into_iter().for_each(|request| asked.note(request)),
                    None => return Ok(()),
                },
                _ = again.tick(), if asked.has_unknown_owners() => asked.ask_again(),
            }
            self.answer(connection, asked).await?;
        }
    }

    async fn renew(
        &self,
        connection: &Connection,
        asked: &mut Asked,
        is_known_alive: bool,
    ) -> Result<bool, StoreError> {
        let canary = self.rope.send_canary();
        let late = || StoreError::unavailable("the database did not answer before the lease ended");
        let stuck = self.health.stuck(Instant::now());
        let standstill = (!stuck.is_empty()).then(|| stuck.join(" "));
        let renewal = renew(
            connection,
            &self.broker,
            canary,
            is_known_alive,
            standstill.as_deref(),
            self.rest.wants_signs(),
        );
        // The server tells a lapse once, and a renewal without an answer may have been told; another broker may have had
        // inboxes. So it counts as a lapse, whatever this broker's own clock says: the server's may have jumped.
        let until = asked.until.take();
        let renewed = timeout(LEASE, renewal).await.unwrap_or_else(|_| Err(late())).inspect_err(|e| {
            self.rest.renewal_failed();
            // The server took all of it back, and told nothing.
            asked.until = until.filter(|_| e.is_answered());
        })?;
        self.rest.note(&renewed);
        if renewed.canary_sent {
            self.rope.expect_canary();
        }
        self.note_queue(renewed.queue_usage);
        if renewed.is_orphaned {
            self.traffic.found_orphan();
        }
        self.database_up(true);
        self.tell_of_refusals(asked);
        let unbroken = until.is_some_and(|until| Instant::now() < until);
        asked.until = Some(renewed.until);
        if renewed.lapsed || !unbroken {
            self.lapsed.notify_one();
            self.presence.lapsed();
            self.tell(Event::LeaseLapsed).await;
        }
        self.tell(Event::LeaseUntil(renewed.until.into_std())).await;
        // After a lapse every inbox is asked for in any case.
        if !renewed.lapsed && unbroken && renewed.held != asked.held() {
            self.compare(connection, asked).await?;
        }
        if !renewed.wanted.is_empty() {
            self.tell(Event::Wanted(renewed.wanted)).await;
        }
        Ok(renewed.is_known_alive)
    }

    /// Compares the leases in the table with those that this broker knows, after somebody else wrote the table: a restore, a
    /// job that cleans up. A lease that is gone or another's is asked for anew, since the tail reads only what the table
    /// says is this broker's. A lease of this broker that it does not know would keep the inbox from everybody, so it is
    /// given back.
    async fn compare(&self, connection: &Connection, asked: &mut Asked) -> Result<(), StoreError> {
        let table: HashMap<_, _> = held(connection, self.broker.id).await?.into_iter().collect();
        let Differing { lost, unknown } = asked.compared_with(&table);
        if !unknown.is_empty() {
            tracing::warn!(inboxes = %few(unknown.iter().map(|(inbox, _)| inbox), NAMED_MAX), "postbell.leases names this broker \
                 for inboxes that it does not have: somebody else wrote the table; they are given back");
            if let Err(e) = release(connection, self.broker.id, &unknown).await {
                if !e.may_be_of_a_row() || connection.is_closed() {
                    return Err(e);
                }
                tracing::warn!(error = %e, "leases that are not this broker's cannot be given back; it is tried again");
            }
        }
        if !lost.is_empty() {
            tracing::warn!(inboxes = %few(&lost, NAMED_MAX), "the leases of these inboxes are gone from \
                 postbell.leases, or another's: somebody else wrote the table; they are asked for anew");
            self.metrics.leases_lost.inc_by(lost.len() as u64);
            asked.forget(&lost);
            self.tell(Event::LeasesLost(lost.into_iter().collect())).await;
        }
        Ok(())
    }

    fn note_queue(&self, usage: f64) {
        self.metrics.notify_queue.set(usage);
        if !self.rope.note_queue(usage) {
            return;
        }
        let crowded = self.rope.is_crowded();
        self.health.set_crowded(crowded);
        let usage = format!("{:.0} %", usage * 100.0);
        match crowded {
            true => tracing::warn!(
                usage,
                "the server's queue of notifications fills up: the bell is off, and the tail reads ten times a second; \
                 end the session that listens and sits idle in a transaction (pg_stat_activity, state 'idle in \
                 transaction')"
            ),
            false => {
                tracing::info!(usage, "the server's queue of notifications is emptied again: the bell is on")
            }
        }
    }

    async fn leave(&self) {
        let left = async { leave(&self.target, self.broker.id).await };
        match timeout(LEASE, left).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                tracing::warn!(error = %e, "the leases could not be given back; they end by themselves")
            }
            Err(_) => tracing::warn!("the leases could not be given back in time; they end by themselves"),
        }
    }

    async fn tell(&self, event: Event) {
        if let Some(inputs) = self.inputs.upgrade() {
            // The dispatcher's task may be gone: then nobody needs the event.
            let _ = inputs.send(Input::Event(event)).await;
        }
    }

    fn database_up(&self, up: bool) {
        self.health.set_database_up(up);
        self.metrics.database_up.set(i64::from(up));
    }
}
