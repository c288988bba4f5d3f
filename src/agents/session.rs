//! A session: one agent's connection, from `hello` to the last line.
//!
//! Reading and writing go side by side in one task, so an agent that does not read can still acknowledge, and
//! an agent that does not write can still be pushed to. The agent's words about deliveries go to the
//! dispatcher; its messages go to the publisher.

mod administering;
mod door;
mod hello;
mod link;
mod locking;
#[cfg(any(test, fuzzing))]
pub(crate) mod rehearsal;
mod route;
mod sending;
mod subscribing;
mod writing;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::agents::access::{Access, Ticket};
use crate::agents::presence::{Absence, Presence};
use crate::broker::config::TlsFiles;
use crate::pipeline::dead_letters::{self, Ask};
use crate::pipeline::dispatch::{ForSession, Input, Inputs, OUTBOX_MAX, Outbox};
use crate::pipeline::publisher::Publish;
use crate::store::Pool;
use crate::store::lease::BrokerRow;
use crate::watch::flow::Flow;
use crate::watch::metrics::{CloseReason, Metrics};
use crate::watch::spans::Spans;
use postbell_client::protocol::codec::{LineError, LineReader};
use postbell_client::protocol::frame::{Ack, Begun, Extend, Nack, NackOutcome, Window, push_line};
use postbell_client::protocol::limits::{
    HEARTBEATS_MISSED_MAX, LINE_BYTES_MAX, REASON_BYTES_MAX, WINDOW_MAX,
};
use postbell_client::protocol::secret::redact;
use postbell_client::protocol::{ClientFrame, ErrorCode, ProtocolError, ServerFrame};
use postbell_engine::guard::{Guard, Place};
use postbell_engine::inbox::event::{Event, Request};
use postbell_engine::inbox::{SessionId, Tag};

pub(crate) use door::turn_away;
use link::Link;
pub(crate) use route::Linked;
use route::{Away, OwnerTag, Route};

/// How long the last line may take, since the peer may not read.
const FAREWELL_WAIT: Duration = Duration::from_secs(1);

/// The value that all sessions share, behind one `Arc`.
pub(crate) struct Shared {
    /// This broker's name.
    pub broker: Arc<str>,
    /// This broker's row: its id and credential for links to other brokers.
    pub identity: BrokerRow,
    /// The files of this broker's own certificate, for owners that ask for one.
    pub tls: Option<TlsFiles>,
    /// How many deliveries are in flight over links.
    pub linked: Linked,
    /// Whether the agents' port speaks TLS, so that no token crosses a network in clear.
    pub encrypted: bool,
    /// Whether tokens may come unencrypted from other machines.
    pub allow_plaintext: bool,
    /// For authentication, locks and subscriptions.
    pub pool: Pool,
    /// The places of connections before their hello.
    pub guard: Guard,
    /// The sessions that are in, and may stay.
    pub access: Access,
    /// To the dispatcher.
    pub inputs: Inputs,
    /// To the publisher.
    pub publishes: mpsc::Sender<Publish>,
    /// To the task that administers dead letters.
    pub dead_letters: mpsc::Sender<dead_letters::DeadRequest>,
    /// The agents that are here.
    pub presence: Presence,
    /// How far the broker is with stopping.
    pub phase: watch::Receiver<Phase>,
    /// Counts pushes and ends of sessions.
    pub metrics: Metrics,
    /// Shows pushes to viewers of the status page.
    pub flow: Flow,
    /// Takes the spans of pushes that belong to a trace.
    pub spans: Spans,
    /// The id of the session that began last.
    pub last_id: AtomicU64,
}

/// How far the broker is with stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The broker is not stopping.
    Running,
    /// Each session is asked to leave at a moment of its own within this time, and gets nothing from then on.
    /// New agents are refused; links are accepted, for what is left.
    Draining(Duration),
    /// All sessions are ended.
    Closing,
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    Bye,
    Disconnect,
    Refused(ProtocolError),
}

impl End {
    fn reason(&self) -> CloseReason {
        match self {
            Self::Bye => CloseReason::Bye,
            Self::Disconnect => CloseReason::Disconnect,
            Self::Refused(e) => CloseReason::Refused(e.code),
        }
    }

    /// How the end is told to presence, if this was the agent's last session. A goodbye while the broker stops
    /// only means that the agent goes to another broker.
    fn absence(&self, phase: Phase) -> Absence {
        match self {
            Self::Bye if phase == Phase::Running => Absence::Goodbye,
            Self::Refused(e) => match e.code {
                ErrorCode::Disabled | ErrorCode::RoleChanged => Absence::Disabled,
                ErrorCode::Silent => Absence::Silent,
                _ => Absence::Disconnected,
            },
            Self::Bye | Self::Disconnect => Absence::Disconnected,
        }
    }
}

/// How far the writing is, in case the session ends in the middle of a line.
struct Progress {
    /// The last tag whose line was written whole.
    written: AtomicU64,
    /// False while a line may have been cut.
    whole: AtomicBool,
}

struct Session<'a> {
    id: SessionId,
    agent: Arc<str>,
    /// `None`: the session is a link of another broker.
    ticket: Option<&'a Ticket>,
    shared: &'a Shared,
    route: &'a Route,
    outbox: Outbox,
}

/// Serves a connection, encrypted or not, to its end. The hello must come before `hello_by`.
pub(crate) async fn serve(
    read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    peer: SocketAddr,
    place: Place,
    hello_by: Instant,
    shared: &Shared,
) {
    let mut reader = LineReader::new(read, postbell_client::protocol::limits::HELLO_LINE_BYTES_MAX);
    let (end, whole) = match hello::greet(&mut reader, &mut write, (peer, place), hello_by, shared).await {
        Ok(greeted) => run(reader, &mut write, greeted, shared).await,
        Err(end) => (end, true),
    };
    shared.metrics.closed(end.reason());
    match &end {
        End::Refused(e) => {
            // Busy is not logged: a flood of connections must not become a flood of lines.
            if e.code != ErrorCode::Busy {
                tracing::info!(%peer, code = %e.code, reason = %redact(&e.message), "a connection was refused or ended");
            }
            // After a line that was cut in the middle, another line would be garbage.
            if whole {
                say_last(&mut write, e.clone()).await;
            }
        }
        // Over TLS, a stream that ends without a shutdown looks cut.
        End::Bye | End::Disconnect => {
            let _ = timeout(FAREWELL_WAIT, write.shutdown()).await;
        }
    }
}

/// Refuses a client that speaks in clear to a port that speaks TLS.
pub(crate) async fn refuse_plaintext(
    write: &mut (impl AsyncWrite + Unpin),
    peer: SocketAddr,
    shared: &Shared,
) {
    let sentence = "this port speaks TLS only: use a tcp+tls:// URL. If this line crossed a network, so did its \
                    token, in clear: rotate it by `postbell agent rotate`";
    shared.metrics.closed(CloseReason::Refused(ErrorCode::PlaintextRefused));
    tracing::info!(%peer, "a connection without TLS was refused");
    say_last(write, ProtocolError::new(ErrorCode::PlaintextRefused, sentence)).await;
}

async fn say_last(write: &mut (impl AsyncWrite + Unpin), error: ProtocolError) {
    let mut line = Vec::new();
    let ProtocolError { code, message, reference, retry_ms } = error;
    // Fatal whatever the code: the connection ends here.
    push_line(&mut line, &ServerFrame::Error { code, fatal: true, reference, retry_ms, message });
    let said = async {
        write.write_all(&line).await?;
        write.shutdown().await
    };
    // A peer that is gone, or does not read, needs no last word.
    let _ = timeout(FAREWELL_WAIT, said).await;
}

/// From the welcome to the end. False: the last line may have been cut.
async fn run(
    mut reader: LineReader<impl AsyncRead + Unpin>,
    write: &mut (impl AsyncWrite + Unpin),
    mut greeted: hello::Greeted,
    shared: &Shared,
) -> (End, bool) {
    let (outbox, outgoing) = mpsc::channel(OUTBOX_MAX);
    let id = greeted.session;
    let agent = greeted.agent.clone();
    let join = Event::Join {
        session: id,
        inbox: greeted.inbox.clone(),
        instance: greeted.instance.clone(),
        window: greeted.window,
        hold: greeted.hold,
        link: greeted.is_link(),
        rank: greeted.rank,
    };
    if shared.inputs.send(Input::Join(outbox.clone(), join)).await.is_err() {
        return (End::Refused(stopping()), true);
    }
    if greeted.is_link() {
        tracing::info!(session = id.0, %agent, "another broker linked to an inbox");
    } else {
        shared.presence.joined(&agent, greeted.card.take().map(|card| *card));
        tracing::info!(session = id.0, %agent, window = greeted.window, "an agent connected");
    }
    reader.set_limit(LINE_BYTES_MAX);
    // The dispatcher holds the outbox. When it drops the outbox, this session has no place any more and ends;
    // only sends that are under way keep the outbox, until they are answered.
    let weak = outbox.downgrade();
    drop(outbox);
    let progress = Progress { written: AtomicU64::new(0), whole: AtomicBool::new(true) };
    let silence = greeted.heartbeat * HEARTBEATS_MISSED_MAX;
    let route = Route::new(greeted.window, shared.linked.clone());
    let mut link = Link::new(&greeted, shared, &route, weak.clone());
    // One is enough: the session has one owner at a time.
    let (elsewhere, owners) = mpsc::channel(1);
    let end = tokio::select! {
        end = read_lines(&mut reader, silence, &greeted, shared, &route, &weak) => end,
        end = writing::write_lines(write, outgoing, elsewhere, &greeted, shared, &route, &progress) => end,
        end = link.follow(owners) => end,
        code = greeted.lost_access() => End::Refused(lost_access(code)),
    };
    if !greeted.is_link() {
        shared.presence.left(&agent, end.absence(*shared.phase.borrow()));
    }
    use ErrorCode::{Disabled, RoleChanged, Stopping};
    let by_broker = matches!(&end, End::Refused(e) if matches!(e.code, Stopping | Disabled | RoleChanged));
    let written = Tag(progress.written.into_inner());
    let leave = Event::Leave { session: id, written, by_broker };
    // The dispatcher's task may be gone; then the session has left already.
    let _ = shared.inputs.send(Input::Event(leave)).await;
    link.farewell(written, by_broker).await;
    tracing::info!(session = id.0, %agent, reason = end.reason().as_str(), "a session ended");
    (end, progress.whole.into_inner())
}

async fn read_lines(
    reader: &mut LineReader<impl AsyncRead + Unpin>,
    silence: Duration,
    greeted: &hello::Greeted,
    shared: &Shared,
    route: &Route,
    outbox: &mpsc::WeakSender<ForSession>,
) -> End {
    loop {
        let line = match timeout(silence, reader.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None)) => return End::Disconnect,
            Ok(Err(e)) => return line_fault(e),
            Err(_) => {
                let sentence = format!("nothing came for {} ms; send ping when idle", silence.as_millis());
                return End::Refused(ProtocolError::new(ErrorCode::Silent, sentence));
            }
        };
        let Some(outbox) = outbox.upgrade() else { return End::Refused(slow_reader()) };
        let (id, agent) = (greeted.session, greeted.agent.clone());
        let session = Session { id, agent, ticket: greeted.ticket.as_ref(), shared, route, outbox };
        if let Err(end) = session.take(&line).await {
            return end;
        }
    }
}

fn line_fault(e: LineError) -> End {
    match e {
        LineError::TooLong(limit) => {
            let sentence = format!("a line is longer than {limit} bytes");
            End::Refused(ProtocolError::new(ErrorCode::LineTooLong, sentence))
        }
        LineError::Io(_) => End::Disconnect,
    }
}

fn slow_reader() -> ProtocolError {
    let sentence = "this client does not read what is written to it";
    ProtocolError::new(ErrorCode::SlowReader, sentence)
}

fn stopping() -> ProtocolError {
    ProtocolError::new(ErrorCode::Stopping, "the broker is stopping; connect again")
}

fn lost_access(code: ErrorCode) -> ProtocolError {
    let sentence = match code {
        ErrorCode::RoleChanged => {
            "this agent's role, or who may take from its group, was changed; connect again to have it so"
        }
        _ => {
            "this agent was disabled or removed, or the token it came in with is void; ask whoever runs the broker"
        }
    };
    ProtocolError::new(code, sentence)
}

impl Session<'_> {
    async fn take(self, line: &[u8]) -> Result<(), End> {
        let frame = match ClientFrame::decode(line) {
            Ok(frame) => frame,
            Err(e) => return self.answer(e.into()),
        };
        match frame {
            ClientFrame::Hello(_) => {
                let sentence = "this session has said hello already";
                self.answer(ProtocolError::new(ErrorCode::AlreadyWelcome, sentence).into())
            }
            ClientFrame::Send(send) => self.send(send).await,
            // On the heap, as the four below: an idle session must not hold room for rare requests.
            ClientFrame::Subscribe(topic) => Box::pin(self.subscribe(topic, true)).await,
            ClientFrame::Unsubscribe(topic) => Box::pin(self.subscribe(topic, false)).await,
            ClientFrame::Acquire(asked) => Box::pin(self.acquire(asked)).await,
            ClientFrame::Release(asked) => Box::pin(self.release(asked)).await,
            ClientFrame::Ack(ack) => {
                let tags = ack.tag.into_iter().chain(ack.tags).collect();
                self.ack(tags, ack.reference).await
            }
            ClientFrame::Nack(nack) => match self.route.take(nack.tag) {
                Some(away) => away.say(|tag| ClientFrame::Nack(Nack { tag: tag.to_say(), ..nack })).await,
                None => self.request(nack_request(nack)).await,
            },
            ClientFrame::Extend(Extend { tag, ms }) => {
                let by = Duration::from_millis(ms);
                match self.route.extend(tokio::time::Instant::now(), tag, by) {
                    Some(away) => away.say(|tag| ClientFrame::Extend(Extend { tag: tag.to_say(), ms })).await,
                    None => self.request(Request::Extend { tag, by }).await,
                }
            }
            ClientFrame::Begun(Begun { tag, tags }) => {
                let (tags, away) = self.route.begun(tag.into_iter().chain(tags).collect());
                if let Some(away) = away {
                    away.say(|tags| ClientFrame::Begun(Begun { tag: None, tags: to_say(tags) })).await?;
                }
                self.request(Request::Begun { tags }).await
            }
            ClientFrame::Window(window) => {
                let n = window.n.min(WINDOW_MAX);
                if let Some(frames) = self.route.set_window(n) {
                    // A link that has just closed ignores this: the next link begins with this window.
                    let _ = frames.send(ClientFrame::Window(Window { n })).await;
                }
                self.request(Request::Window(n)).await
            }
            ClientFrame::Dead(dead) => self.dead(dead),
            ClientFrame::Redrive(chosen) => self.settle_dead(chosen, Ask::Redrive),
            ClientFrame::Purge(chosen) => self.settle_dead(chosen, Ask::Purge),
            ClientFrame::Ping {} => self.answer(ServerFrame::Pong {}),
            ClientFrame::Pong {} => Ok(()),
            ClientFrame::Bye {} => Err(End::Bye),
        }
    }

    /// A client that asks without reading the answers is closed as a slow reader, rather than held in memory.
    fn answer(&self, frame: ServerFrame) -> Result<(), End> {
        self.outbox.try_send(ForSession::Frame(frame)).map_err(|_| End::Refused(slow_reader()))
    }

    /// Acknowledges; the tags that came over the link go to the owner. If tags of both brokers are named, which
    /// happens only after a change of ownership, `acked` confirms the owner's tags, since those are settled
    /// later.
    async fn ack(&self, tags: Vec<Tag>, reference: Option<String>) -> Result<(), End> {
        let (tags, away) = self.route.split(tags, reference.as_ref());
        let Some(away) = away else { return self.request(Request::Ack { tags, reference }).await };
        if !tags.is_empty() {
            self.request(Request::Ack { tags, reference: None }).await?;
        }
        away.say(|tags| ClientFrame::Ack(Ack { tag: None, tags: to_say(tags), reference })).await
    }

    async fn request(&self, request: Request) -> Result<(), End> {
        let event = Event::Request { session: self.id, request };
        self.shared.inputs.send(Input::Event(event)).await.map_err(|_| End::Refused(stopping()))
    }
}

impl<T> Away<T> {
    /// Tells the owner. If the link has just closed, the owner gives the delivery back itself.
    async fn say(self, frame: impl FnOnce(T) -> ClientFrame) -> Result<(), End> {
        let _ = self.frames.send(frame(self.tags)).await;
        Ok(())
    }
}

fn to_say(tags: Vec<OwnerTag>) -> Vec<Tag> {
    tags.into_iter().map(OwnerTag::to_say).collect()
}

fn nack_request(nack: Nack) -> Request {
    let Nack { tag, outcome, delay_ms, reason } = nack;
    let delay = delay_ms.map(Duration::from_millis);
    let reason = || {
        let mut reason = reason.unwrap_or_else(|| "the agent gave no reason".to_owned());
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        // Postgres text cannot hold a zero character.
        reason.replace('\0', "\u{fffd}")
    };
    match outcome {
        NackOutcome::Release => Request::Release { tag, delay: delay.unwrap_or_default() },
        NackOutcome::Fail => Request::Fail { tag, delay, reason: reason() },
        NackOutcome::Dead => Request::Dead { tag, reason: reason() },
    }
}

impl Shared {
    fn next_id(&self) -> SessionId {
        SessionId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1)
    }
}
