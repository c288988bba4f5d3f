//! The first line: who is it, and may it come in. Before that a connection costs 8 KiB and three seconds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};

use super::{End, FAREWELL_WAIT, Sessions, line_fault};
use crate::inbox::SessionId;
use crate::postgres::agents;
use crate::protocol::codec::{LineReader, write_whole};
use crate::protocol::frame::{Hello, Limits, Welcome, push_line};
use crate::protocol::limits::{
    HEARTBEAT_MS_DEFAULT, HEARTBEAT_MS_MAX, HEARTBEAT_MS_MIN, HELLO_WAIT, LINE_BYTES_MAX, PAYLOAD_BYTES_MAX,
    PROTO, WINDOW_DEFAULT, WINDOW_MAX,
};
use crate::protocol::{ClientFrame, ErrorCode, ProtocolError, ServerFrame};

/// An agent that may come in.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) session: SessionId,
    pub(super) agent: Arc<str>,
    pub(super) instance: Option<String>,
    pub(super) window: u32,
    pub(super) heartbeat: Duration,
}

/// Reads the hello, authenticates, and says welcome.
pub(super) async fn greet(
    reader: &mut LineReader<impl AsyncRead + Unpin>,
    write: &mut (impl AsyncWrite + Unpin),
    peer: SocketAddr,
    hello_by: Instant,
    shared: &Sessions,
) -> Result<Greeted, End> {
    let hello = read_hello(reader, hello_by).await?;
    if hello.proto != PROTO {
        let sentence = format!("this broker speaks protocol {PROTO}, not {}", hello.proto);
        return Err(refused(ErrorCode::ProtoUnsupported, sentence));
    }
    if !shared.encrypted && crosses_a_network(peer) && !shared.allow_plaintext {
        let sentence = "a token must not cross a network in clear: set POSTBELL_TLS_CERT and POSTBELL_TLS_KEY on \
                        the broker, connect from its own machine or through a tunnel, or set \
                        POSTBELL_ALLOW_PLAINTEXT=1 on it where the network is yours";
        return Err(refused(ErrorCode::PlaintextRefused, sentence));
    }
    let agent = match agents::authenticate(&shared.pool, &hello.agent, &hello.token).await {
        Ok(Some(agent)) => agent,
        // One answer for an unknown agent, a disabled one and a wrong token: it must not tell which names exist.
        Ok(None) => return Err(refused(ErrorCode::Unauthorized, "unknown agent or wrong token")),
        Err(e) => {
            tracing::warn!(error = %e, %peer, "an agent could not be authenticated");
            return Err(refused(ErrorCode::Unavailable, "the database cannot be reached; try again"));
        }
    };
    let heartbeat_ms =
        hello.heartbeat_ms.unwrap_or(HEARTBEAT_MS_DEFAULT).clamp(HEARTBEAT_MS_MIN, HEARTBEAT_MS_MAX);
    let greeted = Greeted {
        session: shared.next_id(),
        agent: agent.into(),
        instance: hello.instance,
        window: hello.window.unwrap_or(WINDOW_DEFAULT).min(WINDOW_MAX),
        heartbeat: Duration::from_millis(heartbeat_ms.into()),
    };
    welcome(write, &greeted, &shared.broker).await?;
    Ok(greeted)
}

async fn read_hello(
    reader: &mut LineReader<impl AsyncRead + Unpin>,
    hello_by: Instant,
) -> Result<Hello, End> {
    let line = match timeout_at(hello_by, reader.next_line()).await {
        Ok(Ok(Some(line))) => line,
        Ok(Ok(None)) => return Err(End::Disconnect),
        Ok(Err(e)) => return Err(line_fault(e)),
        Err(_) => {
            let sentence = format!("no hello came within {} s", HELLO_WAIT.as_secs());
            return Err(refused(ErrorCode::HelloTimeout, sentence));
        }
    };
    match ClientFrame::decode(&line) {
        Ok(ClientFrame::Hello(hello)) => Ok(hello),
        Ok(_) => Err(refused(ErrorCode::HelloExpected, "the first line must be a hello")),
        Err(e) => Err(End::Refused(e)),
    }
}

async fn welcome(write: &mut (impl AsyncWrite + Unpin), greeted: &Greeted, broker: &str) -> Result<(), End> {
    let welcome = Welcome {
        proto: PROTO,
        broker: broker.to_owned(),
        session: greeted.session,
        limits: Limits { line_bytes: LINE_BYTES_MAX, payload_bytes: PAYLOAD_BYTES_MAX, window: WINDOW_MAX },
        heartbeat_ms: greeted.heartbeat.as_millis() as u32,
    };
    let mut line = Vec::new();
    push_line(&mut line, &ServerFrame::Welcome(welcome));
    match timeout(FAREWELL_WAIT, write_whole(write, &line)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(End::Disconnect),
    }
}

fn refused(code: ErrorCode, sentence: impl Into<String>) -> End {
    End::Refused(ProtocolError::new(code, sentence))
}

/// An IPv4 peer of a socket that listens on both families shows as `::ffff:127.0.0.1`.
fn crosses_a_network(peer: SocketAddr) -> bool {
    !peer.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_no_network() {
        let crosses = |peer: &str| crosses_a_network(peer.parse().expect("an address"));
        assert!(!crosses("127.0.0.1:1") && !crosses("[::1]:1") && !crosses("[::ffff:127.0.0.1]:1"));
        assert!(crosses("192.168.1.7:1") && crosses("[fd00::1]:1") && crosses("[::ffff:10.0.0.1]:1"));
    }
}
