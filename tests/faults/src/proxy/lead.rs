//! A new connection: which target it goes to, and the way there.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::{Rules, Up, pump};

/// Milliseconds within which connections arrive in another order.
const REORDER_WITHIN_MS: u64 = 1_200;
/// How long a target may take to accept a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(3);

/// Where connections are led, and from which address if not from the system's choice.
#[derive(Clone)]
pub(super) struct Leads {
    pub(super) targets: Vec<SocketAddr>,
    pub(super) from: Option<IpAddr>,
}

/// How many connections reached a target.
pub(super) type Led = Arc<AtomicUsize>;

/// Chooses the target that a connection tries first.
pub(super) struct Choice {
    dice: StdRng,
    /// How many had their turn; `None` if the dice choose.
    turn: Option<usize>,
}

impl Choice {
    pub(super) fn by_dice(seed: u64) -> Self {
        Self { dice: StdRng::seed_from_u64(seed), turn: None }
    }

    pub(super) fn in_turn() -> Self {
        Self { turn: Some(0), ..Self::by_dice(0) }
    }

    /// The targets in the order in which they are tried, those that are up before the others.
    fn order(&mut self, targets: &[SocketAddr], up: &Up) -> Vec<SocketAddr> {
        let first = match &mut self.turn {
            Some(turn) => {
                *turn += 1;
                *turn - 1
            }
            None => self.dice.random_range(0..targets.len().max(1)),
        };
        let mut order: Vec<usize> = (0..targets.len()).map(|i| (first + i) % targets.len()).collect();
        order.sort_by_key(|i| up.get(*i).is_some_and(|up| !up.load(Ordering::Relaxed)));
        order.into_iter().map(|i| targets[i]).collect()
    }

    /// How long a connection waits while connections arrive in another order.
    fn wait(&mut self) -> Duration {
        Duration::from_millis(self.dice.random_range(0..REORDER_WITHIN_MS))
    }
}

pub(super) async fn accept(
    listener: TcpListener,
    leads: Arc<Mutex<Leads>>,
    up: Up,
    mut choice: Choice,
    led: Led,
    rules: watch::Receiver<Rules>,
) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of file descriptors, or the peer is gone already.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // Before the targets are read: a cut that follows new targets strikes every connection to the old ones.
        let born = *rules.borrow();
        let mut leads = leads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        leads.targets = choice.order(&leads.targets, &up);
        let (wait, rules, led) = (choice.wait(), rules.clone(), led.clone());
        tokio::spawn(async move {
            if born.shuffles {
                tokio::time::sleep(wait).await;
            }
            lead(client, leads, born, rules, &led).await;
        });
    }
}

async fn lead(
    client: TcpStream,
    leads: Leads,
    born: Rules,
    mut rules: watch::Receiver<Rules>,
    led: &AtomicUsize,
) {
    // A connection into a black hole waits.
    if !born.refuses && pump::flows(&mut rules).await {
        for target in leads.targets {
            let connected = tokio::time::timeout(CONNECT_WAIT, connect(leads.from, target)).await;
            if let Ok(Ok(server)) = connected {
                led.fetch_add(1, Ordering::Relaxed);
                pump::serve(client, server, rules, (born.cuts, born.halves)).await;
                return;
            }
        }
    }
    // Resets the connection, as a machine without that service refuses one.
    let _ = client.set_zero_linger();
}

async fn connect(from: Option<IpAddr>, target: SocketAddr) -> io::Result<TcpStream> {
    let Some(from) = from else {
        return TcpStream::connect(target).await;
    };
    let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.bind((from, 0).into())?;
    socket.connect(target).await
}
