//! The client: a handle on a connection that a task of its own keeps up.

mod address;
mod begun;
mod builder;
mod card;
#[cfg(feature = "link")]
#[doc(hidden)]
pub mod connection;
#[cfg(not(feature = "link"))]
mod connection;
mod dead;
mod delivery;
mod driver;
mod dropped;
mod error;
mod held;
pub mod lock;
mod outgoing;
mod pace;
mod patience;
mod pending;
mod request;
#[cfg(feature = "tls")]
mod tls;
mod topics;
mod unreadable;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use uuid::Uuid;

use crate::protocol::limits::{LINE_BYTES_MAX, WINDOW_MAX};

pub use crate::protocol::frame::dead::{DeadLetter, DeadLetters, Refused};
pub use builder::Builder;
#[cfg(any(test, fuzzing, feature = "fuzzing"))]
pub use builder::address;
pub use dead::{Administered, Which};
pub use delivery::{Deliveries, Delivery};
use driver::Order;
pub use error::ClientError;
pub use outgoing::Outgoing;
use pending::SendAnswer;
pub use request::Answer;

/// The most orders that wait to be written. When there are so many, which happens only while the broker is
/// away, callers wait.
const ORDERS_MAX: usize = 1_024;
/// The most KiB of messages without an answer yet; each counts its payload and one more. When this is full,
/// senders wait.
const UNDER_WAY_KIB_MAX: u32 = 64 * 1_024;
const _: () = assert!(UNDER_WAY_KIB_MAX as usize > 16 * LINE_BYTES_MAX / 1_024);
/// How long a send waits for its answer, reconnects included.
const SEND_WAIT: Duration = Duration::from_secs(30);
/// How long closing waits for the last acks to be written.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// The longest wait before reconnecting, give or take half of it, so 4.5 s: agents find a broker that is back
/// within the 5 s in which messages are promised. A thousand agents make some 300 attempts a second at a broker
/// that is away.
pub const RECONNECT_MAX: Duration = Duration::from_secs(3);

/// How a client is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A session is open.
    Connected {
        /// The broker's name.
        broker: String,
        /// The session's number at the broker.
        session: u64,
    },
    /// The connection was lost, and the client connects again.
    Reconnecting,
    /// The client will not connect again, for this reason.
    Closed(ClientError),
}

/// A handle on the connection; clones share it. The connection closes when every clone and the [`Deliveries`]
/// are gone.
#[derive(Clone, Debug)]
pub struct Client {
    orders: mpsc::Sender<Order>,
    /// The room for messages without an answer yet, in KiB.
    room: Arc<Semaphore>,
    state: watch::Receiver<State>,
    /// The instance that replies to this process name.
    instance: Arc<str>,
    unreadable: Arc<AtomicU64>,
}

impl Client {
    /// Sends a message and returns its id once it is committed. Many sends may be under way at once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(&self, message: Outgoing) -> Result<Uuid, ClientError> {
        let send = async { self.submit(message).await?.committed().await };
        timeout(SEND_WAIT, send).await.unwrap_or(Err(ClientError::Timeout(SEND_WAIT)))
    }

    /// Hands a message over without waiting for its commit. Messages that one task submits are inserted in that
    /// order. Waits while 64 MiB of messages have no answer, or while the broker is away and a thousand orders
    /// wait.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn submit(&self, message: Outgoing) -> Result<Receipt, ClientError> {
        let (answer, answered) = oneshot::channel();
        let kib = u32::try_from(message.0.payload.get().len() / 1_024).unwrap_or(u32::MAX);
        let share = self.room.clone().acquire_many_owned(kib.saturating_add(1).min(UNDER_WAY_KIB_MAX)).await;
        let answer = SendAnswer { answer, _share: share.ok() };
        let order = Order::Send(Box::new(message.0), answer);
        self.orders.send(order).await.map_err(|_| self.why_closed())?;
        Ok(Receipt { answered, state: self.state.clone() })
    }

    /// Changes the window: the most deliveries in flight from now on.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn set_window(&self, window: u32) -> Result<(), ClientError> {
        self.orders.send(Order::Window(window.min(WINDOW_MAX))).await.map_err(|_| self.why_closed())
    }

    /// How many messages could not be read and became dead letters for that reason.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// The state of the connection, and each change of it.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Writes the acks that wait, says goodbye and closes.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        let close = async {
            if self.orders.send(Order::Close(done)).await.is_ok() {
                // An error means that the client is closed already.
                let _ = closed.await;
            }
        };
        let _ = timeout(CLOSE_WAIT, close).await;
    }

    fn why_closed(&self) -> ClientError {
        why_closed(&self.state)
    }
}

/// A message that was handed over.
#[derive(Debug)]
pub struct Receipt {
    answered: oneshot::Receiver<Result<Uuid, ClientError>>,
    state: watch::Receiver<State>,
}

impl Receipt {
    /// Waits for the commit and returns the message's id.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn committed(self) -> Result<Uuid, ClientError> {
        self.answered.await.map_err(|_| why_closed(&self.state))?
    }
}

fn why_closed(state: &watch::Receiver<State>) -> ClientError {
    match &*state.borrow() {
        State::Closed(e) => e.clone(),
        _ => ClientError::Closed,
    }
}
