//! Writes deliveries and answers to the socket, all that wait by one write.

use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until, timeout};

use super::hello::Greeted;
use super::route::Route;
use super::{End, Phase, Progress, Shared, slow_reader, stopping};
use crate::pipeline::dispatch::{ForSession, Input};
use crate::watch::spans::Step;
use postbell_client::protocol::codec::write_whole;
use postbell_client::protocol::frame::{Send, Window, push_line, push_msg};
use postbell_client::protocol::limits::{ENVELOPE_BYTES_MAX, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
use postbell_client::protocol::written::fits;
use postbell_client::protocol::{ClientFrame, ErrorCode, ProtocolError, ServerFrame};
use postbell_engine::inbox::Tag;
use postbell_engine::inbox::event::{Event, Owner, Push};

/// The longest that one write may take; then the session is closed as a slow reader.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// A client that is asked to leave connects again within this time, at a moment of its own.
const DRAIN_WITHIN: Duration = Duration::from_millis(200);
/// The most lines of one write.
const LINES_AT_ONCE: usize = 256;
/// A buffer that grew over this is given back, because most sessions are idle most of the time.
const BUFFER_BYTES_KEPT: usize = 16 * 1024;

/// Refuses a message that would not fit into a `msg` line for its recipient.
pub(super) fn check_size(send: &Send) -> Result<(), ProtocolError> {
    let payload = send.payload.get().len();
    let headers = send.headers.as_ref().map_or(0, |h| h.get().len());
    if payload > PAYLOAD_BYTES_MAX {
        let sentence = format!("the payload has {payload} bytes, at most {PAYLOAD_BYTES_MAX} are allowed");
        return Err(ProtocolError::new(ErrorCode::PayloadTooLarge, sentence));
    }
    if !fits(send.payload.get(), PAYLOAD_BYTES_MAX) {
        return Err(ProtocolError::new(
            ErrorCode::PayloadTooLarge,
            written_out("payload", PAYLOAD_BYTES_MAX),
        ));
    }
    // JSON's escapes may double a name, or make it six times as long if it has control characters.
    let room = ENVELOPE_BYTES_MAX - 6 * 3 * NAME_BYTES_MAX;
    if headers > room {
        let sentence = format!("the headers have {headers} bytes, at most {room} are allowed");
        return Err(ProtocolError::new(ErrorCode::PayloadTooLarge, sentence));
    }
    if send.headers.as_ref().is_some_and(|h| !fits(h.get(), room)) {
        return Err(ProtocolError::new(ErrorCode::PayloadTooLarge, written_out("headers", room)));
    }
    Ok(())
}

fn written_out(what: &str, most: usize) -> String {
    format!(
        "the {what} would have more than {most} bytes as the database writes them: numbers are written out, so that 1e5 \
         is 100000, and a comma or a colon has a space behind it"
    )
}

/// Writes until the session must end.
pub(super) async fn write_lines(
    write: &mut (impl AsyncWrite + Unpin),
    mut outgoing: mpsc::Receiver<ForSession>,
    elsewhere: mpsc::Sender<(Owner, Tag)>,
    greeted: &Greeted,
    shared: &Shared,
    route: &Route,
    progress: &Progress,
) -> End {
    let mut phase = shared.phase.clone();
    let mut drain_at = None;
    let mut waiting = Vec::with_capacity(8);
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            n = outgoing.recv_many(&mut waiting, LINES_AT_ONCE) => if n == 0 {
                return End::Refused(slow_reader());
            },
            changed = phase.changed() => match (changed, *phase.borrow_and_update()) {
                (Ok(()), Phase::Running) => {}
                (Ok(()), Phase::Draining(spread)) => drain_at = Some(moment(greeted, spread)),
                (_, Phase::Closing) | (Err(_), _) => {
                    // Answers that were given before this are written before the last line.
                    while let Ok(last) = outgoing.try_recv() {
                        waiting.push(last);
                    }
                    waiting.push(ForSession::Close(stopping()));
                }
            },
            () = sleep_until(drain_at.unwrap_or_else(Instant::now)), if drain_at.is_some() => {
                drain_at = None;
                stop_pushing(greeted, shared, route).await;
                push_line(&mut buffer, &ServerFrame::Drain { after_ms: DRAIN_WITHIN.as_millis() as u64 });
            }
            () = sleep(greeted.heartbeat) => push_line(&mut buffer, &ServerFrame::Ping {}),
        }
        let lines = encode(&mut buffer, &mut waiting);
        if let Some(owner) = lines.elsewhere {
            // The link takes one owner before it asks for another, so there is always room.
            let _ = elsewhere.try_send(owner);
        }
        progress.whole.store(false, Ordering::Relaxed);
        match timeout(WRITE_WAIT, write_whole(write, &buffer)).await {
            Ok(Ok(())) => progress.whole.store(true, Ordering::Relaxed),
            Ok(Err(_)) => return End::Disconnect,
            Err(_) => return End::Refused(slow_reader()),
        }
        if let Some(last) = lines.last_tag {
            progress.written.store(last.0, Ordering::Relaxed);
        }
        note(&lines.pushes, greeted, shared);
        if let Some(error) = lines.close {
            return End::Refused(error);
        }
        buffer.clear();
        buffer.shrink_to(BUFFER_BYTES_KEPT);
    }
}

/// When this session is asked to leave. Agents are spread over the time, so that they do not all reach the next
/// broker at once. Links come last: their brokers can have an inbox only once this broker's agents have left
/// it.
fn moment(greeted: &Greeted, spread: Duration) -> Instant {
    let share = if greeted.is_link() { 1.0 } else { rand::random::<f64>() };
    Instant::now() + spread.mul_f64(share)
}

async fn stop_pushing(greeted: &Greeted, shared: &Shared, route: &Route) {
    if let Some(frames) = route.set_window(0) {
        // A link that has just closed pushes nothing either.
        let _ = frames.send(ClientFrame::Window(Window { n: 0 })).await;
    }
    // The dispatcher's task may be gone; then nothing is pushed either.
    let _ = shared.inputs.send(Input::Event(Event::Drain(greeted.session))).await;
}

/// The facts about the lines that were encoded.
#[derive(Default)]
struct Lines {
    pushes: Vec<Push>,
    last_tag: Option<Tag>,
    elsewhere: Option<(Owner, Tag)>,
    /// The last line, if the session ends with it.
    close: Option<ProtocolError>,
}

fn encode(buffer: &mut Vec<u8>, waiting: &mut Vec<ForSession>) -> Lines {
    let mut lines = Lines::default();
    for outgoing in waiting.drain(..) {
        match outgoing {
            ForSession::Push(push) => {
                let deadline_ms = push.deadline.as_millis() as u64;
                push_msg(buffer, push.tag, push.attempt.number(), deadline_ms, &push.body);
                lines.last_tag = Some(push.tag);
                lines.pushes.push(push);
            }
            ForSession::Relayed(tag, line) => {
                buffer.extend_from_slice(&line);
                lines.last_tag = Some(tag);
            }
            ForSession::Elsewhere(owner, last_tag) => lines.elsewhere = Some((owner, last_tag)),
            ForSession::Frame(frame) => push_line(buffer, &frame),
            ForSession::Answer(frame, _turn) => push_line(buffer, &*frame),
            // Lines behind this one are not written, and deliveries among them are given back.
            ForSession::Close(error) => {
                lines.close = Some(error);
                return lines;
            }
        }
    }
    lines
}

fn note(pushes: &[Push], greeted: &Greeted, shared: &Shared) {
    let now = Instant::now();
    // A link's session knows the inbox and not the agent.
    let agent = (!greeted.is_link() && greeted.agent != greeted.inbox).then_some(&*greeted.agent);
    shared.flow.pushed(now, &greeted.inbox, agent, pushes);
    for push in pushes {
        let (age, at) = push.age;
        let since = now.saturating_duration_since(Instant::from_std(at));
        shared.metrics.delivery_seconds.observe((age + since).as_secs_f64());
        shared.metrics.wait_seconds.observe((push.waited + since).as_secs_f64());
        if let Some(trace) = &push.trace {
            let (agent, took) = (&*greeted.inbox, age + since);
            shared.spans.done(trace, Step { name: "deliver", agent, took, attempt: push.attempt.number() });
        }
    }
    shared.metrics.pushed.inc_by(pushes.len() as u64);
}
