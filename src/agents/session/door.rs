//! Those who do not come in: too many before the door, and wrong tokens.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

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

/// Turns a connection away for which there is no place: one line, if it is spoken in clear and the kernel takes it at once,
/// and no task.
pub fn turn_away(socket: TcpStream, in_clear: bool, metrics: &Metrics) {
    metrics.closed(CloseReason::Refused(ErrorCode::Busy));
    if !in_clear {
        // A handshake is what there is no place for.
        return;
    }
    // The kernel itself is asked: tokio does not know yet that this socket can be written.
    let Ok(mut socket) = socket.into_std() else { return };
    let mut line = Vec::new();
    push_line(&mut line, &ServerFrame::from(busy()));
    // A hello that came already and was not read would make the close a reset, which may overtake the line. Whatever
    // fails here, the connection ends.
    let _ = socket.read(&mut [0; HELLO_LINE_BYTES_MAX]);
    let _ = socket.write(&line);
}

fn busy() -> ProtocolError {
    let sentence = "too many connections wait to be let in; try again";
    ProtocolError::new(ErrorCode::Busy, sentence).retry_after(BUSY_RETRY)
}

/// The answer to a hello that was refused, after its delay. The log tells why; the client gets the number to ask for.
pub(super) async fn deny(place: Place, peer: SocketAddr, agent: &str, denial: Denial) -> End {
    let Some((_aside, delay)) = place.refuse(Instant::now()) else { return End::Refused(busy()) };
    let incident = format!("{:08x}", rand::random::<u32>());
    let delay_ms = delay.as_millis() as u64;
    // Quoted, since anybody may write anything here; and people mistake their token for their name.
    tracing::warn!(incident, %peer, agent = ?redact(agent), reason = %denial, delay_ms, "a hello was refused");
    sleep(delay).await;
    let sentence = format!("unknown agent or wrong token (incident {incident})");
    End::Refused(ProtocolError::new(ErrorCode::Unauthorized, sentence))
}
