//! Locks: an agent's, for a time. They outlive the session, and end by themselves where the agent does not come back.

use std::time::Duration;

use super::subscribing::refusal;
use super::{End, Session};
use crate::postgres::locks::{self, Acquired};
use crate::protocol::frame::lock::{Acquire, Lock, Release, Released};
use crate::protocol::{ErrorCode, ProtocolError};

impl Session<'_> {
    /// Takes a lock, or says whose it is.
    pub(super) async fn acquire(&self, asked: Acquire) -> Result<(), End> {
        let Acquire { reference, key, ttl_ms, fence } = asked;
        if let Err(e) = self.may_lock() {
            return self.answer(e.for_ref(reference).into());
        }
        let ttl = Duration::from_millis(ttl_ms);
        let acquired = locks::acquire(&self.shared.pool, &self.agent, &key, ttl, fence).await;
        self.answer(match acquired {
            Ok(Acquired::Held(fence)) => {
                let fence = Some(fence);
                Lock { reference, key, held: true, fence, holder: None, left_ms: None, done: false }.into()
            }
            Ok(Acquired::Taken(taken)) => Lock {
                reference,
                key,
                held: false,
                fence: None,
                holder: taken.holder,
                left_ms: (!taken.is_done).then_some(taken.left.as_millis() as u64),
                done: taken.is_done,
            }
            .into(),
            Err(e) => refusal(e).for_ref(reference).into(),
        })
    }

    /// Gives a lock back, or says that its task is done.
    pub(super) async fn release(&self, asked: Release) -> Result<(), End> {
        let Release { reference, key, fence, done } = asked;
        if let Err(e) = self.may_lock() {
            return self.answer(e.for_ref(reference).into());
        }
        self.answer(match locks::release(&self.shared.pool, &self.agent, &key, fence, done).await {
            Ok(true) => Released { reference, key }.into(),
            Ok(false) => {
                let sentence = format!(
                    "{} does not hold {key} under fence {fence}: its time ended and another has it, or had it",
                    self.agent
                );
                ProtocolError::new(ErrorCode::Rejected, sentence).for_ref(reference).into()
            }
            Err(e) => refusal(e).for_ref(reference).into(),
        })
    }

    fn may_lock(&self) -> Result<(), ProtocolError> {
        match self.ticket {
            Some(_) => Ok(()),
            None => {
                let sentence = "a link is for deliveries: its broker locks for its agents";
                Err(ProtocolError::new(ErrorCode::Forbidden, sentence))
            }
        }
    }
}
