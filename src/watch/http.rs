//! Metrics, health and the status page over HTTP/1.1, for Prometheus, a platform's health check, and people.
//!
//! Keep-alive is off, so an idle client cannot occupy a place. Each connection has one deadline, except streams of
//! events, which are few and have bounds of their own (`api/events.rs`). [`HttpLimits`] bounds everything that a
//! stranger can take.
//!
//! Nobody waits for a place. A connection without a whole request stands in the **lobby**; when the lobby is full,
//! its oldest connection is closed. A whole request takes a place of its kind. Health and metrics have places of
//! their own, so both are answered at once, whatever others do to this port.

mod answer;
pub(crate) mod api;
mod page;
mod places;
mod routes;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::base::open_files;
use crate::base::sockets;
use crate::watch::health::Health;
use api::Site;
use places::{Cut, Place, Places, WhenFull};
use postbell_engine::guard::Source;
use routes::Routes;

/// Updates the gauges that are read from the database, before a scrape. A refresh that takes longer than
/// [`HttpLimits::refresh_wait`] is dropped unfinished, and one runs at a time.
pub(crate) type Refresh = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The most connections in the lobby.
pub(crate) const LOBBY_MAX: usize = 256;
/// The most requests for health that are answered at a time. An answer fits into a socket, so it takes no time.
pub(crate) const HEALTH_MAX: usize = 64;
/// The most scrapes at a time.
pub(crate) const SCRAPES_MAX: usize = 16;
/// The most other requests at a time.
pub(crate) const PAGE_MAX: usize = 96;
/// The lobby, and the page, may each take one part in this many of the files that this process may open.
const PART_OF_FILES: u64 = 16;
/// How long a client may take to send its request line and headers.
pub(crate) const HEADER_WAIT_MS: u64 = 3_000;
/// How long a scrape waits for fresh gauges. Stale gauges are better than a failed scrape: Prometheus gives up after
/// 10 s, and just when the database is slow the other metrics matter.
pub(crate) const REFRESH_WAIT_MS: u64 = 2_000;
/// How long a connection may last, from accept to the last byte read by the client.
pub(crate) const CONNECTION_WAIT_MS: u64 = 15_000;
/// How long requests in progress may go on when the broker stops.
pub(crate) const GRACE_MS: u64 = 2_000;
/// The most bytes of request line and headers together; hyper's buffer cannot be smaller.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// The pause after a failed accept, because without free file descriptors the next one would fail as well.
const ACCEPT_PAUSE_MS: u64 = 100;

const _: () = assert!(HEADER_WAIT_MS + REFRESH_WAIT_MS < CONNECTION_WAIT_MS);

/// The bounds for one client and for all of them. The defaults are the constants of this module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpLimits {
    /// See [`LOBBY_MAX`]; fewer if the process may open few files.
    pub lobby_max: usize,
    /// See [`PAGE_MAX`]; fewer if the process may open few files.
    pub page_max: usize,
    /// See [`HEADER_WAIT_MS`].
    pub header_wait: Duration,
    /// See [`REFRESH_WAIT_MS`].
    pub refresh_wait: Duration,
    /// See [`CONNECTION_WAIT_MS`].
    pub connection_wait: Duration,
    /// See [`GRACE_MS`].
    pub grace: Duration,
}

impl Default for HttpLimits {
    fn default() -> Self {
        let files = open_files::bound().map_or(usize::MAX, |files| (files / PART_OF_FILES) as usize);
        Self {
            lobby_max: LOBBY_MAX.min(files),
            page_max: PAGE_MAX.min(files),
            header_wait: Duration::from_millis(HEADER_WAIT_MS),
            refresh_wait: Duration::from_millis(REFRESH_WAIT_MS),
            connection_wait: Duration::from_millis(CONNECTION_WAIT_MS),
            grace: Duration::from_millis(GRACE_MS),
        }
    }
}

/// The sources of the answers.
#[derive(Clone)]
pub(crate) struct HttpState {
    /// The metrics that `/metrics` encodes.
    pub registry: Registry,
    /// The knowledge from which `/health` is answered.
    pub health: Health,
    /// Run before each scrape.
    pub refresh: Option<Refresh>,
    /// The status page and its API.
    pub site: Option<Site>,
    /// The most connections and the longest waits of the server.
    pub limits: HttpLimits,
}

impl HttpState {
    /// A state without a refresh and without a status page, with the default limits.
    pub(crate) fn new(registry: Registry, health: Health) -> Self {
        Self { registry, health, refresh: None, site: None, limits: HttpLimits::default() }
    }
}

/// The places of each kind.
#[derive(Clone)]
struct House {
    lobby: Places<Source>,
    health: Places<Source>,
    scrapes: Places<Source>,
    page: Places<Source>,
}

impl House {
    fn new(limits: &HttpLimits) -> Self {
        Self {
            lobby: Places::new(limits.lobby_max, WhenFull::TakeOldest),
            health: Places::new(HEALTH_MAX, WhenFull::TakeOldest),
            scrapes: Places::new(SCRAPES_MAX, WhenFull::TakeOldest),
            page: Places::new(limits.page_max, WhenFull::Refuse),
        }
    }
}

/// Serves until `stop`, then gives the requests in progress [`HttpLimits::grace`] to end.
pub(crate) async fn serve(listener: TcpListener, state: HttpState, stop: impl Future<Output = ()>) {
    let limits = state.limits;
    let house = House::new(&limits);
    // Dropping the sender tells every connection to finish.
    let (stopping_tx, stopping) = watch::channel(());
    let routes = Arc::new(Routes::new(state, house.clone()));
    // Owned here: if this future is dropped, so is every connection.
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener) => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let connection = HttpConnection::new(stopping.clone());
        // The lobby refuses nobody: if it is full, its oldest connection leaves.
        connection.stand(house.lobby.enter(Source::of(peer), connection.cut()));
        connections.spawn(serve_one(stream, peer, routes.clone(), limits, connection));
    }
    // The port is closed first, so that nobody waits in its queue for an answer that will not come.
    drop(listener);
    drop(stopping_tx);
    let finished = timeout(limits.grace, async { while connections.join_next().await.is_some() {} });
    match finished.await {
        Ok(()) => debug!("http: every request ended"),
        Err(_) => {
            warn!(open = connections.len(), "http: requests were still open after the grace and are cut")
        }
    }
}

/// Accepts the next connection. Cancel-safe.
async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                sockets::bound(&stream);
                return (stream, peer.ip());
            }
            Err(error) => {
                warn!(%error, "http: a connection could not be accepted");
                sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

/// Answers one request. An error concerns the client alone, so it gets only a debug line.
async fn serve_one(
    stream: TcpStream,
    peer: IpAddr,
    routes: Arc<Routes>,
    limits: HttpLimits,
    connection: HttpConnection,
) {
    let mut stopping = connection.0.stopping.clone();
    let service = service_fn(|request| {
        let (routes, connection) = (routes.clone(), connection.clone());
        async move { Ok::<_, Infallible>(routes.answer(peer, request, &connection).await) }
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_wait)
            .keep_alive(false)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = async {
        tokio::select! {
            ended = served.as_mut() => ended,
            // This can only be an error: nothing is sent, the sender is dropped.
            _ = stopping.changed() => {
                served.as_mut().graceful_shutdown();
                served.as_mut().await
            }
        }
    };
    tokio::select! {
        ended = ended => if let Err(error) = ended {
            debug!(%error, "http: a connection ended early");
        },
        () = connection.deadline(&limits) => debug!("http: a connection took too long and is cut"),
        () = connection.0.cut.notified() => debug!("http: a connection gives up its place to a newer one"),
    }
}

/// A connection, as the code that answers on it sees it.
#[derive(Clone)]
pub(crate) struct HttpConnection(Arc<HttpConnectionState>);

struct HttpConnectionState {
    streams: AtomicBool,
    ended: Notify,
    stopping: watch::Receiver<()>,
    cut: Cut,
    // Never held across an await.
    place: Mutex<Option<Place<Source>>>,
}

impl HttpConnection {
    fn new(stopping: watch::Receiver<()>) -> Self {
        let (streams, ended, cut) = (AtomicBool::new(false), Notify::new(), Cut::default());
        Self(Arc::new(HttpConnectionState { streams, ended, stopping, cut, place: Mutex::default() }))
    }

    fn cut(&self) -> &Cut {
        &self.0.cut
    }

    /// Takes a place, and gives back the one that the connection had.
    fn stand(&self, place: Option<Place<Source>>) {
        let mut mine = self.0.place.lock().unwrap_or_else(PoisonError::into_inner);
        let _before = std::mem::replace(&mut *mine, place);
    }

    /// Lets the connection last until [`end`](Self::end). Streams have places of their own, so its place is given
    /// back.
    fn is_stream(&self) {
        self.0.streams.store(true, Ordering::Relaxed);
        self.stand(None);
    }

    /// Ends the stream; its reader has the grace to read the rest.
    fn end(&self) {
        self.0.ended.notify_one();
    }

    /// Waits until the server stops.
    async fn stopping(&self) {
        // This can only be an error: nothing is sent, the sender is dropped.
        let _ = self.0.stopping.clone().changed().await;
    }

    async fn deadline(&self, limits: &HttpLimits) {
        sleep(limits.connection_wait).await;
        if self.0.streams.load(Ordering::Relaxed) {
            self.0.ended.notified().await;
            sleep(limits.grace).await;
        }
    }
}
