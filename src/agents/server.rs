//! The agents' port: accepts connections, encrypts them if a certificate is configured, and starts a session
//! for each.

pub(crate) mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::agents::session::{self, Shared};
use crate::base::pace::Pace;
use crate::base::{open_files, sockets};
use crate::watch::metrics::CloseReason;
use postbell_client::protocol::limits::HELLO_WAIT;
use postbell_engine::guard::Place;
use tls::{NotAccepted, Tls};

/// The most connections at once, authenticated or not.
pub(crate) const CONNECTIONS_MAX: usize = 20_000;
/// One in so many of the files that this process may open is kept free of agents: for the database, and for the
/// HTTP port, whose answers are wanted most when there are too many agents.
const PART_KEPT: u64 = 4;
/// The most files that are kept free of agents.
const KEPT_MAX: u64 = 600;
const ACCEPT_PAUSE_FIRST: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Accepts until `stop`, then waits for the sessions to end, which [`Shared::phase`] asks of them. With `tls`
/// every session is encrypted. A broker that drains still accepts: other brokers link to it for what is left.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    shared: Arc<Shared>,
    stop: impl Future<Output = ()>,
) {
    let mut running = JoinSet::new();
    let most = connections_max(open_files::bound());
    let mut pace = Pace::new(ACCEPT_PAUSE_FIRST, ACCEPT_PAUSE_MAX);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            // Connections beyond the bound wait in the kernel's queue.
            accepted = listener.accept(), if running.len() < most => match accepted {
                Ok((socket, peer)) => {
                    pace.reset();
                    match shared.guard.admit(peer.ip()) {
                        Some(place) => {
                            running.spawn(serve_one(socket, peer, place, tls.clone(), shared.clone()));
                        }
                        None => session::turn_away(socket, tls.is_none(), &shared.metrics),
                    }
                }
                Err(e) => {
                    // Usually the process is out of file descriptors: sessions that end give theirs back.
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    tokio::time::sleep(pace.next_wait()).await;
                }
            },
            Some(ended) = running.join_next(), if !running.is_empty() => log_panic(ended),
        }
    }
    drop(listener);
    drop(shared);
    while let Some(ended) = running.join_next().await {
        log_panic(ended);
    }
}

fn connections_max(files: Option<u64>) -> usize {
    let left = files.map_or(u64::MAX, |files| files - (files / PART_KEPT).min(KEPT_MAX));
    usize::try_from(left).map_or(CONNECTIONS_MAX, |left| left.min(CONNECTIONS_MAX))
}

async fn serve_one(socket: TcpStream, peer: SocketAddr, place: Place, tls: Option<Tls>, shared: Arc<Shared>) {
    // One limit for the handshake and the hello together.
    let hello_by = Instant::now() + HELLO_WAIT;
    sockets::bound(&socket);
    // Without this, a small line would wait until TCP has acknowledged the one before.
    if let Err(e) = socket.set_nodelay(true) {
        tracing::debug!(error = %e, %peer, "the socket ended before its session began");
        return;
    }
    let Some(tls) = tls else {
        let (read, write) = socket.into_split();
        return session::serve(read, write, peer, place, hello_by, &shared).await;
    };
    // On the heap: the handshake's state is large, and gone when the session begins.
    let refused = match Box::pin(tls.accept(socket, hello_by)).await {
        Ok(stream) => {
            let (read, write) = tokio::io::split(stream);
            return session::serve(read, write, peer, place, hello_by, &shared).await;
        }
        Err(NotAccepted::Plain(mut socket)) => {
            return session::refuse_plaintext(&mut socket, peer, &shared).await;
        }
        Err(refused) => refused,
    };
    let reason = match &refused {
        NotAccepted::Gone => CloseReason::Disconnect,
        _ => CloseReason::Tls,
    };
    shared.metrics.closed(reason);
    match refused {
        NotAccepted::Late => tracing::info!(%peer, "a TLS handshake took too long"),
        NotAccepted::Failed(e, socket) => {
            tracing::info!(%peer, reason = %e, "a TLS handshake failed");
            tls::linger(socket).await;
        }
        NotAccepted::Gone | NotAccepted::Plain(_) => {}
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended {
        tracing::error!(error = %e, "a session failed by a defect of the broker; please report it");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_leave_files_for_the_rest() {
        let most: Vec<usize> =
            [None, Some(1 << 20), Some(4_096), Some(1_024), Some(256)].map(connections_max).into();
        assert_eq!(most, [CONNECTIONS_MAX, CONNECTIONS_MAX, 3_496, 768, 192]);
    }
}
