//! The proxy on every link: passes bytes on, or breaks them as a network would.
//!
//! The proxy knows no protocol. A fault is a rule that all connections of the link watch. Each cut and each
//! half-opening raises a count, and strikes every connection that began under a lower count.

mod lead;
mod pump;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::schedule::{End, Net};
use lead::{Choice, Leads, Led};

/// How bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Pass,
    Delay(Duration),
    Hold,
    Crumble,
}

/// The rules that the connections of a link watch.
#[derive(Clone, Copy, Debug)]
struct Rules {
    flow: Flow,
    /// New connections are reset at once.
    refuses: bool,
    /// New connections arrive in another order.
    shuffles: bool,
    /// How often everything was cut.
    cuts: u64,
    /// How often everything was half-opened, and which end was told of the last time.
    halves: u64,
    told: End,
}

/// Which targets are up, as the last check found: new connections are led only to these.
pub type Up = Arc<[AtomicBool]>;

/// A proxy; it ends with its connections when this is dropped.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// Which targets are up: all, until a check says otherwise.
    pub up: Up,
    rules: watch::Sender<Rules>,
    leads: Arc<Mutex<Leads>>,
    led: Led,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of loopback. Each connection goes to a random target that is up, or, if that does not accept
    /// it, to the next.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(targets: Vec<SocketAddr>, seed: u64) -> anyhow::Result<Self> {
        Self::listen(targets, Choice::by_dice(seed)).await
    }

    /// Listens on a port of loopback. The targets take turns, so that a client that comes twice has two of them. There
    /// may be no targets yet: a program that must know the address of this proxy has none before it is started.
    ///
    /// # Errors
    /// No port is free.
    pub async fn in_turn(targets: Vec<SocketAddr>) -> anyhow::Result<Self> {
        Self::listen(targets, Choice::in_turn()).await
    }

    async fn listen(targets: Vec<SocketAddr>, choice: Choice) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let rules = Rules {
            flow: Flow::Pass,
            refuses: false,
            shuffles: false,
            cuts: 0,
            halves: 0,
            told: End::Client,
        };
        let (rules, watched) = watch::channel(rules);
        let up: Up = targets.iter().map(|_| AtomicBool::new(true)).collect();
        let leads = Arc::new(Mutex::new(Leads { targets, from: None }));
        let led = Led::default();
        let accept = lead::accept(listener, leads.clone(), up.clone(), choice, led.clone(), watched);
        Ok(Self { address, up, rules, leads, led, accepting: tokio::spawn(accept) })
    }

    /// Leads new connections to other targets; open connections go on.
    pub fn lead_to(&self, targets: Vec<SocketAddr>) {
        self.leads.lock().unwrap_or_else(PoisonError::into_inner).targets = targets;
    }

    /// Lets new connections come from this address of the machine, as a target sees it.
    pub fn lead_from(&self, here: IpAddr) {
        self.leads.lock().unwrap_or_else(PoisonError::into_inner).from = Some(here);
    }

    /// How many connections reached a target so far.
    pub fn led(&self) -> usize {
        self.led.load(Ordering::Relaxed)
    }

    /// The URL of the same database through this proxy.
    ///
    /// # Errors
    /// The URL has no address.
    pub fn through(&self, url: &str) -> anyhow::Result<String> {
        Ok(url.replacen(&address_of(url)?.to_string(), &self.address.to_string(), 1))
    }

    /// Resets new connections from now on; open connections go on.
    pub fn refuse(&self) {
        self.rules.send_modify(|rules| rules.refuses = true);
    }

    /// Resets every connection, and new connections from now on, as where nothing listens.
    pub fn shut(&self) {
        self.rules.send_modify(|rules| {
            rules.refuses = true;
            rules.cuts += 1;
        });
    }

    /// Begins to break the link.
    pub fn inflict(&self, net: Net) {
        self.rules.send_modify(|rules| match net {
            Net::Delay { ms } => rules.flow = Flow::Delay(Duration::from_millis(ms.into())),
            Net::BlackHole => rules.flow = Flow::Hold,
            Net::ByteByByte => rules.flow = Flow::Crumble,
            Net::Cut => rules.cuts += 1,
            Net::HalfOpen { told } => {
                rules.halves += 1;
                rules.told = told;
            }
            Net::Reorder => {
                rules.cuts += 1;
                rules.shuffles = true;
            }
        });
    }

    /// Lets connections in and bytes flow from now on. Half-opened connections stay half-open.
    pub fn heal(&self) {
        self.rules.send_modify(|rules| {
            rules.flow = Flow::Pass;
            rules.refuses = false;
            rules.shuffles = false;
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.inflict(Net::Cut);
    }
}

/// The address in a URL such as `postgres://user:password@127.0.0.1:5432/database`.
///
/// # Errors
/// The URL has none.
pub fn address_of(url: &str) -> anyhow::Result<SocketAddr> {
    let after = url.split_once('@').and_then(|(_, rest)| rest.split('/').next());
    after.and_then(|address| address.parse().ok()).context("the server's URL has no address")
}

#[cfg(test)]
mod tests;
