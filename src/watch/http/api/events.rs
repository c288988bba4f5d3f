//! `/api/events`: the flow, and the mesh whenever it changed, as server-sent events.

use std::net::IpAddr;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::admission::Who;
use super::{Refusal, Site};
use crate::watch::http::HttpConnection;
use crate::watch::http::answer::{HttpAnswer, stream};
use crate::watch::http::places::Cut;
use crate::watch::status::event_text;
use postbell_engine::guard::Source;

/// The most events that wait for a reader besides those in its socket.
const WAITING_MAX: usize = 4;
/// A reader that takes nothing for this long is closed, because it would only fall further behind.
const READ_WAIT: Duration = Duration::from_secs(10);
/// The longest silence, after which a comment is sent: a proxy then keeps the connection, and the reader knows that
/// it is up.
const KEEP_EVERY: Duration = Duration::from_secs(15);
/// The longest that a stream lasts. The reader then comes again, since its rights may have changed.
const LIFE: Duration = Duration::from_secs(600);
/// How long to wait for a watcher that gives up its place, and how often to look.
const LEAVE_WAIT: Duration = Duration::from_secs(1);
const LEAVE_POLL: Duration = Duration::from_millis(5);
/// The time, in milliseconds, that a reader waits before it comes again.
const COME_AGAIN: &str = "retry: 2000\n\n";

// The usual proxies wait at least half a minute.
const _: () = assert!(KEEP_EVERY.as_secs() < 30 && READ_WAIT.as_secs() < LIFE.as_secs());

/// The holder of a place to watch. Behind a proxy everybody has one address, so the holder of a token has places of
/// its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Watcher {
    /// Somebody without a token.
    At(Source),
    /// A viewer, an operator or an orchestrator.
    Named(String),
}

pub(super) async fn events(
    site: &Site,
    who: &Who,
    peer: IpAddr,
    connection: &HttpConnection,
) -> Result<HttpAnswer, Refusal> {
    let watcher = who.name.clone().map_or_else(|| Watcher::At(Source::of(peer)), Watcher::Named);
    let full = || {
        let sentence =
            "as many watch as may at a time; come again in a while, or with a token that fewer use";
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence)
    };
    let cut = Cut::default();
    let seat = site.seats.enter(watcher, &cut).ok_or_else(full)?;
    // A watcher that gave up its place for this one needs a moment to leave.
    let live = timeout(LEAVE_WAIT, async {
        loop {
            match site.status.watch() {
                Some(live) => break live,
                None => sleep(LEAVE_POLL).await,
            }
        }
    });
    let live = live.await.map_err(|_| full())?;
    let mesh = site.status.mesh().await;
    let (events, body) = mpsc::channel(WAITING_MAX);
    let first = [COME_AGAIN.as_bytes(), &event_text("mesh", &mesh)].concat();
    // The channel is new, so it has room.
    let _ = events.try_send(first.into());
    let connection = connection.clone();
    connection.is_stream();
    tokio::spawn(async move {
        // `live` as a whole: with the receiver alone, its place to watch would be given back at once.
        let (mut live, _seat) = (live, seat);
        tokio::select! {
            () = pass_on(&mut live.events, events) => {}
            () = connection.stopping() => {}
            () = cut.notified() => {}
        }
        connection.end();
    });
    Ok(stream(body))
}

/// Passes events on until the reader is gone or too slow, or the stream has lasted long enough.
async fn pass_on(live: &mut broadcast::Receiver<Bytes>, events: mpsc::Sender<Bytes>) {
    let until = Instant::now() + LIFE;
    loop {
        let next = tokio::select! {
            next = timeout(KEEP_EVERY, live.recv()) => next,
            // The reader may be gone although nothing is sent that would tell.
            () = events.closed() => return,
        };
        let bytes = match next {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(RecvError::Lagged(_) | RecvError::Closed)) => return,
            Err(_) => Bytes::from_static(b": still here\n\n"),
        };
        let sent = timeout(READ_WAIT, events.send(bytes)).await;
        if !matches!(sent, Ok(Ok(()))) || Instant::now() >= until {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Bytes {
        Bytes::from_static(b"event: flow\ndata: {}\n\n")
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_left() {
        let (tell, mut live) = broadcast::channel(64);
        let (events, mut body) = mpsc::channel(WAITING_MAX);
        for _ in 0..=WAITING_MAX {
            tell.send(event()).expect("somebody listens");
        }
        let began = Instant::now();
        pass_on(&mut live, events).await;
        assert_eq!(began.elapsed(), READ_WAIT);
        let mut taken = 0;
        while body.recv().await.is_some() {
            taken += 1;
        }
        assert_eq!(taken, WAITING_MAX, "and its stream ends");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_too_far_behind_is_left_at_once() {
        let (tell, mut live) = broadcast::channel(2);
        let (events, _body) = mpsc::channel(WAITING_MAX);
        for _ in 0..3 {
            tell.send(event()).expect("somebody listens");
        }
        let began = Instant::now();
        pass_on(&mut live, events).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_broken_and_a_stream_does_not_last_for_ever() {
        let (_tell, mut live) = broadcast::channel(2);
        let (events, mut body) = mpsc::channel(WAITING_MAX);
        let began = Instant::now();
        let (_, said) = tokio::join!(pass_on(&mut live, events), async {
            let mut said = Vec::new();
            while let Some(bytes) = body.recv().await {
                said.push(bytes);
            }
            said
        });
        assert_eq!(said[0], &b": still here\n\n"[..]);
        assert_eq!(began.elapsed(), LIFE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_is_left() {
        let (_tell, mut live) = broadcast::channel(2);
        let (events, body) = mpsc::channel(WAITING_MAX);
        drop(body);
        pass_on(&mut live, events).await;
    }
}
