//! An answer: whole, or a stream of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";

pub(super) type HttpAnswer = Response<Content>;

/// The body of an answer.
pub(super) enum Content {
    /// Bytes that are known now; `None` once they are sent.
    Whole(Option<Bytes>),
    /// Bytes that come over time, until the sender is gone.
    Stream(mpsc::Receiver<Bytes>),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take()),
            Self::Stream(events) => events.poll_recv(context),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.as_ref().is_none_or(Bytes::is_empty))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

pub(super) fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> HttpAnswer {
    with(status, kind, Content::Whole(Some(body.into())))
}

pub(super) fn stream(events: mpsc::Receiver<Bytes>) -> HttpAnswer {
    let mut answer = with(StatusCode::OK, "text/event-stream", Content::Stream(events));
    // A proxy that gathers answers would keep each event until its buffer is full.
    answer.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    answer
}

pub(super) fn json(value: &impl Serialize) -> HttpAnswer {
    // Strings, numbers and lists always serialize.
    respond(StatusCode::OK, JSON, serde_json::to_vec(value).unwrap_or_default())
}

/// The answer if there is no place for a request. Health and metrics have places of their own.
pub(super) fn busy() -> HttpAnswer {
    let sentence = "As many requests are answered as may be at a time; come again in a while.\n";
    let mut answer = respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, sentence);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
    answer
}

pub(super) fn not_allowed(methods: &'static str) -> HttpAnswer {
    let sentence = match methods {
        "POST" => "Only POST is answered here.\n",
        _ => "Only GET and HEAD are answered here.\n",
    };
    let mut answer = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, sentence);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

fn with(status: StatusCode, kind: &'static str, content: Content) -> HttpAnswer {
    let mut answer = Response::new(content);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // A health answer from a proxy's cache would be wrong.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
