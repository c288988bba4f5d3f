//! A send on its way, and its answer.

use std::sync::Arc;
use tokio::time::Instant;

use tokio::sync::Notify;
use uuid::Uuid;

use super::{Publish, SendShare};
use crate::base::trace;
use crate::pipeline::dispatch::{ForSession, Outbox};
use crate::store::StoreError;
use crate::store::cut_off::ENDED;
use crate::store::publish;
use crate::watch::metrics::Metrics;
use crate::watch::spans::{Spans, Step};
use postbell_client::message::Trace;
use postbell_client::protocol::{ErrorCode, ProtocolError, ServerFrame};

/// A send that is not answered yet.
pub(super) struct Item {
    pub(super) message: publish::NewMessage,
    pub(super) since: Instant,
    outbox: Outbox,
    held: SendShare,
    trace: Option<Trace>,
}

/// The result of a send.
#[derive(Debug)]
pub(super) enum Verdict {
    /// This message is committed, or the first message with its dedupe key is.
    Stored(Uuid),
    /// The table does not take this message, and never will.
    Refused(String),
    /// The connection was lost at this message alone, which is not stored.
    Lost(StoreError),
    /// The message is not stored, but may be later.
    NotStored(String),
    /// The answer to a COMMIT was lost, so nobody knows whether the message is stored.
    Unknown(String),
}

impl From<Publish> for Item {
    fn from(Publish { from, send, outbox, held }: Publish) -> Self {
        let trace = trace::named_by(send.headers.as_ref().map(|h| h.get()));
        let message = publish::NewMessage { id: Uuid::now_v7(), from, send };
        Self { message, since: Instant::now(), outbox, held, trace }
    }
}

impl Item {
    pub(super) fn agent(&self) -> &Arc<str> {
        &self.message.from
    }

    pub(super) fn bytes(&self) -> usize {
        self.message.send.payload.get().len()
    }

    /// Whether another transaction may hold its dedupe key.
    pub(super) fn has_key(&self) -> bool {
        self.message.send.dedupe_key.is_some()
    }

    /// Gives back its place in the queue that all agents share, but not its agent's quota.
    pub(super) fn give_back_room(&mut self) {
        self.held.1 = None;
    }
}

/// The others that learn of an answered send: the tail, the metrics, the spans.
#[derive(Clone)]
pub(super) struct Teller {
    pub(super) wake: Arc<Notify>,
    pub(super) metrics: Metrics,
    pub(super) spans: Spans,
}

impl Teller {
    /// Answers a send.
    pub(super) fn tell(&self, item: Item, verdict: Verdict) {
        let Item { message, since, outbox, held, trace } = item;
        let reference = message.send.reference;
        if let Some(trace) = &trace {
            let (agent, took) = (&*message.from, since.elapsed());
            self.spans.done(trace, Step { name: "send", agent, took, attempt: 0 });
        }
        let frame = match verdict {
            Verdict::Stored(id) => {
                self.metrics.published.inc();
                self.wake.notify_one();
                ServerFrame::Sent { reference, id }
            }
            Verdict::Refused(sentence) => refusal(ErrorCode::Rejected, sentence, reference),
            Verdict::Lost(error) if error.is_cut_off() => {
                let sentence = format!("{ENDED}; the message is not stored");
                refusal(ErrorCode::Rejected, sentence, reference)
            }
            Verdict::Lost(error) => not_stored(&error.to_string(), reference),
            Verdict::NotStored(sentence) => not_stored(&sentence, reference),
            Verdict::Unknown(sentence) => {
                let advice =
                    "the message may or may not be stored: send it again, with a dedupe_key to be sure";
                refusal(ErrorCode::Unavailable, format!("{sentence}; {advice}"), reference)
            }
        };
        // The share is given back first, so that a client that hears the answer can send at once.
        drop(held);
        // A session that does not read its answers is closed by the dispatcher's next push, or by its own silence.
        if outbox.try_send(ForSession::Frame(frame)).is_err() {
            tracing::debug!("an answer was dropped: its session is gone or does not read");
        }
    }
}

fn not_stored(sentence: &str, reference: Option<String>) -> ServerFrame {
    let sentence = format!("{sentence}; the message is not stored: send it again");
    refusal(ErrorCode::Unavailable, sentence, reference)
}

fn refusal(code: ErrorCode, sentence: String, reference: Option<String>) -> ServerFrame {
    ProtocolError::new(code, sentence).for_ref(reference).into()
}
