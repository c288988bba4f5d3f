//! The orders of the agent: carried out while a broker is connected, kept while none is.

use std::future::Future;

use tokio::sync::mpsc;

use super::session::ClientSession;
use super::{Driver, ORDERS_AT_ONCE, Order, SessionEnd, Settled};
use crate::client::{ClientError, ORDERS_MAX};
use crate::protocol::frame::{Ack, Begun, Nack, NackOutcome, Topic, Window, push_line};
use crate::protocol::{ClientFrame, Tag};

impl Driver {
    pub(super) async fn carry_out(
        &mut self,
        session: &mut ClientSession,
        orders: &mut Vec<Order>,
    ) -> Option<SessionEnd> {
        for order in orders.drain(..) {
            match order {
                Order::Send(send, answer) => {
                    if let Some(frame) = self.pending.send(send, answer) {
                        self.write_send(session, frame);
                    }
                }
                Order::Settle { tag, generation, settled } if generation == self.generation => {
                    session.held.remove(tag);
                    self.settle(session, tag, settled);
                }
                // The tag is of an older connection, and the broker took the delivery back when that ended. A
                // caller that waits for the answer learns so because its sender is dropped.
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
                    if let Some((reference, frame)) = self.pending.ask(*frame, answer)
                        && let Err(error) = session.push(&frame)
                    {
                        self.pending.refused(Some(&reference), &error);
                    }
                }
                Order::Window(n) => {
                    self.builder.hello.window = Some(n);
                    push_line(&mut session.out, &ClientFrame::Window(Window { n }));
                }
                Order::Close(done) => {
                    let _ = session.flush().await;
                    self.say_goodbye(session).await;
                    return Some(SessionEnd::Closed(Some(done)));
                }
            }
        }
        None
    }

    /// Says what the agent has in hand, and goodbye. A delivery may be on its way here, and would be blamed for the end otherwise.
    pub(super) async fn say_goodbye(&self, session: &mut ClientSession) {
        let mut tags = self.in_hand.now(self.generation);
        if tags.is_empty() {
            tags.push(Tag::NONE);
        }
        push_line(&mut session.out, &ClientFrame::Begun(Begun { tag: None, tags }));
        let _ = session.say(&ClientFrame::Bye {}).await;
    }

    /// Writes a message, or tells its sender why it cannot be sent.
    pub(super) fn write_send(&mut self, session: &mut ClientSession, send: crate::protocol::frame::Send) {
        let reference = send.reference.clone();
        if let Err(error) = session.push_send(send) {
            self.pending.refused(reference.as_deref(), &error);
        }
    }

    fn settle(&mut self, session: &mut ClientSession, tag: Tag, settled: Settled) {
        match settled {
            Settled::Ack(None) => session.acks.push(tag),
            Settled::Ack(Some(answer)) => {
                let reference = Some(self.pending.ack(answer));
                let ack = Ack { tag: Some(tag), tags: Vec::new(), reference };
                push_line(&mut session.out, &ClientFrame::Ack(ack));
            }
            Settled::Nack(nack) => push_line(&mut session.out, &ClientFrame::Nack(nack)),
            Settled::Dropped(id) => {
                let nack = if self.dropped.is_again(id) {
                    tracing::warn!(%id, "a message was dropped a second time without an outcome: a failed attempt");
                    let reason = "its handler ended twice without an outcome".to_owned();
                    Nack { tag, outcome: NackOutcome::Fail, delay_ms: None, reason: Some(reason) }
                } else {
                    Nack { tag, outcome: NackOutcome::Release, delay_ms: None, reason: None }
                };
                push_line(&mut session.out, &ClientFrame::Nack(nack));
            }
        }
    }

    /// Does `work` while no broker is connected, and takes orders meanwhile: messages and requests wait for the
    /// next connection, outcomes have no meaning any more. `None`: the agent has closed the client.
    pub(super) async fn meanwhile<T>(
        &mut self,
        orders: &mut mpsc::Receiver<Order>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::pin!(work);
        let mut batch = Vec::new();
        let mut is_open = true;
        loop {
            let room = ORDERS_MAX.saturating_sub(self.waiting.len()).min(ORDERS_AT_ONCE);
            tokio::select! {
                done = &mut work => return Some(done),
                n = orders.recv_many(&mut batch, room), if room > 0 && is_open => {
                    is_open = n > 0;
                    // No handle is left; messages and requests that wait are still written when a broker is
                    // back.
                    if !is_open && self.pending.is_empty() && self.waiting.is_empty() {
                        return None;
                    }
                    for order in batch.drain(..) {
                        if let Some(done) = self.keep(order) {
                            self.closing = Some(done);
                            return None;
                        }
                    }
                }
            }
        }
    }

    /// Keeps an order that can wait. Returns the caller that waits for the client to be closed.
    fn keep(&mut self, order: Order) -> Option<tokio::sync::oneshot::Sender<()>> {
        match order {
            Order::Send(send, answer) => self.pending.hold(send, answer),
            // The broker took the deliveries back when the connection ended.
            Order::Settle { .. } | Order::Begun { .. } => {}
            Order::Window(n) => {
                self.builder.hello.window = Some(n);
                // Queued as well: the next hello may be on its way already, with the old window.
                self.waiting.retain(|order| !matches!(order, Order::Window(_)));
                self.waiting.push(Order::Window(n));
            }
            Order::Question(correlation_id, answer) => self.pending.question(correlation_id, answer),
            Order::Close(done) => return Some(done),
            order @ (Order::Want { .. } | Order::Ask(..)) => {
                // Requests whose callers have given up make room for others.
                self.waiting.retain(Order::is_wanted);
                self.waiting.push(order);
            }
        }
        None
    }

    /// Ends the client: everybody who waits is told why.
    pub(super) fn end(&mut self, orders: &mut mpsc::Receiver<Order>, error: &ClientError) {
        orders.close();
        while let Ok(order) = orders.try_recv() {
            if let Some(done) = self.keep(order) {
                let _ = done.send(());
            }
        }
        for order in std::mem::take(&mut self.waiting) {
            order.refuse(error);
        }
        self.pending.end(error);
    }
}

impl Order {
    /// Whether a caller still waits for the answer.
    fn is_wanted(&self) -> bool {
        match self {
            Self::Want { answer, .. } => !answer.is_closed(),
            Self::Ask(_, answer) => !answer.is_closed(),
            _ => true,
        }
    }

    fn refuse(self, error: &ClientError) {
        match self {
            Self::Want { answer, .. } => {
                let _ = answer.send(Err(error.clone()));
            }
            Self::Ask(_, answer) => {
                let _ = answer.send(Err(error.clone()));
            }
            _ => {}
        }
    }
}
