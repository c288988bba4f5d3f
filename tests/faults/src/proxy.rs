//! The proxy on every link: passes bytes on, or breaks them as a network would.
//!
//! The proxy knows no protocol. A fault is a rule that all connections of the link watch. Each cut and each
//! half-opening raises a count, and strikes every connection that began under a lower count.

mod pump;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::schedule::{End, Net};

/// Milliseconds within which connections arrive in another order.
const REORDER_WITHIN_MS: u64 = 1_200;
/// How long a target may take to accept a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(3);

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

/// The addresses that connections are led to.
type Targets = Arc<Mutex<Vec<SocketAddr>>>;

/// A proxy; it ends with its connections when this is dropped.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// Which targets are up: all, until a check says otherwise.
    pub up: Up,
    rules: watch::Sender<Rules>,
    targets: Targets,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of loopback. Each connection goes to a random target that is up, or, if that does not accept
    /// it, to the next.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(targets: Vec<SocketAddr>, seed: u64) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let rules = Rules { flow: Flow::Pass, shuffles: false, cuts: 0, halves: 0, told: End::Client };
        let (rules, watched) = watch::channel(rules);
        let up: Up = targets.iter().map(|_| AtomicBool::new(true)).collect();
        let targets = Arc::new(Mutex::new(targets));
        let accept = accept(listener, targets.clone(), up.clone(), StdRng::seed_from_u64(seed), watched);
        Ok(Self { address, up, rules, targets, accepting: tokio::spawn(accept) })
    }

    /// Leads new connections to other targets, as many as before; open connections go on.
    pub fn lead_to(&self, targets: Vec<SocketAddr>) {
        *self.targets.lock().unwrap_or_else(PoisonError::into_inner) = targets;
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

    /// Lets bytes flow from now on. Half-opened connections stay half-open.
    pub fn heal(&self) {
        self.rules.send_modify(|rules| {
            rules.flow = Flow::Pass;
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

async fn accept(
    listener: TcpListener,
    targets: Targets,
    up: Up,
    mut dice: StdRng,
    rules: watch::Receiver<Rules>,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of file descriptors, or the peer is gone already.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let targets = targets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let first = dice.random_range(0..targets.len());
        let mut order: Vec<usize> = (0..targets.len()).map(|i| (first + i) % targets.len()).collect();
        order.sort_by_key(|i| !up[*i].load(Ordering::Relaxed));
        let order = order.into_iter().map(|i| targets[i]).collect();
        let wait = Duration::from_millis(dice.random_range(0..REORDER_WITHIN_MS));
        tokio::spawn(lead(client, order, wait, rules.clone()));
    }
}

async fn lead(
    client: TcpStream,
    targets: Vec<SocketAddr>,
    wait: Duration,
    mut rules: watch::Receiver<Rules>,
) {
    let born = *rules.borrow();
    if born.shuffles {
        tokio::time::sleep(wait).await;
    }
    // A connection into a black hole waits.
    if !pump::flows(&mut rules).await {
        return;
    }
    for target in targets {
        let connected = tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(target)).await;
        if let Ok(Ok(server)) = connected {
            pump::serve(client, server, rules, (born.cuts, born.halves)).await;
            return;
        }
    }
    // Resets the connection, as a machine without that service refuses one.
    let _ = client.set_zero_linger();
}

#[cfg(test)]
mod tests;
