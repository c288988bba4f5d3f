//! One connection through the proxy, from its beginning to what strikes it.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Flow, Rules};
use crate::schedule::End;

/// The most bytes that are read at once; while a link is delayed, also the most that are under way.
const CHUNK_BYTES: usize = 16 * 1024;
/// So many bytes of a crumbled chunk come one by one, and the rest in small pieces. That tears every line and every
/// message of the database's protocol, at a cost that two cores can bear.
const CRUMBS: usize = 64;
const PIECE_BYTES: usize = 61;

/// How a connection was struck.
enum Struck {
    Cut,
    Half(End),
}

/// Passes bytes between two ends until the connection ends or is struck. `born` holds the counts of cuts and
/// half-openings at its beginning.
pub(super) async fn serve(
    mut client: TcpStream,
    mut server: TcpStream,
    rules: watch::Receiver<Rules>,
    born: (u64, u64),
) {
    // Pieces must leave as pieces.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let struck = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let both = async {
            tokio::try_join!(
                pump(client_read, server_write, rules.clone()),
                pump(server_read, client_write, rules.clone())
            )
        };
        tokio::select! {
            ended = both => match ended {
                Ok(_) => return,
                // One end was reset: so is the other.
                Err(_) => Struck::Cut,
            },
            struck = struck(rules.clone(), born) => struck,
        }
    };
    match struck {
        Struck::Cut => reset([client, server]),
        Struck::Half(End::Client) => {
            reset([client]);
            swallow(server).await;
        }
        Struck::Half(End::Server) => {
            reset([server]);
            swallow(client).await;
        }
    }
}

async fn struck(mut rules: watch::Receiver<Rules>, (cuts, halves): (u64, u64)) -> Struck {
    // The sender lives as long as the proxy, which cuts everything when it ends.
    match rules.wait_for(|now| now.cuts > cuts || now.halves > halves).await {
        Ok(now) if now.halves > halves => Struck::Half(now.told),
        _ => Struck::Cut,
    }
}

fn reset(ends: impl IntoIterator<Item = TcpStream>) {
    for end in ends {
        // Without this the peer would see an end in order.
        let _ = end.set_zero_linger();
    }
}

/// Reads and drops all that an end writes, as a network does whose other end is gone.
async fn swallow(mut end: TcpStream) {
    let mut void = vec![0; CHUNK_BYTES];
    while matches!(end.read(&mut void).await, Ok(n) if n > 0) {}
}

/// Waits until bytes flow; false if they never will.
pub(super) async fn flows(rules: &mut watch::Receiver<Rules>) -> bool {
    rules.wait_for(|now| now.flow != Flow::Hold).await.is_ok()
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut rules: watch::Receiver<Rules>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    while flows(&mut rules).await {
        let n = from.read(&mut chunk).await?;
        if n == 0 {
            break;
        }
        // The link may have become a black hole while nothing came.
        flows(&mut rules).await;
        let flow = rules.borrow().flow;
        match flow {
            Flow::Delay(by) => {
                sleep(by).await;
                to.write_all(&chunk[..n]).await?;
            }
            Flow::Crumble => crumble(&mut to, &chunk[..n]).await?,
            Flow::Pass | Flow::Hold => to.write_all(&chunk[..n]).await?,
        }
    }
    to.shutdown().await
}

async fn crumble(to: &mut WriteHalf<'_>, chunk: &[u8]) -> io::Result<()> {
    let (single, rest) = chunk.split_at(chunk.len().min(CRUMBS));
    for byte in single.chunks(1).chain(rest.chunks(PIECE_BYTES)) {
        to.write_all(byte).await?;
        // The reader gets its turn, so that it sees the piece alone.
        tokio::task::yield_now().await;
    }
    Ok(())
}
