//! A link: an ordinary session at the broker that owns the inbox, under this broker's credential. Deliveries
//! that the owner pushes are written to the agent under tags of this session, and what the agent says about
//! them is passed back.
//!
//! Each session has a link of its own. Windows, deadlines and slow readers therefore stay the owner's business,
//! session by session, and nothing is dispatched twice.

use std::future::pending;
use std::time::Duration;
use tokio::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout};

use super::hello::Greeted;
use super::route::{OwnerTag, Route};
use super::{End, FAREWELL_WAIT, Phase, Shared, slow_reader};
use crate::base::pace::Pace;
use crate::pipeline::dispatch::{ForSession, Input};
use postbell_client::connection::BrokerConnection;
use postbell_client::protocol::codec::write_whole;
use postbell_client::protocol::frame::{Nack, NackOutcome, push_line, retag_msg};
use postbell_client::protocol::limits::HEARTBEATS_MISSED_MAX;
use postbell_client::protocol::{ClientFrame, ErrorCode, ProtocolError, ServerFrame};
use postbell_client::{Builder, ClientError};
use postbell_engine::inbox::Tag;
use postbell_engine::inbox::event::{Event, Owner, Trouble};

/// An owner that does not welcome a link within this time counts as lost. Together with the lease of a dead
/// owner (3 s) and one more attempt, this must stay under the promised 5 s.
const LINK_WAIT: Duration = Duration::from_millis(500);
/// Both sides of a link say something so often. Twice as long a silence ends the link, at about the time at
/// which the lease of an owner that died silently ends.
const LINK_HEARTBEAT: Duration = Duration::from_millis(1_500);
/// After a link that stood for so long, the next attempt comes after the first wait again.
const GOOD_AFTER: Duration = Duration::from_secs(1);
const AGAIN_FIRST: Duration = Duration::from_millis(20);
const AGAIN_MAX: Duration = Duration::from_millis(250);
const FRAMES_AT_ONCE: usize = 64;

/// The link of one session, to one owner after another.
pub(super) struct Link<'a> {
    greeted: &'a Greeted,
    shared: &'a Shared,
    route: &'a Route,
    outbox: mpsc::WeakSender<ForSession>,
    connection: Option<BrokerConnection>,
    /// The agent's lines to the owner.
    frames: Option<mpsc::Receiver<ClientFrame>>,
    /// False while a line to the owner may have been cut.
    whole: bool,
    /// The highest tag of this session so far.
    last_tag: Tag,
    pace: Pace,
    /// How many attempts were made, which is added to the rank: of two attempts the later one counts, whichever
    /// arrives first.
    attempts: i64,
}

/// How a link was lost, while the session goes on.
#[derive(Debug)]
enum Lost {
    /// The owner gave the inbox up.
    GivenUp,
    /// The owner cannot be reached, or was cut off.
    Cut(Trouble),
}

/// How a link that stood was lost.
#[derive(Clone, Copy, Debug)]
enum Parted {
    /// The owner gave the inbox up.
    GivenUp,
    /// The line was cut, or made no sense.
    Cut,
}

impl<'a> Link<'a> {
    pub(super) fn new(
        greeted: &'a Greeted,
        shared: &'a Shared,
        route: &'a Route,
        outbox: mpsc::WeakSender<ForSession>,
    ) -> Self {
        let pace = Pace::new(AGAIN_FIRST, AGAIN_MAX);
        Self {
            greeted,
            shared,
            route,
            outbox,
            connection: None,
            frames: None,
            whole: true,
            last_tag: Tag::NONE,
            pace,
            attempts: 0,
        }
    }

    /// Links to each owner that the session is told of, until a link ends the session.
    pub(super) async fn follow(&mut self, mut elsewhere: mpsc::Receiver<(Owner, Tag)>) -> End {
        while let Some((owner, last_tag)) = elsewhere.recv().await {
            if !matches!(*self.shared.phase.borrow(), Phase::Running) {
                // This broker is stopping: the agent finishes what it has and goes to another broker itself.
                break;
            }
            self.last_tag = last_tag;
            self.attempts += 1;
            // On the heap: the states are kilobytes, and most sessions never link.
            let lost = match Box::pin(self.connect(&owner)).await {
                Ok(connection) => match Box::pin(self.relay(connection, owner.broker)).await {
                    Ok(lost) => lost,
                    Err(end) => return end,
                },
                Err(lost) => lost,
            };
            sleep(self.pace.next_wait()).await;
            let (session, above) = (self.greeted.session, self.last_tag);
            let rejoin = Event::Rejoin { session, above, trouble: lost.trouble() };
            if self.shared.inputs.send(Input::Event(rejoin)).await.is_err() {
                break;
            }
        }
        pending().await
    }

    /// How to call the owner, as its row says: over TLS if it has a certificate, and then only with that
    /// certificate.
    fn caller(&self, owner: &Owner) -> Builder {
        let identity = &self.shared.identity;
        let scheme = if owner.certificate.is_some() { "tcp+tls" } else { "tcp" };
        let url = format!("{scheme}://{}", owner.address);
        let mut builder = Builder::new(&url, &self.greeted.inbox, identity.token.reveal())
            .broker(
                identity.id,
                self.greeted.rank.map(|rank| rank.of_attempt(self.attempts)),
                self.greeted.hold,
            )
            .window(self.route.window())
            .heartbeat(LINK_HEARTBEAT);
        if let Some(instance) = &self.greeted.instance {
            builder = builder.instance(instance);
        }
        if let Some(pin) = &owner.certificate {
            builder = builder.pin_sha256(pin);
            // An owner that asks its clients for a certificate is shown this broker's own.
            if let Some(files) = &self.shared.tls {
                builder = builder.client_certificate(&files.certificate, &files.key);
            }
        }
        builder
    }

    async fn connect(&self, owner: &Owner) -> Result<BrokerConnection, Lost> {
        let opened = timeout(LINK_WAIT, self.caller(owner).open()).await;
        let error = match opened.unwrap_or(Err(ClientError::Timeout(LINK_WAIT))) {
            Ok(connection) => return Ok(connection),
            Err(e) => e,
        };
        let agent = &self.greeted.agent;
        tracing::info!(%error, %agent, owner = %owner.address, "no link to the owner of this inbox");
        Err(match error {
            ClientError::Refused { code: ErrorCode::NotOwner | ErrorCode::Stopping, .. } => Lost::GivenUp,
            ClientError::Unreachable { kind, .. } => {
                let refuses = kind == std::io::ErrorKind::ConnectionRefused;
                Lost::Cut(Trouble { owner: owner.broker, refuses })
            }
            _ => Lost::Cut(Trouble { owner: owner.broker, refuses: false }),
        })
    }

    /// Passes lines on, both ways, for as long as the link stands.
    async fn relay(&mut self, connection: BrokerConnection, owner: uuid::Uuid) -> Result<Lost, End> {
        let base = self.last_tag;
        self.frames = Some(self.route.open(base));
        self.connection = Some(connection);
        self.shared.metrics.links.inc();
        tracing::info!(session = self.greeted.session.0, agent = %self.greeted.agent, %owner, "linked to the owner");
        let since = Instant::now();
        let ended = self.pass_on().await;
        self.shared.metrics.links.dec();
        self.connection = None;
        self.frames = None;
        self.whole = true;
        for reference in self.route.close().references {
            let sentence =
                "the inbox moved to another broker before this was confirmed; it may be delivered again";
            let error = ProtocolError::new(ErrorCode::Unavailable, sentence).for_ref(Some(reference));
            self.hand_over(ForSession::Frame(error.into()))?;
        }
        if since.elapsed() > GOOD_AFTER {
            self.pace.reset();
        }
        let how = ended?;
        tracing::info!(session = self.greeted.session.0, agent = %self.greeted.agent, lost = ?how, "the link to the owner ended");
        Ok(match how {
            Parted::GivenUp => Lost::GivenUp,
            Parted::Cut => Lost::Cut(Trouble { owner, refuses: false }),
        })
    }

    async fn pass_on(&mut self) -> Result<Parted, End> {
        let heartbeat = LINK_HEARTBEAT;
        let (mut heard_at, mut wrote_at) = (Instant::now(), Instant::now());
        let (mut batch, mut buffer) = (Vec::new(), Vec::new());
        loop {
            let (Some(connection), Some(frames)) = (self.connection.as_mut(), self.frames.as_mut()) else {
                return Ok(Parted::Cut);
            };
            tokio::select! {
                line = connection.reader.next_line() => {
                    let Ok(Some(line)) = line else { return Ok(Parted::Cut) };
                    heard_at = Instant::now();
                    if let Some(parted) = self.hear(&line, &mut buffer)? {
                        return Ok(parted);
                    }
                }
                _ = frames.recv_many(&mut batch, FRAMES_AT_ONCE) => {
                    batch.drain(..).for_each(|frame| push_line(&mut buffer, &frame));
                }
                () = sleep_until(wrote_at + heartbeat / 2) => push_line(&mut buffer, &ClientFrame::Ping {}),
                () = sleep_until(heard_at + heartbeat * HEARTBEATS_MISSED_MAX) => return Ok(Parted::Cut),
            }
            if !buffer.is_empty() {
                if !self.write(&buffer).await {
                    return Ok(Parted::Cut);
                }
                wrote_at = Instant::now();
                buffer.clear();
            }
        }
    }

    /// Takes a line of the owner; `None`: the link goes on.
    fn hear(&mut self, line: &[u8], answers: &mut Vec<u8>) -> Result<Option<Parted>, End> {
        let Ok(frame) = ServerFrame::decode(line) else { return Ok(Some(Parted::Cut)) };
        match frame {
            Some(ServerFrame::Msg(msg)) => {
                let deadline = Duration::from_millis(msg.deadline_ms);
                let Some(tag) = self.route.pushed(Instant::now(), OwnerTag::said(msg.tag), deadline) else {
                    return Ok(Some(Parted::Cut));
                };
                let Some(line) = retag_msg(line, tag) else { return Ok(Some(Parted::Cut)) };
                self.last_tag = tag;
                self.hand_over(ForSession::Relayed(tag, line))?;
            }
            Some(ServerFrame::Acked { reference }) => {
                self.route.answered(&reference);
                self.hand_over(ForSession::Frame(ServerFrame::Acked { reference }))?;
            }
            Some(ServerFrame::Error { code: ErrorCode::TakenOver, message, .. }) => {
                return Err(End::Refused(ProtocolError::new(ErrorCode::TakenOver, message)));
            }
            Some(ServerFrame::Error { code: ErrorCode::NotOwner | ErrorCode::Stopping, .. }) => {
                return Ok(Some(Parted::GivenUp));
            }
            Some(ServerFrame::Error { fatal: true, .. }) => return Ok(Some(Parted::Cut)),
            Some(ServerFrame::Error { code, reference, .. }) => {
                if let Some(reference) = &reference {
                    self.route.answered(reference);
                }
                // The owner's own sentence names the owner's tags, which mean nothing to this agent.
                let sentence = "the inbox's owner refused it: settled before, or its deadline passed";
                let error = ProtocolError::new(code, sentence).for_ref(reference);
                self.hand_over(ForSession::Frame(error.into()))?;
            }
            Some(ServerFrame::Ping {}) => push_line(answers, &ClientFrame::Pong {}),
            _ => {}
        }
        Ok(None)
    }

    fn hand_over(&self, outgoing: ForSession) -> Result<(), End> {
        let slow = || End::Refused(slow_reader());
        self.outbox.upgrade().ok_or_else(slow)?.try_send(outgoing).map_err(|_| slow())
    }

    async fn write(&mut self, buffer: &[u8]) -> bool {
        let Some(connection) = self.connection.as_mut() else { return false };
        self.whole = false;
        let written = timeout(LINK_WAIT, write_whole(&mut connection.writer, buffer)).await;
        self.whole = matches!(written, Ok(Ok(())));
        self.whole
    }

    /// The session ended: deliveries that the agent did not see are given back, and the owner fails the others.
    pub(super) async fn farewell(mut self, written: Tag, by_broker: bool) {
        let left = self.route.close();
        if self.connection.is_none() {
            return;
        }
        self.shared.metrics.links.dec();
        let mut buffer = Vec::new();
        // The agent's last lines may not have been passed on.
        while let Some(frame) = self.frames.as_mut().and_then(|frames| frames.try_recv().ok()) {
            push_line(&mut buffer, &frame);
        }
        for (theirs, tag) in left.in_flight {
            if by_broker || tag > written {
                let release = Nack {
                    tag: theirs.to_say(),
                    outcome: NackOutcome::Release,
                    delay_ms: None,
                    reason: None,
                };
                push_line(&mut buffer, &ClientFrame::Nack(release));
            }
        }
        push_line(&mut buffer, &ClientFrame::Bye {});
        // After a line that was cut in the middle, another line would be garbage.
        if !self.whole || !self.write(&buffer).await {
            return;
        }
        let Some(BrokerConnection { mut reader, mut writer, .. }) = self.connection.take() else { return };
        // Closing with unread bytes would reset the connection, and could lose the last lines.
        let end = async {
            let _ = writer.shutdown().await;
            while let Ok(Some(_)) = reader.next_line().await {}
        };
        let _ = timeout(FAREWELL_WAIT, end).await;
    }
}

impl Lost {
    fn trouble(self) -> Option<Trouble> {
        match self {
            Self::GivenUp => None,
            Self::Cut(trouble) => Some(trouble),
        }
    }
}
