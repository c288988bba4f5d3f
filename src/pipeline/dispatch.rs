//! The task around the [`Dispatcher`]: feeds events to it and carries out its effects.
//!
//! The task waits for nothing but events. Outcomes, marks, refills and lease requests wait in its own queues until
//! the task that writes them has room, so a slow database makes the next batch larger and never stops a session. The
//! queues are bounded by what the dispatcher allows (its windows, `UNSETTLED_MAX`, one refill an inbox) and by
//! `MARKS_MAX`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::sleep_until;
use uuid::Uuid;

use crate::base::names::few;
use crate::watch::health::{Health, HeldBack};
use crate::watch::metrics::Metrics;
use postbell_client::protocol::limits::WINDOW_MAX;
use postbell_client::protocol::{ErrorCode, ProtocolError, ServerFrame};
use postbell_engine::inbox::dispatcher::{Dispatcher, Here};
use postbell_engine::inbox::event::{Effect, Event, Owner, Push, Refill, Settle, Trouble};
use postbell_engine::inbox::{SessionId, Tag};

/// The most inputs that wait for the dispatcher. Beyond that, sessions wait before they read on, and the tail before
/// it takes more rows from the server.
pub(crate) const INPUTS_MAX: usize = 8_192;
/// How many inputs are handled before their effects are carried out.
const INPUTS_AT_ONCE: usize = 256;
/// The most answers that wait in a session's outbox, beside its window. A client that asks without reading is closed.
const ANSWERS_MAX: usize = 4_096;
/// The capacity of a session's outbox.
pub(crate) const OUTBOX_MAX: usize = WINDOW_MAX as usize + ANSWERS_MAX;
/// The most outcomes in one batch.
pub(crate) const SETTLE_BATCH_MAX: usize = 1_000;
/// The most marks that wait to be written; further marks are dropped.
const MARKS_MAX: usize = 10_000;
/// How often the longest wait is computed, by a look at every inbox in memory and without a statement.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The most inboxes that a sentence names.
const NAMED_MAX: usize = 3;
/// The most refills in one statement.
pub(crate) const REFILL_BATCH_MAX: usize = 64;

const _: () = assert!(SETTLE_BATCH_MAX <= postbell_engine::inbox::dispatcher::UNSETTLED_MAX);

/// Something for a session's socket.
#[derive(Debug)]
pub enum ForSession {
    /// A delivery that is pushed to the agent.
    Push(Push),
    /// A delivery that the inbox's owner pushed to this broker's link: its tag here, and its line.
    Relayed(Tag, Vec<u8>),
    /// Tells the session itself that its inbox is another broker's: the owner, and the last tag that was used here.
    Elsewhere(Owner, Tag),
    /// An answer to one of the agent's requests.
    Frame(ServerFrame),
    /// An answer that may be large. The permit is the agent's turn: the agent's next such answer is made only after
    /// this one is written.
    Answer(Box<ServerFrame>, OwnedSemaphorePermit),
    /// The last line, after which the session ends.
    Close(ProtocolError),
}

/// The way to a session's socket. A session whose outbox is full is closed as a slow reader.
pub(crate) type Outbox = mpsc::Sender<ForSession>;

/// An input of the dispatcher's task.
#[derive(Debug)]
pub enum Input {
    /// An event for the dispatcher.
    Event(Event),
    /// A session joins: its outbox, and its event.
    Join(Outbox, Event),
    /// A request for who is connected.
    Survey(oneshot::Sender<HashMap<Arc<str>, Here>>),
}

/// The way to the dispatcher's task.
pub(crate) type Inputs = mpsc::Sender<Input>;

/// A change of ownership, to be made in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LeaseRequest {
    /// Take this inbox. The trouble says how its owner was lost, if there was one.
    Acquire(Arc<str>, Option<Trouble>),
    /// Give this inbox back.
    GiveBack(Arc<str>),
}

/// The tasks that carry out the dispatcher's effects. Each channel holds one batch: while that one is written, the
/// next one gathers in the dispatcher's task.
pub(crate) struct Ports {
    /// To the settler, which writes outcomes.
    pub settle: mpsc::Sender<Vec<Settle>>,
    /// To the marker, which marks messages delivered.
    pub mark: mpsc::Sender<Vec<Uuid>>,
    /// To the refiller, which reads waiting deliveries.
    pub refill: mpsc::Sender<Vec<Refill>>,
    /// To the leaser, which takes and gives back inboxes.
    pub lease: mpsc::Sender<Vec<LeaseRequest>>,
    /// Wakes the tail.
    pub wake: Arc<Notify>,
}

/// How much is left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Connected sessions.
    pub sessions: usize,
    /// Deliveries in flight.
    pub in_flight: usize,
    /// Outcomes that are not written yet.
    pub unsettled: usize,
    /// Unsettled outcomes that can be written nowhere, as the settler said last.
    pub hurt: usize,
    /// Whether this broker owns an inbox.
    pub has_inboxes: bool,
}

impl Load {
    /// Whether every outcome is written that can be.
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled <= self.hurt
    }
}

#[derive(Default)]
struct Queues {
    settles: Vec<Settle>,
    marks: Vec<Uuid>,
    refills: VecDeque<Refill>,
    leases: Vec<LeaseRequest>,
}

/// Runs until every sender of `inputs` is gone.
pub(crate) async fn run(
    mut dispatcher: Dispatcher,
    mut inputs: mpsc::Receiver<Input>,
    ports: Ports,
    load: watch::Sender<Load>,
    (metrics, health): (Metrics, Health),
) {
    let mut outboxes: HashMap<SessionId, Outbox> = HashMap::new();
    let mut waiting = Queues::default();
    let mut buffer = Vec::with_capacity(INPUTS_AT_ONCE);
    let mut look = Instant::now();
    loop {
        let wake = dispatcher.next_wake();
        tokio::select! {
            n = inputs.recv_many(&mut buffer, INPUTS_AT_ONCE) => if n == 0 { return },
            Ok(permit) = ports.settle.reserve(), if !waiting.settles.is_empty() => permit.send(waiting.take_batch()),
            Ok(permit) = ports.mark.reserve(), if !waiting.marks.is_empty() => {
                permit.send(std::mem::take(&mut waiting.marks));
            }
            Ok(permit) = ports.refill.reserve(), if !waiting.refills.is_empty() => {
                let n = waiting.refills.len().min(REFILL_BATCH_MAX);
                permit.send(waiting.refills.drain(..n).collect());
            }
            Ok(permit) = ports.lease.reserve(), if !waiting.leases.is_empty() => {
                permit.send(std::mem::take(&mut waiting.leases));
            }
            () = sleep_until(wake.map_or_else(Instant::now, Instant::from_std)), if wake.is_some() => {}
            () = sleep_until(look) => {}
        }
        let now = Instant::now();
        for input in buffer.drain(..) {
            let event = match input {
                Input::Event(event) => event,
                Input::Join(outbox, event) => {
                    if let Event::Join { session, .. } = &event {
                        outboxes.insert(*session, outbox);
                    }
                    event
                }
                Input::Survey(answer) => {
                    // The one who asked may have given up.
                    let _ = answer.send(dispatcher.survey());
                    continue;
                }
            };
            if let Event::Leave { session, .. } = &event {
                outboxes.remove(session);
            }
            dispatcher.handle(now.into_std(), event);
        }
        for effect in dispatcher.advance(now.into_std()) {
            carry_out(effect, &mut outboxes, &mut waiting, &ports.wake);
        }
        publish_load(&dispatcher, &load, &metrics, &health);
        if look <= now {
            look = now + LOOK_EVERY;
            metrics.longest_wait.set(dispatcher.longest_wait(now.into_std()).as_secs_f64());
            metrics.inboxes.set(dispatcher.inboxes() as i64);
        }
    }
}

impl Queues {
    fn take_batch(&mut self) -> Vec<Settle> {
        if self.settles.len() <= SETTLE_BATCH_MAX {
            return std::mem::take(&mut self.settles);
        }
        let rest = self.settles.split_off(SETTLE_BATCH_MAX);
        std::mem::replace(&mut self.settles, rest)
    }

    /// Queues marks as far as there is room. A mark is a hint, so the rest is dropped.
    fn mark(&mut self, messages: Vec<Uuid>) {
        let room = MARKS_MAX.saturating_sub(self.marks.len());
        self.marks.extend(messages.into_iter().take(room));
    }
}

fn carry_out(effect: Effect, outboxes: &mut HashMap<SessionId, Outbox>, waiting: &mut Queues, wake: &Notify) {
    match effect {
        Effect::Push(session, push) => hand_over(outboxes, session, ForSession::Push(push)),
        Effect::Acked(session, reference) => {
            hand_over(outboxes, session, ForSession::Frame(ServerFrame::Acked { reference }));
        }
        Effect::Refuse(session, error) => hand_over(outboxes, session, ForSession::Frame(error.into())),
        Effect::Close(session, code) => {
            hand_over(outboxes, session, ForSession::Close(ProtocolError::new(code, farewell(code))));
        }
        Effect::Settle(settle) => waiting.settles.push(settle),
        Effect::Mark(messages) => waiting.mark(messages),
        Effect::Elsewhere(session, owner, last_tag) => {
            hand_over(outboxes, session, ForSession::Elsewhere(owner, last_tag));
        }
        Effect::Acquire(inbox, trouble) => waiting.leases.push(LeaseRequest::Acquire(inbox, trouble)),
        Effect::GiveBack(inbox) => waiting.leases.push(LeaseRequest::GiveBack(inbox)),
        Effect::Refill(refill) => waiting.refills.push_back(refill),
        Effect::WakeTail => wake.notify_one(),
    }
}

/// Removes an outbox that is full or closed. The session then ends, and its `Leave` returns the deliveries that were
/// not written.
fn hand_over(outboxes: &mut HashMap<SessionId, Outbox>, session: SessionId, outgoing: ForSession) {
    if let Some(outbox) = outboxes.get(&session)
        && outbox.try_send(outgoing).is_err()
    {
        outboxes.remove(&session);
    }
}

fn farewell(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::TakenOver => "this agent and instance connected again; the newer session goes on",
        ErrorCode::NotOwner => "the inbox is not this broker's; ask the database whose it is",
        ErrorCode::Stopping => "the broker is stopping; connect again",
        _ => "the broker ends this session",
    }
}

fn publish_load(dispatcher: &Dispatcher, load: &watch::Sender<Load>, metrics: &Metrics, health: &Health) {
    let now = Load {
        sessions: dispatcher.sessions(),
        in_flight: dispatcher.in_flight(),
        unsettled: dispatcher.unsettled(),
        hurt: health.hurt(),
        has_inboxes: !dispatcher.is_empty(),
    };
    if *load.borrow() != now {
        metrics.in_flight.set(now.in_flight as i64);
        metrics.sessions.set(now.sessions as i64);
        metrics.unsettled.set(now.unsettled as i64);
        health.set_held_back(held_back(dispatcher));
        load.send_replace(now);
    }
}

fn held_back(dispatcher: &Dispatcher) -> Option<HeldBack> {
    let held_back = dispatcher.held_back();
    (held_back.len() > 0)
        .then(|| HeldBack { inboxes: few(held_back, NAMED_MAX), outcomes: dispatcher.unsettled() })
}

#[cfg(test)]
mod tests;
