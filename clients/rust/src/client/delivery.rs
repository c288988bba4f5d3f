//! A delivery in the agent's hands, consumed by its outcome.

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
    /// Keeps the connection up while somebody takes deliveries, even if all client handles are gone.
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

    /// Waits for the next delivery; `None` once the client is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        let mut delivery = self.receiver.recv().await?;
        delivery.is_taken = true;
        let (generation, tag) = (delivery.generation, delivery.message.tag);
        let tags = self.in_hand.begin(generation, tag);
        if !tags.is_empty() {
            // The channel is full only while the broker is away, and then the tags are void anyway.
            let _ = self.orders.try_send(Order::Begun { tags, generation });
        }
        delivery.in_hand = Some(self.in_hand.clone());
        Some(delivery)
    }
}

/// A delivery, which needs an outcome.
///
/// A dropped delivery goes back to the broker, uncounted, and is pushed again. If the same message is dropped a
/// second time, or a panic drops it, that is a failed attempt, so that a handler without an outcome does not go
/// round for ever.
#[derive(Debug)]
pub struct Delivery {
    message: Msg,
    /// The connection that it came by: its tag means nothing on another.
    generation: u64,
    /// Whether the agent took it from [`Deliveries`].
    is_taken: bool,
    /// The deliveries in hand, to remove it from; `None` for the answer to a question.
    in_hand: Option<InHand>,
    /// `None` once it has an outcome.
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

    /// The type of the message.
    pub fn message_type(&self) -> &str {
        &self.message.message_type
    }

    /// The priority, 1 (highest) to 10.
    pub fn priority(&self) -> u8 {
        self.message.priority
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.message.attempt
    }

    /// When the message was inserted, by the database's clock, as RFC 3339.
    pub fn created_at(&self) -> &str {
        &self.message.created_at
    }

    /// The topic that the message was sent to, if any.
    pub fn topic(&self) -> Option<&str> {
        self.message.topic.as_deref()
    }

    /// The group that the message was sent to, if any.
    pub fn group(&self) -> Option<&str> {
        self.message.group.as_deref()
    }

    /// The id that a question and its answer share.
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
    /// [`ClientError::Invalid`]: the payload has another shape. [`dead`](Self::dead) takes the error as its
    /// reason.
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

    /// Handled. The broker may have taken the delivery back already: [`ack_confirmed`](Self::ack_confirmed)
    /// tells.
    pub async fn ack(self) {
        self.settle(Settled::Ack(None)).await;
    }

    /// Handled; committed when this returns.
    ///
    /// # Errors
    /// [`ClientError::Interrupted`] if the connection was lost, or the broker's refusal if the deadline had
    /// passed. In both cases the message may be delivered again.
    pub async fn ack_confirmed(self) -> Result<(), ClientError> {
        let (answer, answered) = oneshot::channel();
        self.settle(Settled::Ack(Some(answer))).await;
        answered.await.unwrap_or(Err(ClientError::Interrupted))
    }

    /// Not handled, without a failure: pushed again after `delay`.
    pub async fn release(self, delay: Duration) {
        self.nack(NackOutcome::Release, Some(delay), None).await;
    }

    /// Failed: pushed again after `delay`, or after the broker's growing delay; a dead letter after the last
    /// attempt.
    pub async fn fail(self, reason: &str, delay: Option<Duration>) {
        self.nack(NackOutcome::Fail, delay, Some(reason.to_owned())).await;
    }

    /// Can never be handled: a dead letter at once.
    pub async fn dead(self, reason: &str) {
        self.nack(NackOutcome::Dead, None, Some(reason.to_owned())).await;
    }

    async fn nack(self, outcome: NackOutcome, delay: Option<Duration>, reason: Option<String>) {
        let delay_ms = delay.map(|d| d.as_millis() as u64);
        // Cut, because a line that is too long would end the session; cleaned, because Postgres text holds no
        // zero character.
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
            // A closed client has no session, and so no use for the tag.
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
        // The broker must still be told: otherwise the delivery counts as held, and its deadline is moved,
        // while the connection lives.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { orders.send(order).await })),
            Err(_) => drop(orders.blocking_send(order)),
        }
    }
}
