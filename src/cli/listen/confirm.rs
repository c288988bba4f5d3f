//! Outcomes that count: an ack is one once the broker has written it. A broker that dies meanwhile delivers the message again.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::exec::{Handled, HandlingEnd, heard};
use super::tally::Of;
use crate::cli::signals::Told;
use postbell_client::Delivery;

/// So long may the broker take to write it.
const CONFIRM_WAIT: Duration = Duration::from_secs(30);
/// And so long once this process was told to end.
const LEAVE_WAIT: Duration = Duration::from_secs(3);

/// Acknowledges a message that was handled.
pub(super) async fn acked(delivery: Delivery, told: watch::Receiver<Option<(Told, u32)>>) -> Handled {
    let of = Of::from(&delivery);
    let id = delivery.id();
    let end = match confirmed(delivery, told).await {
        Ok(()) => HandlingEnd::Acked,
        Err(reason) => {
            tracing::warn!(%id, %reason, "the message was handled, and may come again");
            HandlingEnd::Untold(format!("it was handled, and the broker was not told: {reason}"))
        }
    };
    Handled { of, end }
}

async fn confirmed(delivery: Delivery, mut told: watch::Receiver<Option<(Told, u32)>>) -> Result<(), String> {
    let leaving = async {
        heard(&mut told, 1).await;
        sleep(LEAVE_WAIT).await;
    };
    tokio::select! {
        answer = timeout(CONFIRM_WAIT, delivery.ack_confirmed()) => match answer {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(_) => Err(format!("it did not confirm that in {} s", CONFIRM_WAIT.as_secs())),
        },
        () = leaving => Err("it did not confirm that before this process had to end".to_owned()),
    }
}
