//! How a broker stops: agents leave one after the other, finish what they have in flight, and find their messages
//! elsewhere.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::Stopped;
use crate::agents::session::Phase;
use crate::pipeline::dispatch::{Input, Inputs, Load};
use postbell_engine::inbox::event::Event;

/// How long the last outcomes and giving back the inboxes may take, once the sessions have ended.
pub(super) const SETTLE_WAIT: Duration = Duration::from_secs(5);
/// How many sessions are asked to leave in a second: as many as another broker welcomes without a queue.
const DRAINS_PER_SECOND: f64 = 1_000.0;
/// How long a session without deliveries in flight has for its goodbye after it was asked to leave.
const GOODBYE_WAIT: Duration = Duration::from_millis(500);

/// Asks each session to leave, at moments spread over at most half of `patience`. Waits until nothing is in flight or
/// `patience` is over, then ends the sessions. At last waits until the outcomes are written and the inboxes given
/// back.
pub(super) async fn drain(
    patience: Duration,
    inputs: Inputs,
    phase: &watch::Sender<Phase>,
    mut load: watch::Receiver<Load>,
    mut linked: watch::Receiver<usize>,
) -> Stopped {
    let spread = spread(patience, load.borrow().sessions);
    phase.send_replace(Phase::Draining(spread));
    let mut idle = load.clone();
    let finished = async {
        tokio::select! {
            _ = load.wait_for(|load| load.sessions == 0 && load.is_settled()) => {}
            () = async {
                sleep(spread + GOODBYE_WAIT).await;
                // Every session was asked to leave and is pushed nothing new, so these counts only fall.
                let _ = linked.wait_for(|n| *n == 0).await;
                let _ = idle.wait_for(|load| load.in_flight == 0 && load.is_settled()).await;
            } => {}
        }
    };
    let finished = timeout(patience, finished).await.is_ok();
    let given_back = if finished { 0 } else { load.borrow().in_flight + *linked.borrow() };
    // The dispatcher's task may be gone, by a defect: the sessions end all the same.
    let _ = inputs.send(Input::Event(Event::Stop)).await;
    drop(inputs);
    phase.send_replace(Phase::Closing);
    // An inbox with an outcome that can be written nowhere is not given back here: its lease goes with all others.
    let is_over =
        |load: &Load| load.sessions == 0 && load.is_settled() && (load.hurt > 0 || !load.has_inboxes);
    let settled = timeout(SETTLE_WAIT, load.wait_for(is_over)).await.is_ok();
    let left = *load.borrow();
    let unsettled = if settled && left.hurt == 0 { 0 } else { left.unsettled };
    Stopped { given_back, unsettled, broken: false }
}

fn spread(patience: Duration, sessions: usize) -> Duration {
    Duration::from_secs_f64(sessions as f64 / DRAINS_PER_SECOND).min(patience / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sessions_leave_over_at_most_half_of_the_time() {
        let second = Duration::from_secs(1);
        assert_eq!(spread(second * 20, 3), second * 3 / 1_000);
        assert_eq!(spread(second * 20, 5_000), second * 5);
        assert_eq!(spread(second * 20, 50_000), second * 10);
        assert_eq!(spread(Duration::ZERO, 50_000), Duration::ZERO);
    }
}
