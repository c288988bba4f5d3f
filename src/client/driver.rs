//! The task that keeps a client connected: reads, writes what it is asked to, and starts over when it must.

use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, sleep_until, timeout};

use super::connection::{self, Address, Connection};
use super::delivery::Delivery;
use super::pending::{AckAnswer, AskAnswer, Held, Pending, SendAnswer};
use super::{Builder, ClientError, RECONNECT_MAX, State};
use crate::pace::Pace;
use crate::protocol::codec::write_whole;
use crate::protocol::frame::{Ack, Begun, Extend, Nack, Send, Topic, Window, push_line};
use crate::protocol::limits::HEARTBEATS_MISSED_MAX;
use crate::protocol::{ClientFrame, ErrorCode, ServerFrame};

/// Orders that are carried out by one write.
const ORDERS_AT_ONCE: usize = 256;
/// A broker that takes nothing for so long is left.
const WRITE_WAIT: Duration = Duration::from_secs(10);

/// What becomes of a delivery.
#[derive(Debug)]
pub(super) enum Settled {
    Ack(Option<AckAnswer>),
    Nack(Nack),
}

/// What the agent asks of its client.
#[derive(Debug)]
pub(super) enum Order {
    Send(Box<Send>, SendAnswer),
    Settle {
        tag: u64,
        generation: u64,
        settled: Settled,
    },
    /// The agent has these in hand.
    Begun {
        tags: Vec<u64>,
        generation: u64,
    },
    Window(u32),
    Want {
        pattern: String,
        wanted: bool,
        answer: AckAnswer,
    },
    /// The answer to the message with this correlation id is not one of the deliveries.
    Question(String, oneshot::Sender<Delivery>),
    /// Of dead letters or locks: gets its `ref`, and is answered once.
    Ask(Box<ClientFrame>, AskAnswer),
    Close(oneshot::Sender<()>),
}

/// Why a connection ended.
enum End {
    /// The agent closed the client.
    Closed(Option<oneshot::Sender<()>>),
    /// Start over after a pause; after about this, if that is longer.
    Fell(String, Duration),
    /// Start over after at most this: the broker is stopping.
    Drained(Duration),
    /// Do not.
    Final(ClientError),
}

/// See the module.
pub(super) struct Driver {
    builder: Builder,
    address: Address,
    deliveries: mpsc::Sender<Delivery>,
    orders: mpsc::WeakSender<Order>,
    state: watch::Sender<State>,
    pending: Pending,
    generation: u64,
}

/// What lasts as long as a connection.
struct Session {
    connection: Connection,
    held: Held,
    out: Vec<u8>,
    /// Acks of one write, as one line.
    acks: Vec<u64>,
    draining: Option<Duration>,
    heard_at: Instant,
    wrote_at: Instant,
}

impl Driver {
    pub(super) fn new(
        builder: Builder,
        address: Address,
        deliveries: mpsc::Sender<Delivery>,
        orders: mpsc::WeakSender<Order>,
        state: watch::Sender<State>,
    ) -> Self {
        Self { builder, address, deliveries, orders, state, pending: Pending::default(), generation: 0 }
    }

    pub(super) async fn run(mut self, first: Connection, mut orders: mpsc::Receiver<Order>) {
        let mut pace = Pace::new(self.builder.reconnect_first, RECONNECT_MAX);
        let mut next = Some(first);
        loop {
            let end = match next.take() {
                Some(connection) => {
                    self.state.send_replace(connection.state());
                    pace.reset();
                    self.live(connection, &mut orders).await
                }
                None => match connection::open(&self.address, &self.builder).await {
                    Ok(connection) => {
                        next = Some(connection);
                        continue;
                    }
                    // Somebody must look, though it may pass: a renewal that is half done, a network in between.
                    Err(e @ (ClientError::Tls { .. } | ClientError::Invalid(_))) => {
                        tracing::warn!(error = %e, "the connection cannot be made again; trying on");
                        End::Fell(e.to_string(), Duration::ZERO)
                    }
                    Err(e) => self.refused(e),
                },
            };
            let wait = match end {
                End::Closed(done) => {
                    self.state.send_replace(State::Closed(ClientError::Closed));
                    if let Some(done) = done {
                        let _ = done.send(());
                    }
                    return;
                }
                End::Final(e) => {
                    self.state.send_replace(State::Closed(e));
                    return;
                }
                End::Fell(reason, not_before) => {
                    // Spread as well: many were told the same.
                    let not_before = not_before.mul_f64(rand::rng().random_range(0.5..1.5));
                    let wait = pace.next_wait().max(not_before);
                    tracing::debug!(%reason, ?wait, "the broker is away; connecting again");
                    wait
                }
                // Spread, so that a thousand agents do not arrive at the next broker together.
                End::Drained(within) => within.mul_f64(rand::rng().random::<f64>()),
            };
            self.state.send_replace(State::Reconnecting);
            if self.closed_while_waiting(wait, &mut orders).await {
                return;
            }
        }
    }

    /// What follows from a refusal of the whole connection.
    fn refused(&self, error: ClientError) -> End {
        match error {
            ClientError::Refused { code, .. } if self.builder.is_final(code) => End::Final(error),
            ClientError::Refused { retry, .. } => End::Fell(error.to_string(), retry.unwrap_or_default()),
            _ => fell(error),
        }
    }

    /// Waits, but answers a `close` meanwhile; sends wait in their channel.
    async fn closed_while_waiting(&mut self, wait: Duration, orders: &mut mpsc::Receiver<Order>) -> bool {
        if orders.is_closed() {
            return true;
        }
        sleep(wait).await;
        orders.is_closed() && orders.is_empty()
    }

    async fn live(&mut self, connection: Connection, orders: &mut mpsc::Receiver<Order>) -> End {
        self.generation += 1;
        let now = Instant::now();
        let mut session = Session {
            connection,
            held: Held::default(),
            out: Vec::new(),
            acks: Vec::new(),
            draining: None,
            heard_at: now,
            wrote_at: now,
        };
        for send in self.pending.interrupted() {
            push_line(&mut session.out, &ClientFrame::Send(send));
        }
        let mut batch = Vec::new();
        let end = loop {
            for send in self.pending.take_due(Instant::now()) {
                push_line(&mut session.out, &ClientFrame::Send(send));
            }
            if let Err(end) = session.flush().await {
                break end;
            }
            if let Some(within) = session.draining
                && session.held.is_empty()
                && self.pending.is_empty()
            {
                let _ = session.say(&ClientFrame::Bye {}).await;
                break End::Drained(within);
            }
            let heartbeat = Duration::from_millis(session.connection.welcome.heartbeat_ms.into());
            let ping_at = session.wrote_at + heartbeat / 2;
            let silent_at = session.heard_at + heartbeat * HEARTBEATS_MISSED_MAX;
            let extend_at = session.held.next_due().filter(|_| self.builder.auto_extend);
            let resume_at = self.pending.resume_at();
            let wake = extend_at.into_iter().chain(resume_at).chain([ping_at, silent_at]).min();
            let wake = wake.unwrap_or(ping_at);
            tokio::select! {
                line = session.connection.reader.next_line() => {
                    let line = match line {
                        Ok(Some(line)) => line,
                        Ok(None) => break fell("the broker closed the connection"),
                        Err(e) => break fell(e),
                    };
                    if let Some(end) = self.hear(&mut session, &line) {
                        break end;
                    }
                }
                n = orders.recv_many(&mut batch, ORDERS_AT_ONCE) => {
                    if n == 0 {
                        let _ = session.say(&ClientFrame::Bye {}).await;
                        break End::Closed(None);
                    }
                    if let Some(end) = self.carry_out(&mut session, &mut batch).await {
                        break end;
                    }
                }
                () = sleep_until(wake.into()) => {
                    let now = Instant::now();
                    if now >= silent_at {
                        break fell("the broker is silent");
                    }
                    if self.builder.auto_extend {
                        session.extend(now);
                    }
                    if now >= ping_at {
                        push_line(&mut session.out, &ClientFrame::Ping {});
                    }
                }
            }
        };
        if matches!(end, End::Fell(..) | End::Drained(_)) {
            self.pending.interrupted();
        }
        end
    }

    /// A line of the broker's, and those that arrived with it.
    fn hear(&mut self, session: &mut Session, line: &[u8]) -> Option<End> {
        session.heard_at = Instant::now();
        if let Some(end) = self.take(session, line) {
            return Some(end);
        }
        loop {
            match session.connection.reader.buffered_line() {
                Ok(Some(line)) => {
                    if let Some(end) = self.take(session, &line) {
                        return Some(end);
                    }
                }
                Ok(None) => return None,
                Err(e) => return Some(fell(e)),
            }
        }
    }

    fn take(&mut self, session: &mut Session, line: &[u8]) -> Option<End> {
        let frame = match ServerFrame::decode(line) {
            Ok(Some(frame)) => frame,
            // An op of a newer broker's.
            Ok(None) => return None,
            Err(e) => return Some(End::Final(ClientError::Protocol(e.message))),
        };
        match frame {
            ServerFrame::Msg(message) => {
                let deadline = Duration::from_millis(message.deadline_ms);
                session.held.insert(Instant::now(), message.tag, deadline);
                let delivery = Delivery::new(message, self.generation, self.orders.clone());
                // Nobody takes deliveries any more, or the broker broke its window: dropping gives it back.
                if let Some(delivery) = self.pending.answer(delivery) {
                    let _ = self.deliveries.try_send(delivery);
                }
            }
            ServerFrame::Sent { reference, id } => self.pending.sent(reference.as_deref(), id),
            ServerFrame::Acked { reference } => self.pending.acked(&reference),
            ServerFrame::Subscribed(topic) | ServerFrame::Unsubscribed(topic) => {
                self.pending.acked(topic.reference.as_deref().unwrap_or_default());
            }
            frame @ (ServerFrame::DeadLetters(_)
            | ServerFrame::Redriven(_)
            | ServerFrame::Purged(_)
            | ServerFrame::Lock(_)
            | ServerFrame::Released(_)) => {
                self.pending.answered(frame);
            }
            ServerFrame::Error { code, fatal, reference, message, retry_ms } => {
                let retry = retry_ms.map(Duration::from_millis);
                let error = ClientError::Refused { code, message, retry };
                // Nothing was stored, so it is safe to send again.
                let until = retry.filter(|_| code == ErrorCode::SlowDown).map(|wait| Instant::now() + wait);
                if let Some(until) = until
                    && self.pending.slow_down(reference.as_deref(), until)
                {
                    return None;
                }
                let known = self.pending.refused(reference.as_deref(), &error);
                if fatal {
                    return Some(self.refused(error));
                }
                if !known {
                    tracing::debug!(%error, "the broker refused a request");
                }
            }
            ServerFrame::Drain { after_ms } => session.draining = Some(Duration::from_millis(after_ms)),
            ServerFrame::Ping {} => push_line(&mut session.out, &ClientFrame::Pong {}),
            ServerFrame::Pong {} | ServerFrame::Welcome(_) => {}
        }
        None
    }

    async fn carry_out(&mut self, session: &mut Session, orders: &mut Vec<Order>) -> Option<End> {
        for order in orders.drain(..) {
            match order {
                Order::Send(send, answer) => {
                    if let Some(frame) = self.pending.send(send, answer) {
                        push_line(&mut session.out, &ClientFrame::Send(frame));
                    }
                }
                Order::Settle { tag, generation, settled } if generation == self.generation => {
                    session.held.remove(tag);
                    self.settle(session, tag, settled);
                }
                // A tag of an older connection: the broker gave it back when that fell. An answer is told so by its
                // sender going out of scope.
                Order::Settle { .. } => {}
                Order::Begun { tags, generation } => {
                    if generation == self.generation {
                        push_line(&mut session.out, &ClientFrame::Begun(Begun { tag: None, tags }));
                    }
                }
                Order::Want { pattern, wanted, answer } => {
                    let topic = Topic { reference: Some(self.pending.ack(answer)), topic: pattern };
                    let frame =
                        if wanted { ClientFrame::Subscribe(topic) } else { ClientFrame::Unsubscribe(topic) };
                    push_line(&mut session.out, &frame);
                }
                Order::Question(correlation_id, answer) => self.pending.question(correlation_id, answer),
                Order::Ask(frame, answer) => {
                    if let Some(frame) = self.pending.ask(*frame, answer) {
                        push_line(&mut session.out, &frame);
                    }
                }
                Order::Window(n) => push_line(&mut session.out, &ClientFrame::Window(Window { n })),
                Order::Close(done) => {
                    let _ = session.flush().await;
                    let _ = session.say(&ClientFrame::Bye {}).await;
                    return Some(End::Closed(Some(done)));
                }
            }
        }
        None
    }

    fn settle(&mut self, session: &mut Session, tag: u64, settled: Settled) {
        match settled {
            Settled::Ack(None) => session.acks.push(tag),
            Settled::Ack(Some(answer)) => {
                let reference = Some(self.pending.ack(answer));
                let ack = Ack { tag: Some(tag), tags: Vec::new(), reference };
                push_line(&mut session.out, &ClientFrame::Ack(ack));
            }
            Settled::Nack(nack) => push_line(&mut session.out, &ClientFrame::Nack(nack)),
        }
    }
}

fn fell(reason: impl ToString) -> End {
    End::Fell(reason.to_string(), Duration::ZERO)
}

impl Session {
    fn extend(&mut self, now: Instant) {
        for (tag, by) in self.held.take_due(now) {
            let ms = by.as_millis() as u64;
            push_line(&mut self.out, &ClientFrame::Extend(Extend { tag, ms }));
        }
    }

    /// Writes what has gathered, as one write.
    async fn flush(&mut self) -> Result<(), End> {
        let tags = std::mem::take(&mut self.acks);
        match tags.as_slice() {
            [] => {}
            [tag] => {
                let ack = Ack { tag: Some(*tag), ..Ack::default() };
                push_line(&mut self.out, &ClientFrame::Ack(ack));
            }
            _ => push_line(&mut self.out, &ClientFrame::Ack(Ack { tags, ..Ack::default() })),
        }
        if self.out.is_empty() {
            return Ok(());
        }
        self.wrote_at = Instant::now();
        let written = timeout(WRITE_WAIT, write_whole(&mut self.connection.writer, &self.out)).await;
        self.out.clear();
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(fell(e)),
            Err(_) => Err(fell("the broker takes nothing")),
        }
    }

    async fn say(&mut self, frame: &ClientFrame) -> Result<(), End> {
        push_line(&mut self.out, frame);
        self.flush().await
    }
}
