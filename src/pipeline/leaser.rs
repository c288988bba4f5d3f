//! The task that holds the leases: this broker's own, renewed each second, and those of its inboxes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use uuid::Uuid;

use crate::agents::presence::Presence;
use crate::base::pace::Pace;
use crate::pipeline::dispatch::{Input, LeaseRequest};
use crate::store::lease::{Acquired, BrokerRow, LEASE, RENEW_EVERY, acquire, leave, release, renew, want};
use crate::store::listen::Rope;
use crate::store::{Connection, StoreError, Target};
use crate::watch::health::{Health, Standstill};
use crate::watch::metrics::Metrics;
use postbell_engine::inbox::event::{Event, Trouble};

/// The wait before asking again for an inbox whose owner is another broker that cannot be linked to.
const ASK_AGAIN: Duration = Duration::from_millis(250);
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// The channels and settings of the task that holds the leases.
pub struct Leaser {
    /// The database to read and write.
    pub target: Target,
    /// This broker's row.
    pub broker: BrokerRow,
    /// Sends canaries, and hears them come back.
    pub rope: Arc<Rope>,
    /// Notified when this broker's lease had lapsed.
    pub lapsed: Arc<Notify>,
    /// Learns that the lease had lapsed.
    pub presence: Presence,
    /// The dispatcher, for changes of ownership.
    pub inputs: mpsc::WeakSender<Input>,
    /// Learns whether the database answers.
    pub health: Health,
    /// Shows whether the database answers, and how full its queue of notifications is.
    pub metrics: Metrics,
}

/// Requests that are not answered yet.
#[derive(Default)]
struct Asked {
    /// Sorted, since two brokers that lock the same rows in different orders would deadlock.
    acquire: BTreeMap<Arc<str>, Option<Trouble>>,
    release: HashSet<Arc<str>>,
    /// Inboxes whose owner is not known: asked for again only every `ASK_AGAIN`.
    refused: HashSet<Arc<str>>,
    /// The end of this broker's lease, by the last renewal that was answered.
    until: Option<Instant>,
}

impl Leaser {
    /// Holds the leases until `stop`, or until the dispatcher's task is gone; then gives them all back.
    pub async fn run(self, mut requests: mpsc::Receiver<Vec<LeaseRequest>>, mut stop: oneshot::Receiver<()>) {
        let mut pace = Pace::new(RECONNECT_FIRST, RECONNECT_MAX);
        let mut asked = Asked::default();
        loop {
            let held = async {
                let connection = Connection::open(&self.target).await?;
                self.hold(&connection, &mut requests, &mut asked, &mut pace).await
            };
            let error = tokio::select! {
                result = held => match result { Ok(()) => return self.leave().await, Err(e) => e },
                _ = &mut stop => return self.leave().await,
            };
            self.database_up(false);
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
                _ = again.tick(), if !asked.refused.is_empty() => {
                    asked.acquire.extend(asked.refused.drain().map(|inbox| (inbox, None)));
                }
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
        let standstills: Vec<_> =
            self.health.standstills(Instant::now()).iter().map(Standstill::sentence).collect();
        let standstill = (!standstills.is_empty()).then(|| standstills.join(" "));
        let renewal = renew(connection, &self.broker, canary, is_known_alive, standstill.as_deref());
        let renewed = timeout(LEASE, renewal).await;
        let renewed = renewed.unwrap_or_else(|_| Err(late()))?;
        if renewed.canary_sent {
            self.rope.expect_canary();
        }
        self.note_queue(renewed.queue_usage);
        self.database_up(true);
        // If the answer of an earlier renewal was lost, that answer may have been the one that told of the lapse. The
        // server tells a lapse once, yet another broker may have had inboxes meanwhile. So a gap by this broker's own
        // clock counts as a lapse, too.
        let unbroken = asked.until.is_some_and(|until| Instant::now() < until);
        asked.until = Some(renewed.until);
        if renewed.lapsed || !unbroken {
            self.lapsed.notify_one();
            self.presence.lapsed();
            self.tell(Event::LeaseLapsed).await;
        }
        self.tell(Event::LeaseUntil(renewed.until)).await;
        if !renewed.wanted.is_empty() {
            self.tell(Event::Wanted(renewed.wanted)).await;
        }
        Ok(renewed.is_known_alive)
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

    async fn answer(&self, connection: &Connection, asked: &mut Asked) -> Result<(), StoreError> {
        if !asked.release.is_empty() {
            let inboxes: Vec<_> = asked.release.iter().cloned().collect();
            release(connection, self.broker.id, &inboxes).await?;
            asked.release.clear();
            for inbox in inboxes {
                self.tell(Event::Released(inbox)).await;
            }
        }
        if !asked.acquire.is_empty() {
            self.acquire(connection, asked).await?;
        }
        Ok(())
    }

    async fn acquire(&self, connection: &Connection, asked: &mut Asked) -> Result<(), StoreError> {
        let inboxes: Vec<_> = asked.acquire.keys().cloned().collect();
        let refusing = asked.acquire.values().flatten().filter(|t| t.refuses).map(|t| t.owner).collect();
        let answers = self.ask(connection, &inboxes, refusing).await?;
        let is_theirs = |(inbox, answer): &(Arc<str>, Acquired)| {
            let has_trouble = asked.acquire.get(inbox).is_some_and(Option::is_some);
            let is_unreachable = match answer {
                Acquired::Ours(_) => false,
                Acquired::Theirs(owner) => has_trouble || owner.is_none(),
            };
            is_unreachable.then(|| inbox.clone())
        };
        let unreachable: Vec<_> = answers.iter().filter_map(is_theirs).collect();
        if !unreachable.is_empty() {
            want(connection, self.broker.id, &unreachable).await?;
        }
        asked.acquire.clear();
        for (inbox, answer) in answers {
            self.tell(match answer {
                Acquired::Ours(epoch) => Event::Acquired { inbox, epoch },
                Acquired::Theirs(owner) => {
                    tracing::info!(%inbox, owner = owner.as_ref().map(|o| &*o.address), "another broker owns this inbox");
                    if owner.is_none() {
                        asked.refused.insert(inbox.clone());
                    }
                    Event::NotAcquired { inbox, owner }
                }
            })
            .await;
        }
        Ok(())
    }

    /// Asks for inboxes. An owner with this broker's own address is its predecessor, since a connection to that
    /// address reaches this broker; so that owner counts as one that refuses connections. An owner that lives all the
    /// same (one is frozen, or two brokers advertise one address) is reported as unknown, because nobody can link to
    /// that owner.
    async fn ask(
        &self,
        connection: &Connection,
        inboxes: &[Arc<str>],
        mut refusing: Vec<Uuid>,
    ) -> Result<Vec<(Arc<str>, Acquired)>, StoreError> {
        let predecessor = |answer: &Acquired| match answer {
            Acquired::Theirs(Some(owner)) if *owner.address == *self.broker.address => Some(owner.broker),
            _ => None,
        };
        refusing.sort_unstable();
        refusing.dedup();
        let mut answers = acquire(connection, self.broker.id, inboxes, &refusing).await?;
        let mut predecessors: Vec<_> = answers.iter().filter_map(|(_, answer)| predecessor(answer)).collect();
        predecessors.sort_unstable();
        predecessors.dedup();
        if !predecessors.is_empty() {
            refusing.extend(predecessors);
            answers = acquire(connection, self.broker.id, inboxes, &refusing).await?;
        }
        for (_, answer) in &mut answers {
            if predecessor(answer).is_some() {
                *answer = Acquired::Theirs(None);
            }
        }
        Ok(answers)
    }

    async fn leave(&self) {
        let left = async { leave(&Connection::open(&self.target).await?, self.broker.id).await };
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

impl Asked {
    fn note(&mut self, request: LeaseRequest) {
        match request {
            // The inbox was refused a moment ago; `ASK_AGAIN` decides when to ask again.
            LeaseRequest::Acquire(inbox, _) if self.refused.contains(&inbox) => {}
            LeaseRequest::Acquire(inbox, trouble) => {
                self.acquire.insert(inbox, trouble);
            }
            LeaseRequest::Release(inbox) => {
                self.release.insert(inbox);
            }
        }
    }
}
