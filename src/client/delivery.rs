//! A delivery in the agent's hands: consumed by what becomes of it.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::ClientError;
use super::begun::InHand;
use super::driver::{Order, Settled};
use crate::protocol::frame::{Msg, Nack, NackOutcome};

/// The deliveries, in the order in which the broker pushed them.
#[derive(Debug)]
pub struct Deliveries {
    receiver: mpsc::Receiver<Delivery>,
    in_hand: InHand,
    /// Keeps the connection up while somebody takes deliveries, even if the client's handles are gone.
    orders: mpsc::Sender<Order>,
}

impl Deliveries {
    pub(super) fn new(receiver: mpsc::Receiver<Delivery>, orders: mpsc::Sender<Order>) -> Self {
        Self { receiver, in_hand: InHand::default(), orders }
    }

    /// The next one; `None` once the client is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        let mut delivery = self.receiver.recv().await?;
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

/// A delivery. Dropping it gives it back to the broker, which pushes it again.
#[derive(Debug)]
pub struct Delivery {
    message: Msg,
    /// Which connection it came by: tags mean nothing on another.
    generation: u64,
    /// Where it is kept that the agent has it; not of an answer to a question.
    in_hand: Option<InHand>,
    /// `None` once something became of it.
    orders: Option<mpsc::WeakSender<Order>>,
}

impl Delivery {
    pub(super) fn new(message: Msg, generation: u64, orders: mpsc::WeakSender<Order>) -> Self {
        Self { message, generation, in_hand: None, orders: Some(orders) }
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
    /// It is not of that shape.
    pub fn payload_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.message.payload.get())
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
        let tag = self.message.tag;
        let nack = Nack { tag, outcome: NackOutcome::Release, delay_ms: None, reason: None };
        let settled = Settled::Nack(nack);
        // Full only while the broker is away, and then the tag is void anyway.
        let _ = orders.try_send(Order::Settle { tag, generation: self.generation, settled });
    }
}
