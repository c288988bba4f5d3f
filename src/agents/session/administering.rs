//! The dead letters that an agent may administer, and when.

use std::sync::Arc;

use tokio::time::Instant;

use super::{End, Session};
use crate::agents::access::{SLOW_DOWN_MIN, Ticket};
use crate::pipeline::dead_letters::{Ask, DeadRequest, Which};
use postbell_client::protocol::frame::dead::{Chosen, Dead};
use postbell_client::protocol::limits::DEAD_LETTERS_MAX;
use postbell_client::protocol::{ErrorCode, ProtocolError};
use postbell_engine::inbox::DeliveryId;

impl Session<'_> {
    /// Asks for a page of dead letters, or answers why not.
    pub(super) fn dead(self, dead: Dead) -> Result<(), End> {
        let Dead { reference, inbox, limit, after } = dead;
        let limit = limit.map_or(DEAD_LETTERS_MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let ask = self.inbox_of(inbox).map(|inbox| Ask::List {
            inbox,
            after: after.map_or(DeliveryId::MIN, DeliveryId),
            limit,
        });
        self.ask(reference, ask)
    }

    /// Asks to redrive or to purge dead letters, or answers why not.
    pub(super) fn settle_dead(self, chosen: Chosen, ask: fn(Which) -> Ask) -> Result<(), End> {
        let Chosen { reference, ids, inbox, after } = chosen;
        let which = match inbox {
            Some(_) => self
                .inbox_of(inbox)
                .map(|inbox| Which::Inbox(inbox, after.map_or(DeliveryId::MIN, DeliveryId))),
            // The ids of another inbox count as ids that do not exist, so that the answer tells nothing about
            // them.
            None => self.may_ask().map(|ticket| {
                let only = (!ticket.role.may_administer()).then(|| self.agent.clone());
                Which::Ids(ids, only)
            }),
        };
        self.ask(reference, which.map(ask))
    }

    fn may_ask(&self) -> Result<&Ticket, ProtocolError> {
        self.ticket.ok_or_else(|| {
            let sentence = "a link is for deliveries: its broker administers what its agents ask";
            ProtocolError::new(ErrorCode::Forbidden, sentence)
        })
    }

    fn inbox_of(&self, named: Option<String>) -> Result<Arc<str>, ProtocolError> {
        let ticket = self.may_ask()?;
        match named {
            Some(inbox) if *inbox != *self.agent && !ticket.role.may_administer() => {
                let sentence = format!(
                    "{} may not administer the dead letters of others: that takes the role orchestrator; leave the \
                     inbox out for its own, or have its role changed",
                    self.agent
                );
                Err(ProtocolError::new(ErrorCode::Forbidden, sentence))
            }
            Some(inbox) => Ok(inbox.into()),
            None => Ok(self.agent.clone()),
        }
    }

    fn ask(self, reference: Option<String>, ask: Result<Ask, ProtocolError>) -> Result<(), End> {
        match ask.and_then(|ask| self.hand_over(reference.clone(), ask)) {
            Ok(()) => Ok(()),
            Err(e) => self.answer(e.for_ref(reference).into()),
        }
    }

    fn hand_over(&self, reference: Option<String>, ask: Ask) -> Result<(), ProtocolError> {
        let slow_down =
            |sentence: String| ProtocolError::new(ErrorCode::SlowDown, sentence).retry_after(SLOW_DOWN_MIN);
        let turn = self.may_ask()?.quota.administer().ok_or_else(|| {
            let agent = &self.agent;
            slow_down(format!(
                "{agent} has asked for dead letters and not read the answer yet; nothing was done"
            ))
        })?;
        let request = DeadRequest {
            agent: self.agent.clone(),
            ask,
            reference,
            asked_at: Instant::now(),
            outbox: self.outbox.downgrade(),
            turn,
        };
        // The queue is full, or the broker is stopping, which the session is about to hear.
        self.shared.dead_letters.try_send(request).map_err(|_| {
            slow_down("too many agents ask for dead letters at once; nothing was done".to_owned())
        })
    }
}
