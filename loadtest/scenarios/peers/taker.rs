//! The process that takes messages: every contestant has one, and all report by the same lines.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::alone::nanoseconds;
use crate::ledger::Ledger;

/// Longer than any process needs to start, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that waits for the order to begin.
pub(super) struct Poised {
    child: Child,
    orders: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    errors: JoinHandle<String>,
}

/// A process that takes messages.
pub(super) struct Taker {
    child: Child,
    orders: ChildStdin,
    reading: JoinHandle<anyhow::Result<()>>,
    errors: JoinHandle<String>,
}

impl Poised {
    /// Starts the process, which loads all it needs and connects nowhere yet.
    ///
    /// # Errors
    /// The process cannot be started, or ends.
    pub(super) async fn start(command: &mut Command) -> anyhow::Result<Self> {
        let name = Path::new(command.as_std().get_program()).display().to_string();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{name} cannot be started"))?;
        let orders = child.stdin.take().context("no standard input")?;
        let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        let mut stderr = child.stderr.take().context("no standard error")?;
        let errors = tokio::spawn(async move {
            let mut said = String::new();
            // Without an end that can be read, the process's status says all.
            let _ = stderr.read_to_string(&mut said).await;
            said
        });
        let mut waiting = Self { child, orders, lines, errors };
        waiting.expect("ready").await?;
        Ok(waiting)
    }

    /// Orders the process to begin; its receipts go to this ledger. Returns when it takes messages.
    ///
    /// # Errors
    /// The process ends.
    pub(super) async fn begin(mut self, ledger: &Arc<Ledger>) -> anyhow::Result<Taker> {
        self.orders.write_all(b"go\n").await?;
        self.expect("taking").await?;
        let Self { child, orders, lines, errors } = self;
        Ok(Taker { child, orders, reading: tokio::spawn(read(lines, ledger.clone())), errors })
    }

    async fn expect(&mut self, wanted: &str) -> anyhow::Result<()> {
        let said = timeout(PATIENCE, self.lines.next_line()).await;
        let said = said.with_context(|| format!("it did not say {wanted:?} in time"))??;
        match said {
            Some(said) if said == wanted => Ok(()),
            Some(said) => bail!("it said {said:?} instead of {wanted:?}"),
            None => bail!("it ended before it said {wanted:?}: {}", (&mut self.errors).await?.trim()),
        }
    }
}

impl Taker {
    /// Orders the process to stop, and waits until all its receipts are in the ledger.
    ///
    /// # Errors
    /// The process failed.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        let Self { mut child, mut orders, reading, errors } = self;
        // A process that has ended says more by its status than by its pipe.
        let _ = orders.write_all(b"stop\n").await;
        drop(orders);
        let status = timeout(PATIENCE, child.wait()).await.context("it did not stop")??;
        let said = errors.await?;
        ensure!(status.success(), "it ended with {status}: {}", said.trim());
        reading.await?
    }
}

/// Reads receipts until the process ends.
async fn read(mut lines: Lines<BufReader<ChildStdout>>, ledger: Arc<Ledger>) -> anyhow::Result<()> {
    // Both clocks are one, which `Instant` does not show.
    let (now, nanos) = (Instant::now(), nanoseconds());
    while let Some(line) = lines.next_line().await? {
        let (n, at) = receipt(&line).with_context(|| format!("{line:?} is no receipt"))?;
        let age = nanos as i128 - at as i128;
        let moment = if age >= 0 {
            now.checked_sub(Duration::from_nanos(age as u64))
        } else {
            now.checked_add(Duration::from_nanos(-age as u64))
        };
        ledger.receive(n, moment.context("a moment before this machine began")?);
    }
    Ok(())
}

/// The number and the nanosecond of a receipt.
fn receipt(line: &str) -> Option<(usize, u64)> {
    let (n, at) = line.split_once(' ')?;
    Some((n.parse().ok()?, at.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_a_number_and_a_moment() {
        assert_eq!(receipt("17 1200"), Some((17, 1200)));
        assert_eq!(receipt("17"), None);
        assert_eq!(receipt("undefined 1200"), None);
    }

    #[tokio::test]
    async fn a_process_reports_until_it_is_told_to_stop() {
        // More than fits into a pipe, so that the last receipts are read after the process has ended.
        let script = "echo ready; read go; echo taking; echo '0 5'; read stop; seq 1 19999 | sed 's/$/ 5/'";
        let ledger = Arc::new(Ledger::new(20_000));
        let waiting = Poised::start(Command::new("sh").args(["-c", script])).await.expect("starts");
        let taker = waiting.begin(&ledger).await.expect("begins");
        ledger.wait_for(1).await;
        taker.stop().await.expect("stops");
        assert_eq!(ledger.received(), 20_000);
    }

    #[tokio::test]
    async fn a_process_that_fails_says_why() {
        let script = "echo ready; read go; echo 'no server' >&2; exit 3";
        let waiting = Poised::start(Command::new("sh").args(["-c", script])).await.expect("starts");
        let failed = waiting.begin(&Arc::new(Ledger::new(1))).await.err().expect("fails");
        assert!(failed.to_string().contains("no server"), "{failed}");
    }
}
