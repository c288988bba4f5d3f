//! A delivery in the agent's hands: consumed by what becomes of it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::ClientError;
use super::begun::InHand;
use super::driver::{Order, Settled};
use crate::protocol::frame::{Msg, Nack, NackOutcome};
use crate::protocol::limits::REASON_BYTES_MAX;

/// The deliveries, in the order in which the broker pushed them.
#[derive(Debug)]
pub struct Deliveries {
    receiver: mpsc::Receiver<Delivery>,
    in_hand: InHand,
    /// Keeps the connection up while somebody takes deliveries, even if the client's handles are gone.
    orders: mpsc::Sender<Order>,
}

impl Deliveries {
    pub(super) fn new(
        receiver: mpsc::Receiver<Delivery>,
        in_hand: InHand,
        orders: mpsc::Sender<Order>,
    ) -> Self {
        Self { receiver, in_hand, orders }
    }

    /// The next one; `None` once the client is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        let mut delivery = self.receiver.recv().await?;
        delivery.is_taken = true;
        let (generation, tag) = (delivery.generation, delivery.message.tag);
        let tags = self.in_hand.begin(generation, tag);
        if !tags.is_empty() {
            // Full only while the broker is away, and then the tags are void anyway.
            let _ = self.orders.try_send(Order::Begun { tags, generation });
        }
        delivery.in_hand = Some(self.in_hand.clone());
        Some(delivery)
    }
}

/// A delivery, which should be told what became of it.
///
/// Dropping it gives it back to the broker, uncounted, which pushes it again; dropped a second time, or by a panic, it is a
/// failed attempt, so that a handler that never comes to an outcome does not turn in a circle.
#[derive(Debug)]
pub struct Delivery {
    message: Msg,
    /// Which connection it came by: tags mean nothing on another.
    generation: u64,
    /// Whether the agent ever had it.
    is_taken: bool,
    /// Where it is kept that the agent has it; not of an answer to a question.
    in_hand: Option<InHand>,
    /// `None` once something became of it.
    orders: Option<mpsc::WeakSender<Order>>,
}

impl Delivery {
    pub(super) fn new(message: Msg, generation: u64, orders: mpsc::WeakSender<Order>) -> Self {
        Self { message, generation, is_taken: false, in_hand: None, orders: Some(orders) }
    }

    /// The message's id.
    pub fn id(&self) -> Uuid {
        self.message.id
    }

    /// The agent that sent it.
    pub fn from(&self) -> &str {
        &self.message.from
    }

    /// What kind of message it is.
    pub fn message_type(&self) -> &str {
        &self.message.message_type
    }

    /// 1 (highest) to 10.
    pub fn priority(&self) -> u8 {
        self.message.priority
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.message.attempt
    }

    /// When it was inserted, by the database's clock, as RFC 3339.
    pub fn created_at(&self) -> &str {
        &self.message.created_at
    }

    /// The topic it was sent to, if it was.
    pub fn topic(&self) -> Option<&str> {
        self.message.topic.as_deref()
    }

    /// The group it was sent to, if it was.
    pub fn group(&self) -> Option<&str> {
        self.message.group.as_deref()
    }

    /// What it is an answer to, or will be answered by.
    pub fn correlation_id(&self) -> Option<&str> {
        self.message.correlation_id.as_deref()
    }

    /// The JSON object that travelled along.
    pub fn headers(&self) -> Option<&RawValue> {
        self.message.headers.as_deref()
    }

    /// The payload as JSON text.
    pub fn payload(&self) -> &str {
        self.message.payload.get()
    }

    /// The payload as a value.
    ///
    /// # Errors
    /// [`ClientError::Invalid`]: it is not of that shape. [`dead`](Self::dead) takes the error as its reason.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_str(self.message.payload.get()).map_err(|e| {
            ClientError::Invalid(format!(
                "the payload of message {} is no {}, from line {}, column {} on",
                self.message.id,
                std::any::type_name::<T>(),
                e.line(),
                e.column()
            ))
        })
    }

    /// Handled. It is not known whether the broker still had it: see [`ack_confirmed`](Self::ack_confirmed).
    pub async fn ack(self) {
        self.settle(Settled::Ack(None)).await;
    }

    /// Handled, and committed when this returns.
    ///
    /// # Errors
    /// [`ClientError::Interrupted`] if the connection fell, or the broker's refusal if the deadline had passed: then
    /// it is delivered again.
    pub async fn ack_confirmed(self) -> Result<(), ClientError> {
        let (answer, answered) = oneshot::channel();
        self.settle(Settled::Ack(Some(answer))).await;
        answered.await.unwrap_or(Err(ClientError::Interrupted))
    }

    /// Not handled, and nobody's fault: pushed again, not before `delay`.
    pub async fn release(self, delay: Duration) {
        self.nack(NackOutcome::Release, Some(delay), None).await;
    }

    /// Failed: pushed again after `delay`, or after the broker's growing delay; a dead letter after its last attempt.
    pub async fn fail(self, reason: &str, delay: Option<Duration>) {
        self.nack(NackOutcome::Fail, delay, Some(reason.to_owned())).await;
    }

    /// Can never be handled: a dead letter at once.
    pub async fn dead(self, reason: &str) {
        self.nack(NackOutcome::Dead, None, Some(reason.to_owned())).await;
    }

    async fn nack(self, outcome: NackOutcome, delay: Option<Duration>, reason: Option<String>) {
        let delay_ms = delay.map(|d| d.as_millis() as u64);
        // A line that is too long would end the session; a text of Postgres holds no zero character.
        let reason = reason.map(|mut reason| {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
            reason.replace('\0', "\u{fffd}")
        });
        let nack = Nack { tag: self.message.tag, outcome, delay_ms, reason };
        self.settle(Settled::Nack(nack)).await;
    }

    async fn settle(mut self, settled: Settled) {
        let order = Order::Settle { tag: self.message.tag, generation: self.generation, settled };
        if let Some(orders) = self.orders.take().and_then(|orders| orders.upgrade()) {
            // A closed client has no session that the tag would mean anything in.
            let _ = orders.send(order).await;
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(in_hand) = self.in_hand.take() {
            in_hand.end(self.generation, self.message.tag);
        }
        let Some(orders) = self.orders.take().and_then(|orders| orders.upgrade()) else { return };
        let (tag, generation) = (self.message.tag, self.generation);
        let nack = |outcome, reason| Nack { tag, outcome, delay_ms: None, reason };
        let settled = if !self.is_taken {
            Settled::Nack(nack(NackOutcome::Release, None))
        } else if std::thread::panicking() {
            Settled::Nack(nack(NackOutcome::Fail, Some("its handler panicked".to_owned())))
        } else {
            Settled::Dropped(self.message.id)
        };
        let Err(TrySendError::Full(order)) = orders.try_send(Order::Settle { tag, generation, settled })
        else {
            return;
        };
        // It must be told all the same: else it is held, and its deadline moved, for as long as the connection lives.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { orders.send(order).await })),
            Err(_) => drop(orders.blocking_send(order)),
        }
    }
}
