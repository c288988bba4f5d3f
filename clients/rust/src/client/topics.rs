//! Topics, environments and groups: messages to many agents, or to one of many, and subscriptions.

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::driver::Order;
use super::{Client, ClientError, Outgoing, SEND_WAIT};
use crate::message::MessageType;
use crate::protocol::frame::Send;
use crate::protocol::topic::{check_pattern, check_topic};

impl Outgoing {
    /// A message to the agents that subscribed to the topic.
    ///
    /// # Errors
    /// The topic is not one to send to, or the payload cannot be written as JSON.
    pub fn to_topic(
        topic: &str,
        message_type: MessageType,
        payload: &impl Serialize,
    ) -> Result<Self, ClientError> {
        check_topic(topic).map_err(ClientError::Invalid)?;
        let Self(send) = Self::new("", message_type, payload)?;
        Ok(Self(Send { to: None, topic: Some(topic.to_owned()), ..send }))
    }

    /// A message to every agent of an environment except this one. The agent needs the role `orchestrator`.
    ///
    /// # Errors
    /// The payload cannot be written as JSON.
    pub fn to_environment(
        environment: &str,
        message_type: MessageType,
        payload: &impl Serialize,
    ) -> Result<Self, ClientError> {
        let Self(send) = Self::new("", message_type, payload)?;
        Ok(Self(Send { to: None, environment: Some(environment.to_owned()), ..send }))
    }

    /// A message to one of the agents that take from the group.
    ///
    /// # Errors
    /// The payload cannot be written as JSON.
    pub fn to_group(
        group: &str,
        message_type: MessageType,
        payload: &impl Serialize,
    ) -> Result<Self, ClientError> {
        let Self(send) = Self::new("", message_type, payload)?;
        Ok(Self(Send { to: None, group: Some(group.to_owned()), ..send }))
    }
}

impl Client {
    /// Subscribes the agent to all topics that match the pattern, from when this returns. Messages that are
    /// sent while the agent is away wait for it.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn subscribe(&self, pattern: &str) -> Result<(), ClientError> {
        self.want(pattern, true).await
    }

    /// Ends a subscription, from when this returns.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn unsubscribe(&self, pattern: &str) -> Result<(), ClientError> {
        self.want(pattern, false).await
    }

    async fn want(&self, pattern: &str, wanted: bool) -> Result<(), ClientError> {
        check_pattern(pattern).map_err(ClientError::Invalid)?;
        let (answer, answered) = oneshot::channel();
        let order = Order::Want { pattern: pattern.to_owned(), wanted, answer };
        self.orders.send(order).await.map_err(|_| self.why_closed())?;
        let answered = timeout(SEND_WAIT, answered).await.map_err(|_| ClientError::Timeout(SEND_WAIT))?;
        answered.map_err(|_| self.why_closed())?
    }
}
