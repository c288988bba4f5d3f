//! The latest messages of an agent, with the journal's moments.

use tokio::time::Instant;

use serde::Serialize;

use super::admission::{May, Who};
use super::query::{Query, decode};
use super::{Refusal, Site};
use crate::store::status::{ListedMessage, messages as read};
use crate::watch::flow::{Moment, Step};
use crate::watch::http::answer::{HttpAnswer, json};

const LIMIT_DEFAULT: i64 = 50;

#[derive(Serialize)]
struct Messages<'a> {
    agent: &'a str,
    /// The time of the reading by the database's clock, like the messages' times.
    read_at: Option<String>,
    messages: Vec<Told>,
}

/// A message, and the moments that this broker remembers.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    message: ListedMessage,
    moments: Vec<Happened>,
}

#[derive(Serialize)]
struct Happened {
    step: Step,
    ago_ms: u64,
    attempt: u32,
    inbox: String,
    /// For a push the age of the message, for an ack the agent's own work; in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(super) async fn messages(
    site: &Site,
    who: &Who,
    agent: &str,
    query: &Query,
) -> Result<HttpAnswer, Refusal> {
    who.must(May::Look)?;
    let agent = decode(agent)?;
    let limit = query.number("limit")?.unwrap_or(LIMIT_DEFAULT);
    let (found, read_at) = site.ask(read(&site.pools.reads, &agent, limit)).await?;
    let ids: Vec<_> = found.iter().map(|message| message.id).collect();
    let lives = site.status.flow().lives(&ids);
    let now = Instant::now();
    let may_read = who.may >= May::Read;
    let told = found.into_iter().map(|message| {
        let of_it = lives.iter().filter(|m| m.message_id == Some(message.id));
        let moments = of_it.map(|m| moment(m, now, may_read)).collect();
        Told { message: if may_read { message } else { without_content(message) }, moments }
    });
    Ok(json(&Messages { agent: &agent, read_at, messages: told.collect() }))
}

fn moment(moment: &Moment, now: Instant, may_read: bool) -> Happened {
    Happened {
        step: moment.step,
        ago_ms: now.saturating_duration_since(moment.at).as_millis() as u64,
        attempt: moment.attempt.number(),
        inbox: moment.inbox.to_string(),
        ms: moment.ms,
        reason: moment.reason.as_deref().filter(|_| may_read).map(str::to_owned),
    }
}

/// Removes texts that may hold anything, for those who may only look.
fn without_content(mut message: ListedMessage) -> ListedMessage {
    message.payload = None;
    message.error = None;
    if let Some(delivery) = &mut message.delivery {
        delivery.reason = None;
    }
    message
}
