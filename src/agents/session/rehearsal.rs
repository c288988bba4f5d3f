//! A session without a broker around it: bytes go in, cut into pieces, and what the session made of them comes
//! out. Any token is accepted, so this is compiled for tests and fuzzing only.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};

use prometheus::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::{End, Phase, Shared, hello, run, say_last};
use crate::agents::access::Access;
use crate::agents::presence::Presence;
use crate::pipeline::dead_letters::{Ask, REQUESTS_MAX};
use crate::pipeline::dispatch::{Input, OUTBOX_MAX};
use crate::pipeline::publisher::Publish;
use crate::store::agents::{AgentRow, RoleLimits, Token, hash};
use crate::store::lease::BrokerRow;
use crate::store::{DatabaseUrl, Pool, Target};
use crate::watch::flow::Flow;
use crate::watch::metrics::Metrics;
use crate::watch::spans::Spans;
use postbell_client::protocol::codec::LineReader;
use postbell_client::protocol::frame::Send;
use postbell_client::protocol::limits::{
    HELLO_LINE_BYTES_MAX, HELLO_WAIT, HOLD_DEFAULT, WINDOW_DEFAULT, WINDOW_MAX,
};
use postbell_engine::guard::{Guard, Places};
use postbell_engine::inbox::Rank;
use postbell_engine::inbox::event::Event;

/// Room for every answer to the bytes of one rehearsal, so that no write waits.
const SOCKET_BYTES: usize = 4 * 1024 * 1024;
/// After so many turns the session has read everything: all of it runs in one task, and nothing waits for a
/// clock.
const TURNS: usize = 100;
/// Never connected to: a rehearsal authenticates without a database.
const NOWHERE: &str = "postgres://nobody@127.0.0.1:1/nothing";

/// Made once, because making them takes a hundred times as long as a session.
static SHARED: LazyLock<(Metrics, Pool)> = LazyLock::new(|| {
    let target = Target::new(DatabaseUrl::parse(NOWHERE).expect("a URL"), "public");
    (Metrics::register(&Registry::new()).expect("a registry of its own"), Pool::new(target, 1))
});

/// The events, messages and bytes that a session made of its input.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The events for the dispatcher.
    pub events: Vec<Event>,
    /// The messages for the publisher.
    pub sends: Vec<Send>,
    /// The requests about dead letters.
    pub asks: Vec<Ask>,
    /// The bytes that it wrote.
    pub written: Vec<u8>,
    /// Whether the session ended only because the bytes ended; otherwise answers may have been lost with it.
    pub ended_with_bytes: bool,
}

/// Plays the pieces to a session, one after the other.
pub(crate) async fn play(pieces: &[&[u8]]) -> Seen {
    let (ours, theirs) = duplex(SOCKET_BYTES);
    let (read, write) = split(ours);
    let (inputs, inputs_rx) = mpsc::channel(OUTBOX_MAX);
    let (publishes, publishes_rx) = mpsc::channel(OUTBOX_MAX);
    let (dead_letters, mut asked) = mpsc::channel(REQUESTS_MAX);
    let (_running, phase) = watch::channel(Phase::Running);
    let shared = Shared {
        broker: "rehearsal".into(),
        identity: BrokerRow {
            id: Uuid::nil(),
            name: String::new(),
            address: String::new(),
            token: Token::random(),
            certificate: None,
        },
        tls: None,
        encrypted: false,
        linked: watch::Sender::new(0),
        access: Access::new(Arc::default()),
        guard: Guard::new(Places { total: 1, per_address: 1 }),
        allow_plaintext: false,
        pool: SHARED.1.clone(),
        inputs,
        publishes,
        dead_letters,
        presence: Presence::new(Uuid::nil()),
        phase,
        metrics: SHARED.0.clone(),
        flow: Flow::new(tokio::time::Instant::now()),
        spans: Spans::default(),
        last_id: AtomicU64::default(),
    };
    let (ended_with_bytes, (), written, events, sends) = tokio::join!(
        serve_as_said(theirs, shared),
        write_pieces(write, pieces),
        read_all(read),
        note_inputs(inputs_rx),
        note_publishes(publishes_rx),
    );
    // Requests are taken only now: an answer would free the agent's turn at some uncertain moment.
    let asks = std::iter::from_fn(|| asked.try_recv().ok()).map(|request| request.ask).collect();
    Seen { events, sends, asks, written, ended_with_bytes }
}

/// As [`super::serve`], without authentication.
async fn serve_as_said(socket: DuplexStream, shared: Shared) -> bool {
    let (read, mut write) = split(socket);
    let mut reader = LineReader::new(read, HELLO_LINE_BYTES_MAX);
    let (end, whole) = match greet_as_said(&mut reader, &mut write, &shared).await {
        Ok(greeted) => run(reader, &mut write, greeted, &shared).await,
        Err(end) => (end, true),
    };
    match end {
        End::Refused(e) if whole => say_last(&mut write, e).await,
        End::Disconnect => return true,
        _ => {}
    }
    false
}

async fn greet_as_said(
    reader: &mut LineReader<ReadHalf<DuplexStream>>,
    write: &mut WriteHalf<DuplexStream>,
    shared: &Shared,
) -> Result<hello::Greeted, End> {
    let said = hello::read_hello(reader, write, Instant::now() + HELLO_WAIT).await?;
    let session = shared.next_id();
    let agent = AgentRow {
        agent_id: said.agent.clone(),
        role: "agent".to_owned(),
        environment: String::new(),
        limits: RoleLimits::default(),
        rank: Rank(0),
    };
    let heard = shared.access.heard();
    let ticket = shared.access.enter(session, &agent, hash(&said.token), None, heard).ok();
    let agent = said.agent.into();
    let (inbox, instance) = hello::taken_from(&agent, said.group.as_deref(), said.instance);
    let greeted = hello::Greeted {
        card: None,
        session,
        ticket,
        agent,
        inbox,
        instance,
        rank: said.rank,
        hold: HOLD_DEFAULT,
        window: said.window.unwrap_or(WINDOW_DEFAULT).min(WINDOW_MAX),
        heartbeat: std::time::Duration::from_secs(600),
    };
    hello::welcome(write, &greeted, &shared.broker).await?;
    Ok(greeted)
}

async fn write_pieces(mut write: WriteHalf<DuplexStream>, pieces: &[&[u8]]) {
    for piece in pieces {
        // The session may have ended: the rest of the pieces is not needed then.
        if write.write_all(piece).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
    let _ = write.shutdown().await;
}

async fn read_all(mut read: ReadHalf<DuplexStream>) -> Vec<u8> {
    let mut written = Vec::new();
    // An error ends the reading just as the end of the stream does.
    let _ = read.read_to_end(&mut written).await;
    written
}

async fn note_inputs(mut inputs: mpsc::Receiver<Input>) -> Vec<Event> {
    let mut events = Vec::new();
    // The outbox is held as by the dispatcher's task, since a session whose outbox is dropped ends.
    let mut outbox = None;
    while let Some(input) = inputs.recv().await {
        events.push(match input {
            Input::Join(joined, event) => {
                outbox = Some(joined);
                event
            }
            Input::Event(event) => event,
            // Sessions send no surveys.
            Input::Survey(_) => continue,
        });
        if matches!(events.last(), Some(Event::Leave { .. })) {
            outbox = None;
        }
    }
    drop(outbox);
    events
}

async fn note_publishes(mut publishes: mpsc::Receiver<Publish>) -> Vec<Send> {
    let mut sends = Vec::new();
    while let Some(publish) = publishes.recv().await {
        sends.push(publish.send);
    }
    sends
}
