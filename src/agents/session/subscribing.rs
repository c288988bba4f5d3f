//! Subscriptions to topics. A subscription belongs to the agent and not to the session, so it stays when the
//! session ends.

use super::{End, Session};
use crate::store::StoreError;
use crate::store::subscriptions::{self, SUBSCRIPTIONS_MAX};
use postbell_client::protocol::frame::Topic;
use postbell_client::protocol::{ErrorCode, ProtocolError, ServerFrame};

impl Session<'_> {
    /// Subscribes, or unsubscribes, and answers after COMMIT. Only then does the session read on, so that the
    /// next line finds the subscription.
    pub(super) async fn subscribe(&self, asked: Topic, wanted: bool) -> Result<(), End> {
        self.answer(match self.change(&asked.topic, wanted).await {
            Ok(()) if wanted => ServerFrame::Subscribed(asked),
            Ok(()) => ServerFrame::Unsubscribed(asked),
            Err(e) => e.for_ref(asked.reference).into(),
        })
    }

    async fn change(&self, topic: &str, wanted: bool) -> Result<(), ProtocolError> {
        let Some(ticket) = self.ticket else {
            let sentence = "a link is for deliveries: its broker subscribes for its agents";
            return Err(ProtocolError::new(ErrorCode::Forbidden, sentence));
        };
        self.may_request(ticket)?;
        let most =
            ticket.limits.subscriptions.map_or(SUBSCRIPTIONS_MAX, |n| i64::try_from(n).unwrap_or(i64::MAX));
        let (pool, agent) = (&self.shared.pool, &*self.agent);
        let has_it = match wanted {
            true => subscriptions::subscribe(pool, agent, topic, most).await.map_err(refusal)?,
            false => subscriptions::unsubscribe(pool, agent, topic).await.map(|()| true).map_err(refusal)?,
        };
        if has_it {
            return Ok(());
        }
        let sentence = format!("{agent} has {most} subscriptions, as many as its role allows");
        Err(ProtocolError::new(ErrorCode::Rejected, sentence))
    }
}

/// The refusal for an error of the database, with its sentence.
pub(super) fn refusal(e: StoreError) -> ProtocolError {
    let code = if e.is_retryable() { ErrorCode::Unavailable } else { ErrorCode::Rejected };
    ProtocolError::new(code, e.to_string())
}
