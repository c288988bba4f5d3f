//! Questions and answers: a message to an agent, and the answer that comes back to this process.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::driver::Order;
use super::{Client, ClientError, Delivery, Outgoing};
use crate::message::{MessageType, Priority};
use crate::protocol::frame::Send;

/// The header that names the process which waits for the answer.
const REPLY_TO: &str = "reply_to";

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The agent that answered.
    pub from: String,
    /// The payload, as JSON text.
    pub payload: String,
}

#[derive(Deserialize)]
struct Headers {
    #[serde(default)]
    reply_to: Option<String>,
}

impl Client {
    /// Sends a question, waits for its answer and acknowledges the answer. The question expires after `within`,
    /// unless it has a time to live of its own. If several answers come, as from a topic, this returns the
    /// first; the others come as deliveries.
    ///
    /// The answer comes beside the window, so a handler may ask while its window is full.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`] names the agent that did not answer; otherwise see [`ClientError`].
    pub async fn request(&self, question: Outgoing, within: Duration) -> Result<Answer, ClientError> {
        let until = Instant::now() + within;
        let question = self.as_question(question, within)?;
        let no_answer = ClientError::NoAnswer { whom: whom(&question.0), within };
        let correlation_id = question.0.correlation_id.clone().unwrap_or_default();
        let (answer, answered) = oneshot::channel();
        let listen = Order::Question(correlation_id, answer);
        self.orders.send(listen).await.map_err(|_| self.why_closed())?;
        match timeout_at(until, self.send(question)).await {
            Ok(sent) => sent?,
            Err(_) => return Err(no_answer),
        };
        match timeout_at(until, answered).await {
            Ok(Ok(delivery)) => {
                let answer =
                    Answer { from: delivery.from().to_owned(), payload: delivery.payload().to_owned() };
                delivery.ack().await;
                Ok(answer)
            }
            Ok(Err(_)) => Err(self.why_closed()),
            Err(_) => Err(no_answer),
        }
    }

    fn as_question(&self, question: Outgoing, within: Duration) -> Result<Outgoing, ClientError> {
        let Outgoing(mut send) = question;
        send.correlation_id.get_or_insert_with(|| Uuid::new_v4().to_string());
        send.ttl_ms.get_or_insert(within.as_millis() as u64);
        let instance = to_raw_value(&*self.instance).map_err(invalid)?;
        let mut headers: BTreeMap<String, Box<RawValue>> = match &send.headers {
            Some(headers) => serde_json::from_str(headers.get()).map_err(invalid)?,
            None => BTreeMap::new(),
        };
        headers.insert(REPLY_TO.to_owned(), instance);
        send.headers = Some(to_raw_value(&headers).map_err(invalid)?);
        Ok(Outgoing(send))
    }
}

impl Outgoing {
    /// The answer to a question: for the process that asked, with the priority of the question.
    ///
    /// # Errors
    /// The payload cannot be written as JSON.
    pub fn answer(question: &Delivery, payload: &impl Serialize) -> Result<Self, ClientError> {
        let Self(mut send) = Self::new(question.from(), MessageType::Response, payload)?;
        send.priority = Priority::new(question.priority().into()).unwrap_or_default();
        send.correlation_id = question.correlation_id().map(str::to_owned);
        // Headers that were written by plain SQL may be anything.
        let headers = question.headers().and_then(|h| serde_json::from_str::<Headers>(h.get()).ok());
        send.to_instance = headers.and_then(|h| h.reply_to);
        Ok(Self(send))
    }
}

fn whom(send: &Send) -> String {
    match (&send.to, &send.topic, &send.environment, &send.group) {
        (_, Some(topic), ..) => format!("whoever subscribed to {topic}"),
        (_, _, Some(environment), _) => format!("whoever is in {environment}"),
        (.., Some(group)) => format!("the group {group}"),
        (to, ..) => to.clone().unwrap_or_default(),
    }
}

fn invalid(e: serde_json::Error) -> ClientError {
    ClientError::Invalid(format!("the headers cannot be written as JSON: {e}"))
}
