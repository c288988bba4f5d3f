//! What goes to the socket: deliveries and answers, as many as wait by one write.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::hello::Greeted;
use super::{End, Phase, Progress, Sessions, slow_reader, stopping};
use crate::dispatch::Outgoing;
use crate::inbox::event::Push;
use crate::protocol::codec::write_whole;
use crate::protocol::frame::{Send, push_line, push_msg};
use crate::protocol::limits::{ENVELOPE_BYTES_MAX, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
use crate::protocol::{ErrorCode, ProtocolError, ServerFrame};

/// How long one write may take before its session is closed as a slow reader.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// Lines of one write.
const LINES_AT_ONCE: usize = 256;
/// A buffer that grew over this is given back: most sessions are idle most of the time.
const BUFFER_BYTES_KEPT: usize = 16 * 1024;

/// Refuses what would not fit into a `msg` line for its recipient.
pub(super) fn check_size(send: &Send) -> Result<(), ProtocolError> {
    let payload = send.payload.get().len();
    let headers = send.headers.as_ref().map_or(0, |h| h.get().len());
    if payload > PAYLOAD_BYTES_MAX {
        let sentence = format!("the payload has {payload} bytes, at most {PAYLOAD_BYTES_MAX} are allowed");
        return Err(ProtocolError::new(ErrorCode::PayloadTooLarge, sentence));
    }
    // Names may double by JSON's escapes, or grow sixfold for control characters.
    let room = ENVELOPE_BYTES_MAX - 6 * 3 * NAME_BYTES_MAX;
    if headers > room {
        let sentence = format!("the headers have {headers} bytes, at most {room} are allowed");
        return Err(ProtocolError::new(ErrorCode::PayloadTooLarge, sentence));
    }
    Ok(())
}

/// Writes until the session is to end.
pub(super) async fn write_lines(
    write: &mut (impl AsyncWrite + Unpin),
    mut outgoing: mpsc::Receiver<Outgoing>,
    greeted: &Greeted,
    shared: &Sessions,
    progress: &Progress,
) -> End {
    let mut phase = shared.phase.clone();
    let mut waiting = Vec::with_capacity(8);
    let mut buffer = Vec::new();
    loop {
        tokio::select! {
            n = outgoing.recv_many(&mut waiting, LINES_AT_ONCE) => if n == 0 {
                return End::Refused(slow_reader());
            },
            changed = phase.changed() => match (changed, *phase.borrow_and_update()) {
                (Ok(()), Phase::Running) => {}
                (Ok(()), Phase::Draining(after)) => push_line(&mut buffer, &drain(after)),
                (_, Phase::Closing) | (Err(_), _) => {
                    // What was answered before this is written before it.
                    while let Ok(last) = outgoing.try_recv() {
                        waiting.push(last);
                    }
                    waiting.push(Outgoing::Close(stopping()));
                }
            },
            () = tokio::time::sleep(greeted.heartbeat) => push_line(&mut buffer, &ServerFrame::Ping {}),
        }
        let (pushes, close) = encode(&mut buffer, &mut waiting);
        progress.whole.store(false, Ordering::Relaxed);
        match timeout(WRITE_WAIT, write_whole(write, &buffer)).await {
            Ok(Ok(())) => progress.whole.store(true, Ordering::Relaxed),
            Ok(Err(_)) => return End::Disconnect,
            Err(_) => return End::Refused(slow_reader()),
        }
        note(&pushes, shared, progress);
        if let Some(error) = close {
            return End::Refused(error);
        }
        buffer.clear();
        buffer.shrink_to(BUFFER_BYTES_KEPT);
    }
}

fn drain(after: Duration) -> ServerFrame {
    ServerFrame::Drain { after_ms: after.as_millis() as u64 }
}

/// Appends the lines; gives back the deliveries among them, and the last word if there is one.
fn encode(buffer: &mut Vec<u8>, waiting: &mut Vec<Outgoing>) -> (Vec<Push>, Option<ProtocolError>) {
    let mut pushes = Vec::new();
    for outgoing in waiting.drain(..) {
        match outgoing {
            Outgoing::Push(push) => {
                let deadline_ms = push.deadline.as_millis() as u64;
                push_msg(buffer, push.tag, push.attempt, deadline_ms, &push.body);
                pushes.push(push);
            }
            Outgoing::Frame(frame) => push_line(buffer, &frame),
            // What came after it is not written: the deliveries among it are given back.
            Outgoing::Close(error) => return (pushes, Some(error)),
        }
    }
    (pushes, None)
}

fn note(pushes: &[Push], shared: &Sessions, progress: &Progress) {
    let now = Instant::now();
    for push in pushes {
        let (age, at) = push.age;
        shared.metrics.delivery_seconds.observe((age + now.duration_since(at)).as_secs_f64());
    }
    shared.metrics.pushed.inc_by(pushes.len() as u64);
    if let Some(last) = pushes.last() {
        progress.written.store(last.tag, Ordering::Relaxed);
    }
}
