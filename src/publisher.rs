//! The publisher: gathers what agents send and inserts it in batches; each is answered after COMMIT.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use uuid::Uuid;

use crate::access::Outstanding;
use crate::dispatch::{Outbox, Outgoing};
use crate::message::Trace;
use crate::metrics::Metrics;
use crate::postgres::publish::{self, publish};
use crate::postgres::{Pool, StoreError};
use crate::protocol::frame::Send;
use crate::protocol::{ErrorCode, ProtocolError, ServerFrame};
use crate::spans::{Spans, Step};

/// What may wait to be inserted. When it is full, sessions that send wait before they read on.
pub const PUBLISHES_MAX: usize = 1_024;
/// The most messages of one insert.
const BATCH_MAX: usize = 500;
/// The most bytes of one batch, so that a thousand large payloads do not become one statement.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A message an agent sends.
#[derive(Debug)]
pub struct Publish {
    /// Who.
    pub from: Arc<str>,
    /// What.
    pub send: Send,
    /// Where the answer goes.
    pub outbox: Outbox,
    /// What it takes of its agent's quota and of the queue, until it is answered.
    pub held: Held,
}

/// Given back when it is dropped.
pub type Held = (Outstanding, Option<OwnedSemaphorePermit>);

/// Whom to answer.
struct Sender {
    outbox: Outbox,
    held: Held,
}

/// Publishes until every session is gone.
pub async fn run(
    pool: Pool,
    mut publishes: mpsc::Receiver<Publish>,
    wake: Arc<Notify>,
    (metrics, spans): (Metrics, Spans),
) {
    let mut waiting: Vec<Publish> = Vec::new();
    loop {
        if waiting.is_empty() && publishes.recv_many(&mut waiting, BATCH_MAX).await == 0 {
            return;
        }
        let mut bytes = 0;
        let fits = |p: &Publish| {
            bytes += p.send.payload.get().len();
            bytes <= BATCH_BYTES_MAX
        };
        let n = waiting.iter().map(fits).take_while(|fits| *fits).count().max(1);
        let batch: Vec<Publish> = waiting.drain(..n).collect();
        let traces = traces(&batch);
        let since = Instant::now();
        insert(&pool, batch, &metrics).await;
        for (agent, trace) in &traces {
            spans.done(trace, Step { name: "send", agent, took: since.elapsed(), attempt: 0 });
        }
        wake.notify_one();
    }
}

/// Who sends something that belongs to a trace.
fn traces(batch: &[Publish]) -> Vec<(Arc<str>, Trace)> {
    let headers = |p: &Publish| Spans::reads(p.send.headers.as_ref().map(|h| h.get()));
    batch.iter().filter_map(|p| Some((p.from.clone(), headers(p)?))).collect()
}

async fn insert(pool: &Pool, batch: Vec<Publish>, metrics: &Metrics) {
    let (senders, messages): (Vec<Sender>, Vec<publish::Outgoing>) = batch
        .into_iter()
        .map(|Publish { from, send, outbox, held }| {
            (Sender { outbox, held }, publish::Outgoing { id: Uuid::now_v7(), from, send })
        })
        .unzip();
    match publish(pool, &messages).await {
        Ok(ids) => {
            for ((sender, message), id) in senders.into_iter().zip(messages).zip(ids) {
                metrics.published.inc();
                answer(sender, ServerFrame::Sent { reference: message.send.reference, id });
            }
        }
        // One bad message must not refuse its neighbours: each alone, to find which.
        Err(e) if !e.is_retryable() && messages.len() > 1 => {
            for (sender, message) in senders.into_iter().zip(messages) {
                let one = [message];
                let result = publish(pool, &one).await;
                let [message] = one;
                metrics.published.inc_by(u64::from(result.is_ok()));
                answer(sender, result_frame(result, message.send.reference));
            }
        }
        Err(e) => {
            let sentence = e.to_string();
            for (sender, message) in senders.into_iter().zip(messages) {
                answer(sender, refusal(&sentence, e.is_retryable(), message.send.reference));
            }
        }
    }
}

fn result_frame(result: Result<Vec<Uuid>, StoreError>, reference: Option<String>) -> ServerFrame {
    match result {
        Ok(ids) => ServerFrame::Sent { reference, id: ids[0] },
        Err(e) => refusal(&e.to_string(), e.is_retryable(), reference),
    }
}

fn refusal(sentence: &str, retryable: bool, reference: Option<String>) -> ServerFrame {
    let (code, sentence) = if retryable {
        // A COMMIT whose answer was lost cannot be told from one that never was.
        let advice = "the message may or may not be stored: send it again, with a dedupe_key to be sure";
        (ErrorCode::Unavailable, format!("{sentence}; {advice}"))
    } else {
        (ErrorCode::Rejected, sentence.to_owned())
    };
    ProtocolError::new(code, sentence).for_ref(reference).into()
}

/// A session that does not read its answers is closed by the dispatcher's next push, or by its own silence.
fn answer(sender: Sender, frame: ServerFrame) {
    // Whoever hears the answer may send the next one.
    drop(sender.held);
    if sender.outbox.try_send(Outgoing::Frame(frame)).is_err() {
        tracing::debug!("an answer was dropped: its session is gone or does not read");
    }
}
