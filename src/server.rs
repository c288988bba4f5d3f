//! The agents' port: accepts connections and gives each its session.

use std::future::Future;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::pace::Pace;
use crate::session::{self, Sessions};

/// Connections at once, authenticated or not.
pub const CONNECTIONS_MAX: usize = 20_000;
const ACCEPT_PAUSE_FIRST: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Accepts until `stop`, then waits for the sessions to end; they are told to by [`Sessions::phase`]. A broker that drains
/// accepts still: the others link to it for what is left.
pub async fn serve(listener: TcpListener, sessions: Sessions, stop: impl Future<Output = ()>) {
    let mut running = JoinSet::new();
    let mut pace = Pace::new(ACCEPT_PAUSE_FIRST, ACCEPT_PAUSE_MAX);
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            // Those beyond the bound wait in the kernel's queue.
            accepted = listener.accept(), if running.len() < CONNECTIONS_MAX => match accepted {
                Ok((socket, peer)) => {
                    pace.reset();
                    match sessions.guard.admit(peer.ip()) {
                        Some(place) => {
                            running.spawn(session::serve(socket, peer, place, sessions.clone()));
                        }
                        None => session::turn_away(socket, &sessions.metrics),
                    }
                }
                Err(e) => {
                    // Most often the process is out of file descriptors: sessions that end give them back.
                    tracing::warn!(error = %e, "a connection could not be accepted");
                    tokio::time::sleep(pace.next_wait()).await;
                }
            },
            Some(ended) = running.join_next(), if !running.is_empty() => log_panic(ended),
        }
    }
    drop(listener);
    drop(sessions);
    while let Some(ended) = running.join_next().await {
        log_panic(ended);
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended {
        tracing::error!(error = %e, "a session failed by a defect of the broker; please report it");
    }
}
