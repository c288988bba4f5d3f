//! An agent in a process of its own, which reports what it takes by lines: `peers/README.md` has them.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use postbell_client::{Builder, Delivery};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

use crate::agents::TOKEN;
use crate::ledger::number;

/// The hidden command under which this program is the agent.
pub(crate) const AGENT_COMMAND: &str = "agent";
/// Where the process finds its broker and its name.
pub(crate) const URL: &str = "POSTBELL_URL";
pub(crate) const AGENT: &str = "POSTBELL_AGENT";

const WINDOW: u32 = 1_000;
/// How long a receipt may wait to be written: the load test takes its moment from its line.
const WRITE_EVERY: Duration = Duration::from_millis(10);

/// Runs the agent until it is told to stop.
pub(crate) fn main() -> ExitCode {
    // Takers in other languages have one thread as well.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.context("no runtime").and_then(|runtime| runtime.block_on(run()));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("agent: {e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let (url, name) = (variable(URL)?, variable(AGENT)?);
    let mut orders = BufReader::new(stdin()).lines();
    write("ready\n")?;
    orders.next_line().await?;
    let (client, mut deliveries) = Builder::new(&url, &name, TOKEN).window(WINDOW).connect().await?;
    write("taking\n")?;
    let (mut gathered, mut clock) = (String::new(), tokio::time::interval(WRITE_EVERY));
    loop {
        tokio::select! {
            delivery = deliveries.next() => {
                let delivery = delivery.context("the broker ended the session for good")?;
                take(delivery, &mut gathered).await;
            }
            _ = clock.tick() => write(&std::mem::take(&mut gathered))?,
            // The next order is to stop; the end of the orders says the same.
            _ = orders.next_line() => break,
        }
    }
    client.close().await;
    write(&gathered)
}

/// Notes and acknowledges a delivery. A payload without a number is not the load test's: the impossible number spoils
/// its count, so that this shows.
async fn take(delivery: Delivery, gathered: &mut String) {
    let at = nanoseconds();
    let n = number(delivery.payload()).unwrap_or(usize::MAX);
    gathered.push_str(&format!("{n} {at}\n"));
    delivery.ack().await;
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The moment by the clock that every process of this machine has in common.
pub(crate) fn nanoseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
