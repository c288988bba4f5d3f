//! The task that keeps a client connected: it reads, writes what it is asked to, and reconnects when it must.

mod hear;
mod orders;
mod session;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::time::Instant;

use rand::RngExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, sleep_until};
use uuid::Uuid;

use super::begun::InHand;
use super::connection::{self, Approach, BrokerConnection};
use super::delivery::Delivery;
use super::dropped::Dropped;
use super::pace::Pace;
use super::pending::{AckAnswer, AskAnswer, Pending, SendAnswer};
use super::{Builder, CLOSE_WAIT, ClientError, RECONNECT_MAX, State};
use crate::protocol::frame::{Nack, Send, push_line};
use crate::protocol::limits::HEARTBEATS_MISSED_MAX;
use crate::protocol::{ClientFrame, Tag};
use session::ClientSession;

/// The most orders that one write carries out.
const ORDERS_AT_ONCE: usize = 256;
/// The shortest heartbeat kept, even if the broker asks for a shorter one.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);

/// The end of a delivery, as the agent said it.
#[derive(Debug)]
pub(super) enum Settled {
    Ack(Option<AckAnswer>),
    Nack(Nack),
    /// The agent dropped the delivery without an outcome.
    Dropped(Uuid),
}

/// An order of the agent to its client.
#[derive(Debug)]
pub(super) enum Order {
    Send(Box<Send>, SendAnswer),
    Settle {
        tag: Tag,
        generation: u64,
        settled: Settled,
    },
    /// The agent has begun with these deliveries.
    Begun {
        tags: Vec<Tag>,
        generation: u64,
    },
    Window(u32),
    Want {
        pattern: String,
        wanted: bool,
        answer: AckAnswer,
    },
    /// Hand the answer with this correlation id to this sender, and not out as a delivery.
    Question(String, oneshot::Sender<Delivery>),
    /// A request about dead letters or locks: gets its `ref` here and is answered once.
    Ask(Box<ClientFrame>, AskAnswer),
    Close(oneshot::Sender<()>),
}

/// Why a session ended.
enum SessionEnd {
    /// The agent closed the client.
    Closed(Option<oneshot::Sender<()>>),
    /// Reconnect after a pause, which is about this long at least.
    Fell(String, Duration),
    /// Reconnect within this time: the broker is stopping.
    Drained(Duration),
    /// Do not reconnect.
    Final(ClientError),
}

/// The ends that agent and client share.
pub(super) struct Told {
    pub(super) deliveries: mpsc::Sender<Delivery>,
    /// The deliveries that the agent has.
    pub(super) in_hand: InHand,
    pub(super) state: watch::Sender<State>,
}

/// The task behind a [`Client`](super::Client).
pub(super) struct Driver {
    builder: Builder,
    approach: Approach,
    deliveries: mpsc::Sender<Delivery>,
    in_hand: InHand,
    orders: mpsc::WeakSender<Order>,
    state: watch::Sender<State>,
    unreadable: Arc<AtomicU64>,
    pending: Pending,
    dropped: Dropped,
    /// Requests that came while no broker was connected.
    waiting: Vec<Order>,
    /// The caller that waits for the client to be closed.
    closing: Option<oneshot::Sender<()>>,
    generation: u64,
}

impl Driver {
    pub(super) fn new(
        builder: Builder,
        approach: Approach,
        Told { deliveries, in_hand, state }: Told,
        orders: mpsc::WeakSender<Order>,
        unreadable: Arc<AtomicU64>,
    ) -> Self {
        Self {
            builder,
            approach,
            deliveries,
            in_hand,
            orders,
            state,
            unreadable,
            pending: Pending::default(),
            dropped: Dropped::default(),
            waiting: Vec::new(),
            closing: None,
            generation: 0,
        }
    }

    pub(super) async fn run(mut self, first: BrokerConnection, mut orders: mpsc::Receiver<Order>) {
        let why = self.keep_up(first, &mut orders).await;
        self.state.send_replace(State::Closed(why.clone()));
        self.end(&mut orders, &why);
        if let Some(done) = self.closing.take() {
            let _ = done.send(());
        }
    }

    /// Keeps the client connected until it is closed, or can never be connected again.
    async fn keep_up(&mut self, first: BrokerConnection, orders: &mut mpsc::Receiver<Order>) -> ClientError {
        let mut pace = Pace::new(self.builder.reconnect_first, RECONNECT_MAX);
        let mut next = Some(first);
        loop {
            let end = match next.take() {
                Some(connection) => {
                    self.state.send_replace(connection.state());
                    pace.reset();
                    self.live(connection, orders).await
                }
                None => {
                    let (builder, mut approach) = (self.builder.clone(), self.approach.clone());
                    let opened = self.meanwhile(orders, connection::open(&builder, &mut approach)).await;
                    self.approach = approach;
                    match opened {
                        Some(Ok(connection)) => {
                            next = Some(connection);
                            continue;
                        }
                        Some(Err(e)) => self.not_opened(e),
                        None => SessionEnd::Closed(None),
                    }
                }
            };
            let wait = match end {
                SessionEnd::Closed(done) => {
                    self.closing = self.closing.take().or(done);
                    return ClientError::Closed;
                }
                SessionEnd::Final(e) => return e,
                SessionEnd::Fell(reason, not_before) => {
                    // Spread as well, because many clients were told the same time.
                    let not_before = not_before.mul_f64(rand::rng().random_range(0.5..1.5));
                    let wait = pace.next_wait().max(not_before);
                    tracing::debug!(%reason, ?wait, "the broker is away; connecting again");
                    wait
                }
                // Spread, so that a thousand agents do not arrive at the next broker together.
                SessionEnd::Drained(within) => within.mul_f64(rand::rng().random::<f64>()),
            };
            self.state.send_replace(State::Reconnecting);
            if self.meanwhile(orders, sleep(wait)).await.is_none() {
                return ClientError::Closed;
            }
        }
    }

    fn not_opened(&self, error: ClientError) -> SessionEnd {
        match error {
            // Somebody must look, although the fault may pass: a renewal that is half done, a proxy in between.
            e @ (ClientError::Tls { .. } | ClientError::Invalid(_)) => {
                tracing::warn!(error = %e, "the connection cannot be made again; trying on");
                SessionEnd::Fell(e.to_string(), Duration::ZERO)
            }
            e => self.refused(e),
        }
    }

    /// How a session ends after the broker refused it.
    fn refused(&self, error: ClientError) -> SessionEnd {
        match error {
            ClientError::Refused { code, .. } if self.builder.is_final(code) => SessionEnd::Final(error),
            ClientError::Refused { retry, .. } => {
                SessionEnd::Fell(error.to_string(), retry.unwrap_or_default())
            }
            _ => fell(error),
        }
    }

    async fn live(&mut self, connection: BrokerConnection, orders: &mut mpsc::Receiver<Order>) -> SessionEnd {
        self.generation += 1;
        let mut session = ClientSession::new(connection, Instant::now());
        for send in self.pending.interrupted() {
            self.write_send(&mut session, send);
        }
        let mut batch = std::mem::take(&mut self.waiting);
        let end = match self.carry_out(&mut session, &mut batch).await {
            Some(end) => end,
            None => self.serve(&mut session, orders, batch).await,
        };
        if matches!(end, SessionEnd::Fell(..) | SessionEnd::Drained(_)) {
            self.pending.interrupted();
        }
        end
    }

    async fn serve(
        &mut self,
        session: &mut ClientSession,
        orders: &mut mpsc::Receiver<Order>,
        mut batch: Vec<Order>,
    ) -> SessionEnd {
        let mut leave_at = None;
        loop {
            for send in self.pending.take_due(Instant::now()) {
                self.write_send(session, send);
            }
            if let Err(end) = session.flush().await {
                return end;
            }
            if let Some(within) = session.draining
                && session.held.is_empty()
                && self.pending.is_empty()
            {
                self.say_goodbye(session).await;
                return SessionEnd::Drained(within);
            }
            // No handle is left: wait only for the answers to what was asked.
            if leave_at.is_some_and(|at| self.pending.is_empty() || at <= Instant::now()) {
                self.say_goodbye(session).await;
                return SessionEnd::Closed(None);
            }
            let heartbeat = Duration::from_millis(session.connection.welcome.heartbeat_ms.into());
            let heartbeat = heartbeat.max(HEARTBEAT_MIN);
            let ping_at = session.wrote_at + heartbeat / 2;
            let silent_at = session.heard_at + heartbeat * HEARTBEATS_MISSED_MAX;
            let held = &session.held;
            let others =
                [held.next_due(), held.next_look(Instant::now()), self.pending.resume_at(), leave_at];
            let wake = others.into_iter().flatten().chain([silent_at]).fold(ping_at, Instant::min);
            tokio::select! {
                line = session.connection.reader.next_line() => {
                    let line = match line {
                        Ok(Some(line)) => line,
                        Ok(None) => return fell("the broker closed the connection"),
                        Err(e) => return fell(e),
                    };
                    session.look_for_block(wake, Instant::now());
                    if let Some(end) = self.hear(session, &line) {
                        return end;
                    }
                }
                n = orders.recv_many(&mut batch, ORDERS_AT_ONCE), if leave_at.is_none() => {
                    if n == 0 {
                        leave_at = Some(Instant::now() + CLOSE_WAIT);
                    }
                    session.look_for_block(wake, Instant::now());
                    if let Some(end) = self.carry_out(session, &mut batch).await {
                        return end;
                    }
                }
                () = sleep_until(wake) => {
                    let now = Instant::now();
                    session.look_for_block(wake, now);
                    if now >= silent_at + heartbeat {
                        // This process itself was blocked and could not read, so the broker's silence counts
                        // from now.
                        session.heard_at = now;
                    } else if now >= silent_at {
                        return fell("the broker is silent");
                    }
                    session.look_at_deadlines(now);
                    if now >= ping_at {
                        push_line(&mut session.out, &ClientFrame::Ping {});
                    }
                }
            }
        }
    }
}

fn fell(reason: impl ToString) -> SessionEnd {
    SessionEnd::Fell(reason.to_string(), Duration::ZERO)
}
