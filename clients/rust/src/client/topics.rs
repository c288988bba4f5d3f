//! Topics, environments and groups: messages to many, or to one of many, and subscriptions.

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::driver::Order;
use super::{Client, ClientError, Outgoing, SEND_WAIT};
use crate::message::MessageType;
use crate::protocol::frame::Send;
use crate::protocol::topic::{check_pattern, check_topic};

impl Outgoing {
    /// To those that subscribed to the topic.
    ///
    /// # Errors
    /// It is none, or the payload cannot be written as JSON.
    pub fn to_topic(
        topic: &str,
        message_type: MessageType,
        payload: &impl Serialize,
    ) -> Result<Self, ClientError> {
        check_topic(topic).map_err(ClientError::Invalid)?;
        let Self(send) = Self::new("", message_type, payload)?;
        Ok(Self(Send { to: None, topic: Some(topic.to_owned()), ..send }))
    }

    /// To every agent of an environment but this one. That takes the role of an orchestrator.
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

    /// To one of the agents that take from the group.
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
    /// From when this returns, the agent gets the messages of topics that match the pattern, also those that are sent while
    /// it is away.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn subscribe(&self, pattern: &str) -> Result<(), ClientError> {
        self.want(pattern, true).await
    }

    /// From when this returns, it does not.
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
