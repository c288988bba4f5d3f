//! How to connect: the broker's address, the agent, and the deliveries that it wants.

#[cfg(feature = "tls")]
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use uuid::Uuid;

use super::address::Address;
use super::begun::InHand;
#[cfg(feature = "link")]
use super::connection::BrokerConnection;
use super::connection::{self, Approach};
use super::delivery::Deliveries;
use super::driver::{Driver, Told};
use super::error::is_final;
#[cfg(feature = "tls")]
use super::tls;
use super::{Client, ClientError, ORDERS_MAX, UNDER_WAY_KIB_MAX};
use crate::protocol::ErrorCode;
#[cfg(feature = "link")]
use crate::protocol::Rank;
use crate::protocol::frame::Hello;
use crate::protocol::limits::{PROTO, WINDOW_MAX};

/// The first wait before reconnecting is about this long.
const RECONNECT_FIRST: Duration = Duration::from_millis(100);

/// `host:port` of a broker's URL, for the tests that try any text.
///
/// # Errors
/// [`ClientError::Url`].
#[cfg(any(test, fuzzing, feature = "fuzzing"))]
pub fn address(url: &str) -> Result<String, ClientError> {
    Address::parse(url).map(|address| address.text().to_owned())
}

/// The settings of a connection.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(super) url: String,
    pub(super) hello: Hello,
    /// The instance was made up here, so no other process can have it.
    is_instance_ours: bool,
    pub(super) auto_extend: bool,
    pub(super) reconnect_first: Duration,
    #[cfg(feature = "tls")]
    pub(super) trust: tls::Trust,
}

impl Builder {
    /// An agent, its token, and the broker's URL: `tcp://host:port`, or `tcp+tls://host:port` to encrypt and to
    /// verify the broker, by the system's trusted roots if nothing else is given.
    pub fn new(url: &str, agent: &str, token: &str) -> Self {
        let hello = Hello {
            proto: PROTO,
            agent: agent.to_owned(),
            token: token.to_owned(),
            instance: Some(Uuid::new_v4().simple().to_string()),
            group: None,
            broker: None,
            rank: None,
            hold_ms: None,
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

    /// The broker's certificate must come from a CA in this PEM file, which is read at every connection.
    #[cfg(feature = "tls")]
    pub fn ca_file(mut self, path: impl AsRef<Path>) -> Self {
        self.trust.ca = Some(path.as_ref().to_owned());
        self
    }

    /// The broker's certificate must have this SHA-256, in hex. The fingerprint alone is enough, whatever the
    /// issuer, the name and the dates; with [`Self::ca_file`] both must be right.
    #[cfg(feature = "tls")]
    pub fn pin_sha256(mut self, fingerprint: &str) -> Self {
        self.trust.pin = Some(fingerprint.to_owned());
        self
    }

    /// The certificate that a broker may ask of its clients. Both PEM files, of the certificate with its chain
    /// and of its key, are read at every connection.
    #[cfg(feature = "tls")]
    pub fn client_certificate(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.trust.shown = Some((certificate.as_ref().to_owned(), key.as_ref().to_owned()));
        self
    }

    /// The most deliveries in flight at once; 0 for a client that only sends.
    pub fn window(mut self, window: u32) -> Self {
        self.hello.window = Some(window.min(WINDOW_MAX));
        self
    }

    /// A name for this process, instead of a random one. A newer session of the same agent and instance takes
    /// over from an older one, and replies go to an instance.
    pub fn instance(mut self, instance: &str) -> Self {
        self.hello.instance = Some(instance.to_owned());
        self.is_instance_ours = false;
        self
    }

    /// Whether connecting again would only repeat this refusal, or take the place of another process.
    /// `taken_over` is not final if the instance was made up here: then an older hello of this process arrived
    /// after a newer one.
    pub(super) fn is_final(&self, code: ErrorCode) -> bool {
        is_final(code) && !(code == ErrorCode::TakenOver && self.is_instance_ours)
    }

    /// Takes from this group instead of the agent's own inbox. Each message to a group goes to one of the
    /// agents that take from it. The agent's own inbox needs another connection.
    pub fn group(mut self, group: &str) -> Self {
        self.hello.group = Some(group.to_owned());
        self
    }

    /// Connects as a broker that links, on behalf of an agent that may hold deliveries for so long; the token
    /// is the broker's credential.
    #[cfg(feature = "link")]
    #[doc(hidden)]
    pub fn broker(mut self, id: Uuid, rank: Option<Rank>, hold: Duration) -> Self {
        (self.hello.broker, self.hello.rank) = (Some(id), rank);
        self.hello.hold_ms = Some(u64::try_from(hold.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Connects once, without a task that keeps the connection up.
    #[cfg(feature = "link")]
    #[doc(hidden)]
    pub async fn open(&self) -> Result<BrokerConnection, ClientError> {
        connection::open_unasked(self, &Address::parse(&self.url)?).await
    }

    /// How often each side says that it lives, in whole milliseconds.
    pub fn heartbeat(mut self, every: Duration) -> Self {
        self.hello.heartbeat_ms = Some(u32::try_from(every.as_millis()).unwrap_or(u32::MAX));
        self
    }

    /// Whether the client moves the deadlines of deliveries that are held; it does by default.
    pub fn auto_extend(mut self, yes: bool) -> Self {
        self.auto_extend = yes;
        self
    }

    /// About how long the first wait before reconnecting is; each next one is twice as long, up to
    /// [`RECONNECT_MAX`](crate::RECONNECT_MAX).
    pub fn reconnect_first(mut self, wait: Duration) -> Self {
        self.reconnect_first = wait;
        self
    }

    /// Connects; from then on a task keeps the connection up.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn connect(self) -> Result<(Client, Deliveries), ClientError> {
        let address = Address::parse(&self.url)?;
        // A caller that asks for verification must not get a connection in clear.
        #[cfg(feature = "tls")]
        if !address.tls && !self.trust.is_empty() {
            let sentence = "a CA, a pin or a client's certificate is given, but the URL is not encrypted: use tcp+tls://";
            return Err(ClientError::Url(sentence.to_owned()));
        }
        let mut approach = Approach::to(address);
        let first = connection::open(&self, &mut approach).await?;
        let (orders, orders_rx) = mpsc::channel(ORDERS_MAX);
        // A broker never pushes more than the window, so this channel cannot overflow.
        let (deliveries_tx, deliveries) = mpsc::channel(WINDOW_MAX as usize);
        let (state, state_rx) = watch::channel(first.state());
        let instance = self.hello.instance.as_deref().unwrap_or_default().into();
        let unreadable = Arc::<AtomicU64>::default();
        let in_hand = InHand::default();
        let told = Told { deliveries: deliveries_tx, in_hand: in_hand.clone(), state };
        let driver = Driver::new(self, approach, told, orders.downgrade(), unreadable.clone());
        tokio::spawn(driver.run(first, orders_rx));
        let room = Arc::new(Semaphore::new(UNDER_WAY_KIB_MAX as usize));
        let client = Client { orders: orders.clone(), room, state: state_rx, instance, unreadable };
        Ok((client, Deliveries::new(deliveries, in_hand, orders)))
    }
}
