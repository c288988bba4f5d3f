//! Agents that send through the brokers, and take deliveries as all agents do.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use postbell_client::message::{MessageType, Priority};
use postbell_client::{Client, ClientError, Outgoing};
use tokio::task::JoinSet;

use super::{Draft, Noticed, SharedLedger, Source};
use crate::agent::connect;
use crate::agents::sender_process;
use crate::handler::handle_all;
use crate::ledger::{Fate, Seen};
use crate::postgres::inbox_name;

/// Sends that wait for their answer; the load pauses when there are so many.
const UNANSWERED_MAX: usize = 64;

/// Sends the source's messages until the load is over, then waits for the answers.
pub(super) async fn send(url: String, inbox: u8, mut source: Source) -> Noticed {
    let (client, deliveries) = connect(&url, &inbox_name(inbox), "sender").await;
    let ledger = source.ledger.clone();
    let tell = move |n, what, attempt: u32| {
        let process = sender_process(inbox);
        let at_ms = ledger.lock().ms(SystemTime::now());
        let attempt = u16::try_from(attempt).unwrap_or(u16::MAX);
        ledger.see(n, Seen { at_ms, attempt, process, what });
    };
    // The agent takes deliveries even after the load, until the campaign is over.
    tokio::spawn(handle_all(deliveries, inbox, Arc::new(tell)));
    let (mut noticed, mut waiting) = (Noticed::default(), JoinSet::new());
    while source.due().await {
        while waiting.len() >= UNANSWERED_MAX {
            noticed.add(waiting.join_next().await);
        }
        let draft = source.draft(Some(inbox));
        waiting.spawn(one(client.clone(), inbox, draft, source.ledger.clone()));
        while let Some(answered) = waiting.try_join_next() {
            noticed.add(Some(answered));
        }
    }
    while let Some(answered) = waiting.join_next().await {
        noticed.add(Some(answered));
    }
    noticed
}

/// The answer, and how long it took.
type Answered = (Result<(), ClientError>, Duration);

async fn one(client: Client, from: u8, draft: Draft, ledger: SharedLedger) -> Answered {
    let since = Instant::now();
    let answered = match outgoing(from, &draft) {
        Ok(message) => client.send(message).await.map(|_id| ()),
        Err(e) => Err(e),
    };
    // After any error the message may still be stored, with only the answer lost.
    let fate = if answered.is_ok() { Fate::Committed } else { Fate::Unknown };
    ledger.lock().close(draft.task.n, fate);
    (answered, since.elapsed())
}

fn outgoing(from: u8, draft: &Draft) -> Result<Outgoing, ClientError> {
    let to = draft.to.map_or("*".to_owned(), inbox_name);
    let priority = Priority::new(draft.priority.into()).unwrap_or_default();
    let mut message = Outgoing::new(&to, MessageType::Data, &draft.task)?
        .priority(priority)
        .dedupe_key(&format!("{from}-{}", draft.task.n));
    if let Some(ms) = draft.delay_ms {
        message = message.delay(Duration::from_millis(ms as u64));
    }
    if let Some(ms) = draft.ttl_ms {
        message = message.ttl(Duration::from_millis(ms as u64));
    }
    Ok(message)
}

impl Noticed {
    fn add(&mut self, answered: Option<Result<Answered, tokio::task::JoinError>>) {
        let Some(Ok((answered, took))) = answered else { return };
        self.longest_send = self.longest_send.max(took);
        match answered {
            Ok(()) => {}
            Err(ClientError::Refused { .. }) => self.sends_refused += 1,
            Err(_) => self.sends_unanswered += 1,
        }
    }
}
