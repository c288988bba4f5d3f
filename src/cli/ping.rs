//! `postbell ping`: one message through the whole mesh and back, each hop timed.

use std::cell::Cell;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::Instant;

use anyhow::bail;
use serde::Serialize;
use serde_json::json;
use tokio::time::timeout;
use uuid::Uuid;

use super::send::ConnectArgs;
use super::{Exit, output};
use postbell_client::message::{MessageType, Priority};
use postbell_client::{Client, ClientError, Deliveries, Delivery, Outgoing, State};

/// Marks the messages of `ping`, so that a late one of an earlier ping is recognised.
const KEY_PREFIX: &str = "postbell-ping-";

/// Send a message to ourselves through the mesh, and say how long each hop took
///
/// The broker stores the message (COMMIT), the trigger and the tail bring it back, the broker pushes it, and its ack
/// is committed: the whole way of a message between two agents, at priority 1. Use an agent of its own: a message of
/// somebody else's ends the ping and stays in the inbox.
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 every round trip was done in time; 1 one was not; 64 wrong usage.

Example, with an agent for this once:
  POSTBELL_TOKEN=$(postbell agent add probe) postbell ping --agent probe && postbell agent remove probe")]
pub(super) struct PingArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// How many round trips, one after the other
    #[arg(long, env = "POSTBELL_COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// How long each may take, connecting too: the promise is 5s
    #[arg(long, env = "POSTBELL_WITHIN", default_value = "5s", value_parser = humantime::parse_duration)]
    within: Duration,
    /// Print JSON
    #[arg(long, env = "POSTBELL_JSON")]
    json: bool,
}

/// How long each hop took, in milliseconds.
#[derive(Clone, Copy, Serialize)]
struct Hops {
    /// From the send until its COMMIT was confirmed.
    stored_ms: f64,
    /// From the send until the delivery was here.
    delivered_ms: f64,
    /// From the ack until its COMMIT was confirmed.
    acked_ms: f64,
}

pub(super) async fn run(args: PingArgs) -> Exit {
    let began = Instant::now();
    let connecting = args.connect.builder()?.connect();
    let Ok(connected) = timeout(args.within, connecting).await else {
        bail!("no welcome came within {}", humantime::format_duration(args.within));
    };
    let (client, mut deliveries) = connected?;
    show_welcome(began, &args);
    let mut result = Ok(());
    for _ in 0..args.count {
        match ping(&client, &mut deliveries, &args).await {
            Ok(hops) => show(hops, args.json),
            Err(e) => {
                result = Err(e);
                break;
            }
        }
    }
    client.close().await;
    result.map(|()| ExitCode::SUCCESS)
}

/// One round trip. The error names the hop that was not passed in time.
async fn ping(client: &Client, deliveries: &mut Deliveries, args: &PingArgs) -> anyhow::Result<Hops> {
    let reached = Cell::new("it was not stored");
    match timeout(args.within, round_trip(client, deliveries, args, &reached)).await {
        Ok(hops) => hops,
        Err(_) => {
            let within = humantime::format_duration(args.within);
            bail!("no round trip within {within}: {}", reached.get());
        }
    }
}

async fn round_trip(
    client: &Client,
    deliveries: &mut Deliveries,
    args: &PingArgs,
    reached: &Cell<&'static str>,
) -> anyhow::Result<Hops> {
    let key = format!("{KEY_PREFIX}{}", Uuid::new_v4());
    let message = Outgoing::new(&args.connect.agent, MessageType::Heartbeat, &json!({"ping": key}))?
        .priority(Priority::new(1).unwrap_or_default())
        .correlation_id(&key)
        // If this process ends first, the message expires and does not stay in the inbox.
        .ttl(args.within.saturating_mul(2));
    let sent = Instant::now();
    let receipt = client.submit(message).await?;
    let stored = async {
        receipt.committed().await?;
        reached.set("it was stored (COMMIT), but not delivered");
        anyhow::Ok(ms(sent))
    };
    let delivered = async {
        let delivery = ours(client, deliveries, &key).await?;
        anyhow::Ok((ms(sent), delivery))
    };
    // The delivery may be here before the answer to the send is.
    let (stored_ms, (delivered_ms, delivery)) = tokio::try_join!(stored, delivered)?;
    reached.set("it was delivered, but its ack not committed");
    let acking = Instant::now();
    delivery.ack_confirmed().await?;
    Ok(Hops { stored_ms, delivered_ms, acked_ms: ms(acking) })
}

/// The delivery with this key. Late ones of earlier pings are acknowledged; any other is an error, and is left to the
/// agent.
async fn ours(client: &Client, deliveries: &mut Deliveries, key: &str) -> anyhow::Result<Delivery> {
    while let Some(delivery) = deliveries.next().await {
        match delivery.correlation_id() {
            Some(found) if found == key => return Ok(delivery),
            Some(found) if found.starts_with(KEY_PREFIX) => delivery.ack().await,
            _ => bail!(
                "a message from {} waits for this agent, and is left to it: ping with an agent of its own \
                 (`postbell agent add NAME`)",
                delivery.from()
            ),
        }
    }
    let end = client.state().borrow().clone();
    Err(match end {
        State::Closed(e) => e,
        _ => ClientError::Closed,
    }
    .into())
}

fn ms(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 100_000.0).round() / 100.0
}

fn show_welcome(began: Instant, args: &PingArgs) {
    let connected_ms = ms(began);
    if args.json {
        output::json(&json!({"url": args.connect.url, "connected_ms": connected_ms}));
    } else {
        output::line(&format!("welcomed by {} after {connected_ms} ms", args.connect.url));
    }
}

fn show(hops: Hops, as_json: bool) {
    let Hops { stored_ms, delivered_ms, acked_ms } = hops;
    if as_json {
        output::json(&hops);
    } else {
        let text = format!(
            "stored after {stored_ms} ms, delivered after {delivered_ms} ms, acknowledged in {acked_ms} ms"
        );
        output::line(&text);
    }
}
