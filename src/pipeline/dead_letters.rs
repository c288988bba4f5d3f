//! Carries out requests about dead letters, one after the other, so that they never take more than one connection
//! away from deliveries.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::pipeline::dispatch::ForSession;
use crate::store::{Pool, StoreError, dead};
use postbell_client::protocol::frame::dead::{DeadLetter, DeadLetters, Done, Refused};
use postbell_client::protocol::limits::{DEAD_IDS_MAX, DEAD_LETTERS_BYTES_MAX, DEAD_LETTERS_MAX};
use postbell_client::protocol::{ErrorCode, ProtocolError, ServerFrame};
use postbell_engine::inbox::DeliveryId;

/// The most requests that wait, each of another agent. Beyond that, a session answers `slow_down`.
pub(crate) const REQUESTS_MAX: usize = 64;
/// A request that waited longer is answered without being tried, because its client has given up or soon will.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// How long halves of a request are tried after one of its rows was refused. Other requests wait meanwhile.
const HALVES_WAIT: Duration = Duration::from_secs(2);
const _: () = assert!(HALVES_WAIT.as_millis() < WAIT_MAX.as_millis());

/// The dead letters that a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// These deliveries; if an inbox is given, only those of that inbox.
    Ids(Vec<i64>, Option<Arc<str>>),
    /// The dead letters of an inbox whose delivery id is above this one.
    Inbox(Arc<str>, DeliveryId),
}

/// A request about dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    List { inbox: Arc<str>, after: DeliveryId, limit: usize },
    Redrive(Which),
    Purge(Which),
}

/// A request of an agent that has the right to make it.
#[derive(Debug)]
pub(crate) struct DeadRequest {
    /// The agent, for the log.
    pub agent: Arc<str>,
    /// A list, a redrive or a purge.
    pub ask: Ask,
    /// The request's `ref`, for the answer.
    pub reference: Option<String>,
    /// The time of the request, to drop it once it has waited too long.
    pub asked_at: Instant,
    /// The asking session, if it still lives.
    pub outbox: mpsc::WeakSender<ForSession>,
    /// The agent's turn, given back once the answer is written: only then is its next request taken.
    pub turn: OwnedSemaphorePermit,
}

/// Answers until every session is gone.
pub(crate) async fn run(pool: Pool, mut requests: mpsc::Receiver<DeadRequest>, wake: Arc<Notify>) {
    while let Some(request) = requests.recv().await {
        // The session is gone.
        if request.outbox.strong_count() == 0 {
            continue;
        }
        let answer = if request.asked_at.elapsed() > WAIT_MAX {
            Err(StoreError::unavailable("the database is away, or answers slowly"))
        } else {
            answer(&pool, &request).await
        };
        if matches!(answer, Ok(ServerFrame::Redriven(_))) {
            wake.notify_one();
        }
        let frame = answer.unwrap_or_else(|e| refusal(&e, request.reference.clone()));
        if let Some(outbox) = request.outbox.upgrade() {
            // If the outbox is full, its session is being closed as a slow reader.
            let _ = outbox.try_send(ForSession::Answer(Box::new(frame), request.turn));
        }
    }
}

async fn answer(pool: &Pool, request: &DeadRequest) -> Result<ServerFrame, StoreError> {
    carry_out(pool, &request.agent, &request.ask, request.reference.clone()).await
}

/// Carries out a request of somebody with the right to make it: an agent, or an operator by the HTTP API. After a
/// redrive the caller wakes the tail.
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn carry_out(
    pool: &Pool,
    by: &str,
    ask: &Ask,
    reference: Option<String>,
) -> Result<ServerFrame, StoreError> {
    match ask {
        Ask::List { inbox, after, limit } => {
            let most = (*limit).clamp(1, DEAD_LETTERS_MAX);
            // One more row than asked for tells whether there are more.
            let letters = dead::page(pool, inbox, *after, most as i64 + 1).await?;
            Ok(ServerFrame::DeadLetters(fit(letters, most, reference)))
        }
        Ask::Redrive(which) => {
            let (ids, inbox, from) = which.parameters();
            let done = dead::redrive_some(pool, ids, inbox, from, Instant::now() + HALVES_WAIT).await?;
            let inbox = inbox.unwrap_or("by number");
            tracing::info!(agent = by, inbox, count = done.count, "dead letters were redriven");
            Ok(ServerFrame::Redriven(which.done(by, "redriven", done, reference)?))
        }
        Ask::Purge(which) => {
            let (ids, inbox, from) = which.parameters();
            let done = dead::purge_some(pool, ids, inbox, from, Instant::now() + HALVES_WAIT).await?;
            let inbox = inbox.unwrap_or("by number");
            tracing::info!(agent = by, inbox, count = done.count, "dead letters were purged");
            Ok(ServerFrame::Purged(which.done(by, "purged", done, reference)?))
        }
    }
}

/// Cuts the list to `most` letters and to the bytes that one answer may have.
fn fit(mut letters: Vec<DeadLetter>, most: usize, reference: Option<String>) -> DeadLetters {
    let found = letters.len();
    let mut bytes = 0;
    let fits = |letter: &&DeadLetter| {
        bytes += serde_json::to_vec(letter).map_or(0, |json| json.len());
        bytes <= DEAD_LETTERS_BYTES_MAX
    };
    let shown = letters.iter().take(most).take_while(fits).count();
    letters.truncate(shown);
    DeadLetters { reference, letters, more: shown < found }
}

impl Which {
    fn parameters(&self) -> (Option<&[i64]>, Option<&str>, (DeliveryId, i64)) {
        let most = DEAD_IDS_MAX as i64;
        match self {
            Self::Ids(ids, inbox) => (Some(ids), inbox.as_deref(), (DeliveryId::MIN, most)),
            Self::Inbox(inbox, after) => (None, Some(inbox), (*after, most)),
        }
    }

    /// Builds the answer. An error tells which letters stay dead, and why, if they were asked for by id, or if
    /// nothing could be done for the inbox that was named. Otherwise the answer must say how to go on to the rest of
    /// the inbox, so the answer has the first reason, and the log has the others.
    fn done(
        &self,
        by: &str,
        what: &str,
        done: dead::Done,
        reference: Option<String>,
    ) -> Result<Done, StoreError> {
        let count = u64::try_from(done.count).unwrap_or(0);
        let more = matches!(self, Self::Inbox(..)) && done.looked >= DEAD_IDS_MAX as i64;
        if !done.is_whole() {
            let left = done.left();
            tracing::warn!(agent = by, count, left, "not all dead letters that were chosen were {what}");
            if matches!(self, Self::Ids(..)) || (count == 0 && !more) {
                let sentence = format!("{count} were {what}; {left}");
                let is_for_now = done.refused.is_empty();
                return Err(if is_for_now {
                    StoreError::unavailable(sentence)
                } else {
                    StoreError::refused(sentence)
                });
            }
        }
        let first = done.refused.first().map(ToString::to_string);
        let refused = first.map(|reason| Refused { count: done.refused.len() as u64, reason });
        Ok(Done { reference, count, last: done.last.map(|id| id.0), more, refused })
    }
}

fn refusal(error: &StoreError, reference: Option<String>) -> ServerFrame {
    let (code, sentence) = if error.is_retryable() {
        // The answer to a COMMIT may have been lost, so nobody knows whether the request was carried out.
        (ErrorCode::Unavailable, format!("{error}; it may or may not have been done: asking again is safe"))
    } else {
        (ErrorCode::Rejected, error.to_string())
    };
    ProtocolError::new(code, sentence).for_ref(reference).into()
}
