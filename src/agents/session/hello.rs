//! The first line: who the client is, and whether it may come in. Before that a connection costs 8 KiB and
//! three seconds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};

use super::{End, FAREWELL_WAIT, Phase, Shared, door, line_fault, stopping};
use crate::agents::access::{ComesAs, Ticket};
use crate::agents::presence::Card;
use crate::store::agents::{AgentRow, Denial};
use crate::store::grants::{self, Kind};
use crate::store::{agents, lease};
use postbell_client::protocol::codec::{LineReader, write_whole};
use postbell_client::protocol::frame::{GROUP_INBOX, Hello, Limits, Welcome, push_line};
use postbell_client::protocol::limits::{
    HEARTBEAT_MS_DEFAULT, HEARTBEAT_MS_MAX, HEARTBEAT_MS_MIN, HELLO_WAIT, HOLD_DEFAULT, HOLD_SECONDS_MAX,
    LINE_BYTES_MAX, PAYLOAD_BYTES_MAX, PROTO, WINDOW_DEFAULT, WINDOW_MAX,
};
use postbell_client::protocol::{ClientFrame, ErrorCode, ProtocolError, ServerFrame};
use postbell_engine::guard::Place;
use postbell_engine::inbox::{Rank, SessionId};

/// The longest hold if the role sets no bound.
const HOLD_MAX: Duration = Duration::from_secs(HOLD_SECONDS_MAX);

/// An agent, or a link, that was let in.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) session: SessionId,
    pub(super) agent: Arc<str>,
    /// The inbox that it takes from, its agent's or a group's. A session has one inbox, so that its window and
    /// its link belong to one owner.
    pub(super) inbox: Arc<str>,
    pub(super) instance: Option<String>,
    /// See [`Event::Join`](postbell_engine::inbox::event::Event::Join).
    pub(super) rank: Option<Rank>,
    pub(super) window: u32,
    /// The longest that it may hold a delivery by extending its deadline.
    pub(super) hold: Duration,
    pub(super) heartbeat: Duration,
    /// The card that the hello told. Taken out when presence is told, and boxed, because an idle session must
    /// not hold memory for it.
    pub(super) card: Option<Box<Card>>,
    /// The permission to be here. A link has none: the broker behind the link has let the agent in.
    pub(super) ticket: Option<Ticket>,
}

impl Greeted {
    /// Whether this is another broker's link, for an agent that is connected there.
    pub(super) fn is_link(&self) -> bool {
        self.ticket.is_none()
    }

    /// Waits until the agent may not be here any more; returns the code.
    pub(super) async fn lost_access(&self) -> ErrorCode {
        match &self.ticket {
            Some(ticket) => ticket.ended().await,
            None => std::future::pending().await,
        }
    }
}

/// Reads the hello, authenticates the client, and says welcome.
pub(super) async fn greet(
    reader: &mut LineReader<impl AsyncRead + Unpin>,
    write: &mut (impl AsyncWrite + Unpin),
    (peer, place): (SocketAddr, Place),
    hello_by: Instant,
    shared: &Shared,
) -> Result<Greeted, End> {
    let hello = read_hello(reader, write, hello_by).await?;
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
    let is_running = matches!(*shared.phase.borrow(), Phase::Running);
    if !is_running && hello.broker.is_none() {
        return Err(End::Refused(stopping()));
    }
    if hello.broker == Some(shared.identity.id) {
        // Such a link would take the place of the agent's own session, which waits for the link.
        return Err(refused(
            ErrorCode::NotOwner,
            "this is the broker that links, by an address that is also another's",
        ));
    }
    let Admitted { session, agent, rank, hold, ticket } = admit(&hello, peer, place, shared).await?;
    let heartbeat_ms =
        hello.heartbeat_ms.unwrap_or(HEARTBEAT_MS_DEFAULT).clamp(HEARTBEAT_MS_MIN, HEARTBEAT_MS_MAX);
    let (inbox, instance) = taken_from(&agent, hello.group.as_deref(), hello.instance);
    let card = Card {
        environment: hello.environment,
        capabilities: hello.capabilities.map(|c| c.to_string()),
        version: hello.version,
    };
    let greeted = Greeted {
        session,
        agent,
        inbox,
        card: (!card.is_empty() && ticket.is_some()).then(|| Box::new(card)),
        ticket,
        instance,
        rank,
        hold,
        window: hello.window.unwrap_or(WINDOW_DEFAULT).min(WINDOW_MAX),
        heartbeat: Duration::from_millis(heartbeat_ms.into()),
    };
    welcome(write, &greeted, &shared.broker).await?;
    // Looked at after the rank was taken: a hello that was given up, read late, would have a higher rank than the session
    // that followed it, and would end that session.
    if reader.has_ended().await {
        return Err(End::Disconnect);
    }
    Ok(greeted)
}

/// A client that may come in: its session's number, and for an agent its permission to be here.
struct Admitted {
    session: SessionId,
    agent: Arc<str>,
    rank: Option<Rank>,
    hold: Duration,
    ticket: Option<Ticket>,
}

async fn admit(hello: &Hello, peer: SocketAddr, place: Place, shared: &Shared) -> Result<Admitted, End> {
    let heard = shared.access.heard();
    let found = match hello.broker {
        Some(broker) => lease::authenticate(&shared.pool, broker, &hello.token)
            .await
            .map(|is_right| if is_right { Ok(None) } else { Err(Denial::NoBroker) }),
        None => {
            agents::authenticate(&shared.pool, &hello.agent, &hello.token).await.map(|agent| agent.map(Some))
        }
    };
    let agent = match found {
        Ok(Ok(agent)) => agent,
        // One answer for an unknown agent, a disabled one and a wrong token, so that the answer does not tell
        // which names exist.
        Ok(Err(denial)) => return Err(door::deny(place, peer, &hello.agent, denial).await),
        Err(e) => {
            tracing::warn!(error = %e, %peer, "an agent could not be authenticated");
            return Err(refused(ErrorCode::Unavailable, "the database cannot be reached; try again"));
        }
    };
    let session = shared.next_id();
    let Some(agent) = agent else {
        let agent = hello.agent.as_str().into();
        let hold = hello.hold_ms.map_or(HOLD_DEFAULT, |ms| Duration::from_millis(ms).min(HOLD_MAX));
        return Ok(Admitted { session, agent, rank: hello.rank, hold, ticket: None });
    };
    if let Some(group) = &hello.group {
        may_take(group, &agent, shared).await?;
    }
    let hold = agent.limits.hold_seconds.map_or(HOLD_MAX, |s| Duration::from_secs(s).min(HOLD_MAX));
    let token = agents::hash(&hello.token);
    let comes_as = ComesAs { instance: hello.instance.as_deref(), group: hello.group.as_deref() };
    let ticket = shared.access.enter_for(session, &agent, token, comes_as, heard);
    let ticket = ticket.map_err(|most| too_many(most, &agent.agent_id))?;
    Ok(Admitted { session, rank: Some(agent.rank), hold, agent: agent.into(), ticket: Some(ticket) })
}

async fn may_take(group: &str, agent: &AgentRow, shared: &Shared) -> Result<(), End> {
    match grants::may_use(&shared.pool, Kind::Group, group, agent).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            let sentence = format!(
                "{0} may not take from the group {group}: `postbell group allow {group} {0}` lets it",
                agent.agent_id
            );
            Err(refused(ErrorCode::Forbidden, sentence))
        }
        Err(e) => {
            tracing::warn!(error = %e, agent = %agent.agent_id, "whether an agent may take from its group could not be read");
            Err(refused(ErrorCode::Unavailable, "the database cannot be reached; try again"))
        }
    }
}

/// The inbox, and the instance within it. Two agents that share a group may have processes of the same name, so
/// in a group the instance is a hash of both names.
pub(super) fn taken_from(
    agent: &Arc<str>,
    group: Option<&str>,
    instance: Option<String>,
) -> (Arc<str>, Option<String>) {
    let Some(group) = group else { return (agent.clone(), instance) };
    let hashed = |instance: String| agents::fingerprint(&format!("{agent}\n{instance}"));
    (format!("{GROUP_INBOX}{group}").into(), instance.map(hashed))
}

/// Reads the hello. A client may ask first, by one `ping`, whether anybody is there.
pub(super) async fn read_hello(
    reader: &mut LineReader<impl AsyncRead + Unpin>,
    write: &mut (impl AsyncWrite + Unpin),
    hello_by: Instant,
) -> Result<Hello, End> {
    let first = read_frame(reader, hello_by).await?;
    let hello = match first {
        ClientFrame::Ping {} => {
            write_frame(write, &ServerFrame::Pong {}).await?;
            read_frame(reader, hello_by).await?
        }
        first => first,
    };
    match hello {
        ClientFrame::Hello(hello) => Ok(hello),
        _ => Err(refused(
            ErrorCode::HelloExpected,
            "the first line must be a hello, or one ping and then a hello",
        )),
    }
}

async fn read_frame(
    reader: &mut LineReader<impl AsyncRead + Unpin>,
    hello_by: Instant,
) -> Result<ClientFrame, End> {
    match timeout_at(hello_by, reader.next_line()).await {
        Ok(Ok(Some(line))) => ClientFrame::decode(&line).map_err(End::Refused),
        Ok(Ok(None)) => Err(End::Disconnect),
        Ok(Err(e)) => Err(line_fault(e)),
        Err(_) => {
            let sentence = format!("no hello came within {} s", HELLO_WAIT.as_secs());
            Err(refused(ErrorCode::HelloTimeout, sentence))
        }
    }
}

pub(super) async fn welcome(
    write: &mut (impl AsyncWrite + Unpin),
    greeted: &Greeted,
    broker: &str,
) -> Result<(), End> {
    let welcome = Welcome {
        proto: PROTO,
        broker: broker.to_owned(),
        session: greeted.session.0,
        limits: Limits {
            line_bytes: LINE_BYTES_MAX,
            payload_bytes: PAYLOAD_BYTES_MAX,
            window: WINDOW_MAX,
            hold_ms: (greeted.hold < HOLD_MAX).then_some(greeted.hold.as_millis() as u64),
        },
        heartbeat_ms: greeted.heartbeat.as_millis() as u32,
    };
    write_frame(write, &ServerFrame::Welcome(welcome)).await
}

async fn write_frame(write: &mut (impl AsyncWrite + Unpin), frame: &ServerFrame) -> Result<(), End> {
    let mut line = Vec::new();
    push_line(&mut line, frame);
    match timeout(FAREWELL_WAIT, write_whole(write, &line)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(End::Disconnect),
    }
}

fn too_many(most: u64, agent: &str) -> End {
    let sentence = format!("{agent} has {most} connections to this broker, as many as its role allows");
    refused(ErrorCode::TooManyConnections, sentence)
}

fn refused(code: ErrorCode, sentence: impl Into<String>) -> End {
    End::Refused(ProtocolError::new(code, sentence))
}

/// Loopback is no network. An IPv4 peer of a socket that listens on both families shows as `::ffff:127.0.0.1`.
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
