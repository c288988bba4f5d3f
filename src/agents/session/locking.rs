//! Locks. A lock belongs to the agent for a time: it outlives the session, and ends by its time if the agent
//! does not come back.

use std::time::Duration;

use tokio::time::Instant;

use super::subscribing::refusal;
use super::{End, Session};
use crate::agents::access::Ticket;
use crate::store::locks::{self, Asker, LockAnswer};
use postbell_client::protocol::frame::lock::{AcquireLock, Lock, LockReleased, ReleaseLock};
use postbell_client::protocol::{ErrorCode, ProtocolError, ServerFrame};

impl Session<'_> {
    /// Takes a lock, or answers who holds it.
    pub(super) async fn acquire(&self, asked: AcquireLock) -> Result<(), End> {
        let AcquireLock { reference, key, ttl_ms, fence } = asked;
        let ticket = match self.may_lock() {
            Ok(ticket) => ticket,
            Err(e) => return self.answer(e.for_ref(reference).into()),
        };
        let ttl = Duration::from_millis(ttl_ms);
        let acquired = locks::acquire(&self.shared.pool, self.asker(ticket), &key, ttl, fence).await;
        self.answer(match acquired {
            Ok(LockAnswer::Held(fence)) => {
                let fence = Some(fence);
                Lock { reference, key, held: true, fence, holder: None, left_ms: None, done: false }.into()
            }
            Ok(LockAnswer::Taken(taken)) => Lock {
                reference,
                key,
                held: false,
                fence: None,
                holder: taken.holder,
                left_ms: (!taken.is_done).then_some(taken.left.as_millis() as u64),
                done: taken.is_done,
            }
            .into(),
            Ok(LockAnswer::Forbidden) => {
                let agent = &self.agent;
                let sentence =
                    format!("{agent} may not hold {key}: `postbell lock allow {key} {agent}` lets it");
                forbidden(sentence, reference)
            }
            Ok(LockAnswer::TooMany) => {
                let held = ticket.limits.locks_held.unwrap_or_default();
                let sentence =
                    format!("{} holds {held} locks, as many as its role allows: give some back", self.agent);
                forbidden(sentence, reference)
            }
            Err(e) => refusal(e).for_ref(reference).into(),
        })
    }

    /// Gives a lock back, or marks its task as done.
    pub(super) async fn release(&self, asked: ReleaseLock) -> Result<(), End> {
        let ReleaseLock { reference, key, fence, done } = asked;
        let ticket = match self.may_lock() {
            Ok(ticket) => ticket,
            Err(e) => return self.answer(e.for_ref(reference).into()),
        };
        let released = locks::release(&self.shared.pool, self.asker(ticket), &key, fence, done).await;
        self.answer(match released {
            Ok(locks::Released::Yes) => LockReleased { reference, key }.into(),
            Ok(locks::Released::NotHeld) => {
                let sentence = format!(
                    "{} does not hold {key} under fence {fence}: its time ended and another has it, or had it",
                    self.agent
                );
                ProtocolError::new(ErrorCode::Rejected, sentence).for_ref(reference).into()
            }
            Ok(locks::Released::TooMany) => {
                let marked = ticket.limits.locks_done.unwrap_or_default();
                let sentence = format!(
                    "{} has {marked} tasks marked as done, as many as its role allows until retention forgets some",
                    self.agent
                );
                forbidden(sentence, reference)
            }
            Err(e) => refusal(e).for_ref(reference).into(),
        })
    }

    fn asker<'a>(&'a self, ticket: &'a Ticket) -> Asker<'a> {
        Asker { agent: &self.agent, role: &ticket.role_word, limits: &ticket.limits }
    }

    fn may_lock(&self) -> Result<&Ticket, ProtocolError> {
        let Some(ticket) = self.ticket else {
            let sentence = "a link is for deliveries: its broker locks for its agents";
            return Err(ProtocolError::new(ErrorCode::Forbidden, sentence));
        };
        self.may_request(ticket).map(|()| ticket)
    }

    /// Takes one request from the rate of locks and subscriptions.
    pub(super) fn may_request(&self, ticket: &Ticket) -> Result<(), ProtocolError> {
        ticket.quota.request(Instant::now()).map_err(|wait| {
            let sentence = format!(
                "{} asks for more locks and subscriptions than its role allows; nothing was done",
                self.agent
            );
            ProtocolError::new(ErrorCode::SlowDown, sentence).retry_after(wait)
        })
    }
}

fn forbidden(sentence: String, reference: Option<String>) -> ServerFrame {
    ProtocolError::new(ErrorCode::Forbidden, sentence).for_ref(reference).into()
}
