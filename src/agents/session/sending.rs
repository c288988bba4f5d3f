//! The messages that an agent may send, and how many.

use std::time::Duration;

use tokio::time::Instant;

use super::{End, Session, stopping, writing};
use crate::agents::access::Outstanding;
use crate::pipeline::publisher::Publish;
use crate::store::agents::Role;
use postbell_client::protocol::frame::{EVERYBODY, Send};
use postbell_client::protocol::{ErrorCode, ProtocolError};

impl Session<'_> {
    /// Hands a message to the publisher, or answers why not.
    pub(super) async fn send(self, send: Send) -> Result<(), End> {
        let bytes = send.payload.get().len() + send.headers.as_ref().map_or(0, |h| h.get().len());
        let outstanding = match self.admit(&send, bytes) {
            Ok(outstanding) => outstanding,
            Err(e) => {
                self.shared.metrics.send_refused(e.code);
                return self.answer(e.for_ref(send.reference).into());
            }
        };
        let room = self.shared.access.queue_room(bytes).await;
        let publish = Publish { from: self.agent, send, outbox: self.outbox, held: (outstanding, room) };
        self.shared.publishes.send(publish).await.map_err(|_| End::Refused(stopping()))
    }

    fn admit(&self, send: &Send, bytes: usize) -> Result<Outstanding, ProtocolError> {
        let Some(ticket) = self.ticket else {
            let sentence = "a link is for deliveries: its broker publishes what its agents send";
            return Err(ProtocolError::new(ErrorCode::Forbidden, sentence));
        };
        writing::check_size(send)?;
        self.check_recipient(send, ticket.role)?;
        ticket.quota.admit(Instant::now(), bytes as u64).map_err(|wait| self.slow_down(wait))
    }

    fn check_recipient(&self, send: &Send, role: Role) -> Result<(), ProtocolError> {
        let is_broadcast = send.to.as_deref() == Some(EVERYBODY) || send.environment.is_some();
        if !is_broadcast || role.may_broadcast() {
            return Ok(());
        }
        let whom = if send.environment.is_some() { "a whole environment" } else { "everybody" };
        let sentence = format!(
            "{} may not send to {whom}: that takes the role orchestrator; name the agents it is for, or have its \
             role changed",
            self.agent
        );
        Err(ProtocolError::new(ErrorCode::Forbidden, sentence))
    }

    fn slow_down(&self, wait: Duration) -> ProtocolError {
        let sentence = format!("{} sends more than its role allows; this message was not stored", self.agent);
        ProtocolError::new(ErrorCode::SlowDown, sentence).retry_after(wait)
    }
}
