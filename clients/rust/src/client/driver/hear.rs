//! Reads the lines of the broker.

use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::mpsc::error::TrySendError;

use super::session::ClientSession;
use super::{Driver, SessionEnd, fell};
use crate::client::unreadable::Unreadable;
use crate::client::{ClientError, Delivery};
use crate::protocol::frame::{Nack, NackOutcome, Window, push_line};
use crate::protocol::limits::DURATION_MS_MAX;
use crate::protocol::{ClientFrame, ErrorCode, ServerFrame};

/// A time that the broker gave in milliseconds, bounded because no clock can count much further.
pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms.min(DURATION_MS_MAX))
}

impl Driver {
    /// Takes a line, and those that arrived with it.
    pub(super) fn hear(&mut self, session: &mut ClientSession, line: &[u8]) -> Option<SessionEnd> {
        session.heard_at = Instant::now();
        if let Some(end) = self.take(session, line) {
            return Some(end);
        }
        loop {
            match session.connection.reader.buffered_line() {
                Ok(Some(line)) => {
                    if let Some(end) = self.take(session, &line) {
                        return Some(end);
                    }
                }
                Ok(None) => return None,
                Err(e) => return Some(fell(e)),
            }
        }
    }

    fn take(&mut self, session: &mut ClientSession, line: &[u8]) -> Option<SessionEnd> {
        let frame = match ServerFrame::decode(line) {
            Ok(Some(frame)) => frame,
            // An op of a newer broker is ignored.
            Ok(None) => return None,
            Err(_) => {
                self.not_read(session, line);
                return None;
            }
        };
        match frame {
            ServerFrame::Msg(message) => {
                let deadline = ms(message.deadline_ms);
                let now = Instant::now();
                session.held.insert(now, message.tag, message.id, deadline, self.builder.auto_extend);
                let delivery = Delivery::new(message, self.generation, self.orders.clone());
                if let Some(delivery) = self.pending.answer(delivery) {
                    self.hand_over(session, delivery);
                }
            }
            ServerFrame::Sent { reference, id } => self.pending.sent(reference.as_deref(), id),
            ServerFrame::Acked { reference } => self.pending.acked(&reference),
            ServerFrame::Subscribed(topic) | ServerFrame::Unsubscribed(topic) => {
                self.pending.acked(topic.reference.as_deref().unwrap_or_default());
            }
            frame @ (ServerFrame::DeadLetters(_)
            | ServerFrame::Redriven(_)
            | ServerFrame::Purged(_)
            | ServerFrame::Lock(_)
            | ServerFrame::Released(_)) => {
                self.pending.answered(frame);
            }
            ServerFrame::Error { code, fatal, reference, message, retry_ms } => {
                let error = ClientError::Refused { code, message, retry: retry_ms.map(ms) };
                return self.refusal(error, code, fatal, reference.as_deref());
            }
            ServerFrame::Drain { after_ms } => session.draining = Some(ms(after_ms)),
            ServerFrame::Ping {} => push_line(&mut session.out, &ClientFrame::Pong {}),
            ServerFrame::Pong {} | ServerFrame::Welcome(_) => {}
        }
        None
    }

    /// Hands a delivery to the agent. If nobody takes deliveries, or the broker broke its window, dropping the
    /// delivery gives it back.
    fn hand_over(&mut self, session: &mut ClientSession, delivery: Delivery) {
        if let Err(TrySendError::Closed(delivery)) = self.deliveries.try_send(delivery)
            && self.builder.hello.window != Some(0)
        {
            // Without this, the broker would push the delivery again and again.
            self.builder.hello.window = Some(0);
            push_line(&mut session.out, &ClientFrame::Window(Window { n: 0 }));
            drop(delivery);
        }
    }

    fn refusal(
        &mut self,
        error: ClientError,
        code: ErrorCode,
        fatal: bool,
        reference: Option<&str>,
    ) -> Option<SessionEnd> {
        // Nothing was stored, so it is safe to send again.
        if let ClientError::Refused { retry: Some(wait), .. } = &error
            && code == ErrorCode::SlowDown
            && self.pending.slow_down(reference, Instant::now() + *wait)
        {
            return None;
        }
        let known = self.pending.refused(reference, &error);
        if fatal {
            return Some(self.refused(error));
        }
        if !known {
            tracing::debug!(%error, "the broker refused a request");
        }
        None
    }

    /// A line that cannot be read costs only the message or the request that it is about.
    fn not_read(&mut self, session: &mut ClientSession, line: &[u8]) {
        match Unreadable::of(line) {
            Unreadable::Msg { tag, reason } => {
                self.unreadable.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(?tag, %reason, "a message is a dead letter");
                if let Some(tag) = tag {
                    let nack = Nack { tag, outcome: NackOutcome::Dead, delay_ms: None, reason: Some(reason) };
                    push_line(&mut session.out, &ClientFrame::Nack(nack));
                }
            }
            Unreadable::Answer { reference } => {
                let error = ClientError::Protocol("its answer to this request cannot be read".to_owned());
                self.pending.refused(Some(&reference), &error);
            }
            Unreadable::Line if !session.told_of_lines => {
                session.told_of_lines = true;
                tracing::warn!(
                    "the broker sent a line that cannot be read; the rest of them are not told of"
                );
            }
            Unreadable::Line => {}
        }
    }
}
