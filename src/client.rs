//! The client: an agent's connection to a broker, kept up for as long as the agent lives.
//!
//! ```no_run
//! # async fn example() -> Result<(), postbell::client::ClientError> {
//! use postbell::client::{Builder, Outgoing};
//! use postbell::message::MessageType;
//!
//! let (client, mut deliveries) = Builder::new("tcp://127.0.0.1:7440", "my-agent", "pb_…").connect().await?;
//! client.send(Outgoing::new("other-agent", MessageType::Query, &"how are you?")?).await?;
//! while let Some(delivery) = deliveries.next().await {
//!     println!("{}: {}", delivery.from(), delivery.payload());
//!     delivery.ack().await;
//! }
//! # Ok(()) }
//! ```
//!
//! It reconnects by itself with growing, jittered waits, the first one jittered too; sends heartbeats; moves the deadline
//! of every delivery that the agent still holds; and what the broker refused by `slow_down` it sends again.

mod card;
pub(crate) mod connection;
mod dead;
mod delivery;
mod driver;
mod dropped;
mod held;
pub mod lock;
mod outgoing;
mod pending;
mod request;
#[cfg(feature = "tls")]
mod tls;
mod topics;
mod unreadable;

#[cfg(feature = "tls")]
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;
use uuid::Uuid;

use crate::protocol::ErrorCode;
use crate::protocol::frame::Hello;
use crate::protocol::limits::{LINE_BYTES_MAX, PROTO, WINDOW_MAX};

pub use crate::protocol::frame::dead::{DeadLetter, DeadLetters};
pub use dead::Which;
pub use delivery::{Deliveries, Delivery};
use driver::{Driver, Order};
pub use outgoing::Outgoing;
use pending::SendAnswer;
pub use request::Answer;

/// What waits to be written. When it is full, whoever asks waits: it is full only while the broker is away.
const ORDERS_MAX: usize = 1_024;
/// Of messages that are not answered yet, so many KiB: each counts as one and its payload. When it is full, whoever sends waits.
const UNDER_WAY_KIB_MAX: u32 = 64 * 1_024;
const _: () = assert!(UNDER_WAY_KIB_MAX as usize > 16 * LINE_BYTES_MAX / 1_024);
/// How long a send waits for its answer, reconnects included.
const SEND_WAIT: Duration = Duration::from_secs(30);
/// How long closing waits for the last acks to be written.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
/// With the spread 4.5 s: a broker that is back has its agents back within the 5 s in which messages are promised. To a broker
/// that is away a thousand agents are some 300 attempts a second.
pub(crate) const RECONNECT_MAX: Duration = Duration::from_secs(3);

/// `host:port` of a broker's URL, for the tests that try any text.
///
/// # Errors
/// [`ClientError::Url`].
#[cfg(any(test, fuzzing))]
pub fn address(url: &str) -> Result<String, ClientError> {
    connection::Address::parse(url).map(|address| address.text().to_owned())
}

/// Why a client, or one of its requests, ended.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ClientError {
    /// The URL cannot be one.
    #[error("{0}")]
    Url(String),
    /// The broker cannot be reached.
    #[error("the broker at {address} cannot be reached: {reason}")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// What the system said, for programs.
        kind: std::io::ErrorKind,
        /// What the system said.
        reason: String,
    },
    /// TLS with the broker failed: most often its certificate is not trusted.
    #[error("TLS with the broker at {address} failed: {reason}")]
    Tls {
        /// Where the broker is.
        address: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The broker refused, with its sentence.
    #[error("the broker says: {message} ({code})")]
    Refused {
        /// Its code.
        code: ErrorCode,
        /// Its sentence.
        message: String,
        /// Not before this should it be tried again.
        retry: Option<Duration>,
    },
    /// The peer does not speak the protocol.
    #[error("what answers is no Postbell broker: {0}")]
    Protocol(String),
    /// The connection fell before the answer came.
    #[error("the connection fell before the broker answered; it is not known whether it did what was asked")]
    Interrupted,
    /// No answer came in time.
    #[error("the broker did not answer in {0:?}")]
    Timeout(Duration),
    /// A question was not answered.
    #[error("{whom} did not answer in {within:?}")]
    NoAnswer {
        /// Who was asked.
        whom: String,
        /// How long was waited.
        within: Duration,
    },
    /// What was given cannot be sent, or connected with.
    #[error("{0}")]
    Invalid(String),
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// Whether trying again may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted | Self::Timeout(_) | Self::NoAnswer { .. } => true,
            Self::Refused { code, .. } => {
                let is_no = matches!(code, ErrorCode::Rejected | ErrorCode::Forbidden | ErrorCode::UnknownOp);
                !is_final(*code) && !is_no
            }
            Self::Url(_) | Self::Tls { .. } | Self::Protocol(_) | Self::Invalid(_) | Self::Closed => false,
        }
    }
}

/// Refusals that connecting again would only repeat, or that say to stay away.
fn is_final(code: ErrorCode) -> bool {
    use ErrorCode::{
        BadField, BadJson, Disabled, HelloExpected, LineTooLong, PlaintextRefused, ProtoUnsupported,
        TakenOver, Unauthorized,
    };
    matches!(
        code,
        BadField
            | BadJson
            | Disabled
            | HelloExpected
            | LineTooLong
            | PlaintextRefused
            | ProtoUnsupported
            | TakenOver
            | Unauthorized
    )
}

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
    /// The connection fell; it is being made again.
    Reconnecting,
    /// It will not be made again.
    Closed(ClientError),
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct Builder {
    url: String,
    hello: Hello,
    /// No other process can have this instance: it was made up here.
    is_instance_ours: bool,
    auto_extend: bool,
    reconnect_first: Duration,
    #[cfg(feature = "tls")]
    trust: tls::Trust,
}

impl Builder {
    /// An agent and its token, and where the broker is: `tcp://host:port`, or `tcp+tls://host:port` to encrypt and
    /// to verify the broker, by the system's trusted roots if nothing else is said.
    pub fn new(url: &str, agent: &str, token: &str) -> Self {
        let hello = Hello {
            proto: PROTO,
            agent: agent.to_owned(),
            token: token.to_owned(),
            instance: Some(Uuid::new_v4().simple().to_string()),
            group: None,
            broker: None,
            rank: None,
            client: Some(concat!("postbell-rust/", env!("CARGO_PKG_VERSION")).to_owned()),
            window: None,
            heartbeat_ms: None,
            environment: None,
            capabilities: None,
            version: None,
        };
        Self {
            url: url.to_owned(),
            hello,
            is_instance_ours: true,
            auto_extend: true,
            reconnect_first: RECONNECT_FIRST,
            #[cfg(feature = "tls")]
            trust: tls::Trust::default(),
        }
    }

    /// The broker's certificate must come from a CA in this PEM file. Read at every connection.
    #[cfg(feature = "tls")]
    pub fn ca_file(mut self, path: impl AsRef<Path>) -> Self {
        self.trust.ca = Some(path.as_ref().to_owned());
        self
    }

    /// The broker's certificate must have this SHA-256, in hex. That is enough, whoever issued it, to whatever name,
    /// until whenever; with [`Self::ca_file`] both must be right.
    #[cfg(feature = "tls")]
    pub fn pin_sha256(mut self, fingerprint: &str) -> Self {
        self.trust.pin = Some(fingerprint.to_owned());
        self
    }

    /// What the broker may ask of its clients: PEM files of a certificate with its chain, and of its key. Read at every
    /// connection.
    #[cfg(feature = "tls")]
    pub fn client_certificate(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.trust.shown = Some((certificate.as_ref().to_owned(), key.as_ref().to_owned()));
        self
    }

    /// The most deliveries at once; 0 only sends.
    pub fn window(mut self, window: u32) -> Self {
        self.hello.window = Some(window.min(WINDOW_MAX));
        self
    }

    /// A name for this process, instead of one by chance: a newer session of the same agent and instance takes over from
    /// an older one, and replies are for an instance.
    pub fn instance(mut self, instance: &str) -> Self {
        self.hello.instance = Some(instance.to_owned());
        self.is_instance_ours = false;
        self
    }

    /// Whether connecting again would only repeat this refusal, or take the place of somebody else. Where nobody can have
    /// this instance but this process, a hello of its own that it had given up arrived after the one that followed it.
    fn is_final(&self, code: ErrorCode) -> bool {
        is_final(code) && !(code == ErrorCode::TakenOver && self.is_instance_ours)
    }

    /// Take from this group, which other agents take from too, each message going to one of them; not from the agent's own
    /// inbox, for which another connection can be made.
    pub fn group(mut self, group: &str) -> Self {
        self.hello.group = Some(group.to_owned());
        self
    }

    /// A broker that links for a session of its own: the token is its credential.
    #[cfg(feature = "server")]
    pub(crate) fn broker(mut self, id: Uuid, rank: Option<i64>) -> Self {
        (self.hello.broker, self.hello.rank) = (Some(id), rank);
        self
    }

    /// Connects once, and leaves the rest to whoever asks.
    #[cfg(feature = "server")]
    pub(crate) async fn open(&self) -> Result<connection::Connection, ClientError> {
        connection::open(&connection::Address::parse(&self.url)?, self).await
    }

    /// How often each side says that it lives.
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.hello.heartbeat_ms = Some(u32::try_from(every.as_millis()).unwrap_or(u32::MAX));
        self
    }

    /// Whether deadlines of deliveries that are held are moved by themselves; they are, unless told otherwise.
    pub fn auto_extend(mut self, yes: bool) -> Self {
        self.auto_extend = yes;
        self
    }

    /// Around which wait reconnecting begins; each next one is twice as long, up to 10 s.
    pub fn reconnect_first(mut self, wait: Duration) -> Self {
        self.reconnect_first = wait;
        self
    }

    /// Connects once; from then on the connection is kept up.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn connect(self) -> Result<(Client, Deliveries), ClientError> {
        let address = connection::Address::parse(&self.url)?;
        // Whoever asks for verification must not get a connection in clear.
        #[cfg(feature = "tls")]
        if !address.tls && !self.trust.is_empty() {
            let sentence = "a CA, a pin or a client's certificate is given, but the URL is not encrypted: use tcp+tls://";
            return Err(ClientError::Url(sentence.to_owned()));
        }
        let first = connection::open(&address, &self).await?;
        let (orders, orders_rx) = mpsc::channel(ORDERS_MAX);
        // A broker never pushes more than the window, so this cannot overflow.
        let (deliveries_tx, deliveries) = mpsc::channel(WINDOW_MAX as usize);
        let (state, state_rx) = watch::channel(first.state());
        let instance = self.hello.instance.as_deref().unwrap_or_default().into();
        let unreadable = Arc::<AtomicU64>::default();
        let driver = Driver::new(self, address, deliveries_tx, orders.downgrade(), state, unreadable.clone());
        tokio::spawn(driver.run(first, orders_rx));
        let room = Arc::new(Semaphore::new(UNDER_WAY_KIB_MAX as usize));
        let client = Client { orders: orders.clone(), room, state: state_rx, instance, unreadable };
        Ok((client, Deliveries::new(deliveries, orders)))
    }
}

/// A handle on the connection; clones share it. It closes when every clone and the [`Deliveries`] are gone.
#[derive(Clone, Debug)]
pub struct Client {
    orders: mpsc::Sender<Order>,
    /// For messages that are not answered yet.
    room: Arc<Semaphore>,
    state: watch::Receiver<State>,
    /// Answers are for this process.
    instance: Arc<str>,
    unreadable: Arc<AtomicU64>,
}

impl Client {
    /// Sends a message; its id, once it is committed. Many may be under way at once.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn send(&self, message: Outgoing) -> Result<Uuid, ClientError> {
        let send = async { self.submit(message).await?.committed().await };
        timeout(SEND_WAIT, send).await.unwrap_or(Err(ClientError::Timeout(SEND_WAIT)))
    }

    /// Hands a message over without waiting for its commit. What one task submits is inserted in that order. Waits while 64 MiB
    /// of messages are not answered, or the broker is away and a thousand requests wait.
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

    /// From now on at most so many deliveries at once.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn set_window(&self, window: u32) -> Result<(), ClientError> {
        self.orders.send(Order::Window(window.min(WINDOW_MAX))).await.map_err(|_| self.why_closed())
    }

    /// How many messages could not be read, and are dead letters for that reason.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// How it is connected, and each change of that.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Writes what was acknowledged, says goodbye and closes.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        let close = async {
            if self.orders.send(Order::Close(done)).await.is_ok() {
                // An error says that it is closed already.
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
    /// Its id, once it is committed.
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
