//! Connections that are not let in: too many before the door, and wrong tokens.

use std::io::{Read, Write};
use std::net::SocketAddr;
use tokio::time::Instant;

use tokio::net::TcpStream;
use tokio::time::sleep;

use super::End;
use crate::store::agents::Denial;
use crate::watch::metrics::{CloseReason, Metrics};
use postbell_client::protocol::frame::push_line;
use postbell_client::protocol::limits::HELLO_LINE_BYTES_MAX;
use postbell_client::protocol::secret::redact;
use postbell_client::protocol::{ErrorCode, ProtocolError, ServerFrame};
use postbell_engine::guard::{BUSY_RETRY, Place};

/// Turns a connection away for which there is no place: one line, if the port speaks in clear and the kernel
/// takes the line at once, and no task.
pub(crate) fn turn_away(socket: TcpStream, in_clear: bool, metrics: &Metrics) {
    metrics.closed(CloseReason::Refused(ErrorCode::Busy));
    if !in_clear {
        // TLS would need a handshake, and a handshake needs the place that is missing.
        return;
    }
    // The kernel is asked directly: tokio does not know yet that this socket is writable.
    let Ok(mut socket) = socket.into_std() else { return };
    let mut line = Vec::new();
    push_line(&mut line, &ServerFrame::from(busy()));
    // Unread bytes of a hello would make the close a reset, which may overtake the line. Failures are ignored,
    // since the connection ends anyway.
    let _ = socket.read(&mut [0; HELLO_LINE_BYTES_MAX]);
    let _ = socket.write(&line);
}

fn busy() -> ProtocolError {
    let sentence = "too many connections wait to be let in; try again";
    ProtocolError::new(ErrorCode::Busy, sentence).retry_after(BUSY_RETRY)
}

/// Answers a refused hello after its delay. The log says why; the client gets the incident number to ask about.
pub(super) async fn deny(place: Place, peer: SocketAddr, agent: &str, denial: Denial) -> End {
    let Some((_waiting, delay)) = place.refuse(Instant::now().into_std()) else {
        return End::Refused(busy());
    };
    let incident = format!("{:08x}", rand::random::<u32>());
    let delay_ms = delay.as_millis() as u64;
    // Quoted, because a client may write anything here, and redacted, because people mistake their token for
    // their name.
    tracing::warn!(incident, %peer, agent = ?redact(agent), reason = %denial, delay_ms, "a hello was refused");
    sleep(delay).await;
    let sentence = format!("unknown agent or wrong token (incident {incident})");
    End::Refused(ProtocolError::new(ErrorCode::Unauthorized, sentence))
}
