//! The state of one connection.

use std::time::Duration;

use tokio::time::Instant;

use tokio::time::timeout;

use super::{SessionEnd, fell};
use crate::client::ClientError;
use crate::client::connection::BrokerConnection;
use crate::client::held::Held;
use crate::protocol::codec::write_whole;
use crate::protocol::frame::{Ack, Extend, Send, push_line};
use crate::protocol::{ClientFrame, ErrorCode, Tag};

/// A broker that takes nothing for so long is given up.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// The most messages that a warning names.
const NAMED_MAX: usize = 3;

/// One connection, with the deliveries that it brought and the lines that wait to be written.
pub(super) struct ClientSession {
    pub(super) connection: BrokerConnection,
    pub(super) held: Held,
    pub(super) out: Vec<u8>,
    /// The acks of the next write, which go as one line.
    pub(super) acks: Vec<Tag>,
    pub(super) draining: Option<Duration>,
    pub(super) heard_at: Instant,
    pub(super) wrote_at: Instant,
    /// Whether a line that could not be read was logged.
    pub(super) told_of_lines: bool,
}

impl ClientSession {
    pub(super) fn new(connection: BrokerConnection, now: Instant) -> Self {
        Self {
            connection,
            held: Held::default(),
            out: Vec::new(),
            acks: Vec::new(),
            draining: None,
            heard_at: now,
            wrote_at: now,
            told_of_lines: false,
        }
    }

    /// Appends a frame to the next write. A line longer than the broker takes is refused here: sending it would
    /// end the session for every task that uses the client.
    pub(super) fn push(&mut self, frame: &ClientFrame) -> Result<(), ClientError> {
        let (from, most) = (self.out.len(), self.connection.welcome.limits.line_bytes);
        push_line(&mut self.out, frame);
        let bytes = self.out.len() - from - 1;
        if bytes <= most {
            return Ok(());
        }
        self.out.truncate(from);
        Err(too_large(format!("the line would be {bytes} bytes, and this broker takes {most}")))
    }

    /// Appends a message like [`push`](Self::push); the payload has a limit of its own.
    pub(super) fn push_send(&mut self, send: Send) -> Result<(), ClientError> {
        let (bytes, most) = (send.payload.get().len(), self.connection.welcome.limits.payload_bytes);
        if bytes > most {
            return Err(too_large(format!("the payload is {bytes} bytes, and this broker takes {most}")));
        }
        self.push(&ClientFrame::Send(send))
    }

    /// Moves deadlines that are due, and warns about those that have passed.
    pub(super) fn look_at_deadlines(&mut self, now: Instant) {
        let due = self.held.take_due(now);
        for (tag, by) in due.extends {
            let ms = by.as_millis() as u64;
            push_line(&mut self.out, &ClientFrame::Extend(Extend { tag, ms }));
        }
        for id in due.passed {
            tracing::warn!(%id, "the deadline of a message passed while it was held here: the broker pushes it again");
        }
    }

    /// Warns if the runtime was blocked: a wake-up was wanted at one moment and came at the other.
    pub(super) fn look_for_block(&self, wanted: Instant, now: Instant) {
        if let Some(late) = self.held.was_blocked(wanted, now) {
            let ids: Vec<String> = self.held.some().take(NAMED_MAX).map(|id| id.to_string()).collect();
            tracing::warn!(
                held = ids.join(" "),
                "the runtime was blocked for {late:?}, over half of a deadline: what is held may be pushed again. Work that \
                 blocks belongs into spawn_blocking"
            );
        }
    }

    /// Writes the lines that have gathered, by one write.
    pub(super) async fn flush(&mut self) -> Result<(), SessionEnd> {
        let tags = std::mem::take(&mut self.acks);
        match tags.as_slice() {
            [] => {}
            [tag] => {
                let ack = Ack { tag: Some(*tag), ..Ack::default() };
                push_line(&mut self.out, &ClientFrame::Ack(ack));
            }
            _ => push_line(&mut self.out, &ClientFrame::Ack(Ack { tags, ..Ack::default() })),
        }
        if self.out.is_empty() {
            return Ok(());
        }
        self.wrote_at = Instant::now();
        let written = timeout(WRITE_WAIT, write_whole(&mut self.connection.writer, &self.out)).await;
        self.out.clear();
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(fell(e)),
            Err(_) => Err(fell("the broker takes nothing")),
        }
    }

    pub(super) async fn say(&mut self, frame: &ClientFrame) -> Result<(), SessionEnd> {
        push_line(&mut self.out, frame);
        self.flush().await
    }
}

fn too_large(message: String) -> ClientError {
    ClientError::Refused { code: ErrorCode::PayloadTooLarge, message, retry: None }
}
