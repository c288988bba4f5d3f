//! `python`: 50,000 waiting messages of 200 bytes, and one process of the Python library that takes them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

use super::Spec;
use super::drain::{by_sql, floor_connection};
use crate::agents::{TOKEN, register};
use crate::bench::{Bench, Found};
use crate::broker::Broker;
use crate::ledger::Ledger;
use crate::load::fill_with;
use crate::report::{Better, Count};

const PAYLOAD_BYTES: usize = 200;
const ASKED: f64 = 15_000.0;
const LEFT: &str = "select count(*) from postbell.deliveries where inbox = $1";
/// Far longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const SPEC: Spec = Spec {
    name: "python",
    about: "How fast 50,000 waiting messages of 200 bytes reach one process of the Python library that acknowledges \
            each, beside plain SQL that reads and settles the same rows.",
    method: "The floor is the one of `drain`: batches of 500 on one connection, no broker, no agent. Then \
             `clients/python/bench/receive.py` (window 1,000) takes as many from the broker, acknowledging each by \
             itself; the clock runs from before it connects until it has left, which it does when every ack is \
             committed. The interpreter's own start is not in it. The floor and the process take turns; ratios are \
             taken within each round. POSTBELL_PYTHON names another interpreter than python3.",
    run: |bench| Box::pin(run(bench)),
};

/// The line that the process prints when it has all messages.
#[derive(Deserialize)]
struct Said {
    received: u64,
    duplicated: u64,
    received_seconds: f64,
    settled_seconds: f64,
}

async fn run(bench: &Bench<'_>) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let Some(script) = script() else {
        found.left_out("there is no clients/python beside this program's sources")?;
        return Ok(found);
    };
    let python = std::env::var("POSTBELL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let Some(version) = version(&python).await else {
        found.left_out(&format!("there is no {python} of 3.10 or newer here"))?;
        return Ok(found);
    };
    let sql = bench.database.sql().await?;
    let (rounds, messages) = (bench.size(5, 1), bench.size(50_000, 2_000));
    let names = register(&sql, "agent", rounds).await?;
    let floors = register(&sql, "floor", rounds).await?;
    let broker = bench.stage.broker(bench.database).await?;
    let raw = floor_connection(bench).await?;

    let (mut floor, mut settled, mut received, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let ledger = Ledger::new(messages);
        bench.step("filling", round * 3, rounds * 3);
        fill_with(&sql, &floors[round], 0..messages, PAYLOAD_BYTES, &ledger).await?;
        fill_with(&sql, &names[round], 0..messages, PAYLOAD_BYTES, &ledger).await?;
        sql.batch_execute("vacuum analyze agent_messages, postbell.deliveries").await?;
        sql.batch_execute("checkpoint").await?;

        bench.step("plain SQL", round * 3 + 1, rounds * 3);
        floor.push(messages as f64 / by_sql(&raw, &floors[round]).await?);
        bench.step("by Python", round * 3 + 2, rounds * 3);
        let said = receive(&python, &script, &broker, &names[round], messages).await?;
        let left: i64 = sql.query_one(LEFT, &[&names[round]]).await?.get(0);
        ensure!(left == 0, "{left} deliveries are not settled though every ack was answered");
        received.push(messages as f64 / said.received_seconds);
        settled.push(messages as f64 / said.settled_seconds);
        ratios.push(settled[round] / floor[round]);
        let sent = messages as u64;
        found.count(Count {
            sent,
            received: said.received,
            lost: sent - said.received,
            duplicated: said.duplicated,
        });
    }
    broker.stop().await?;
    found.note(format!("{python} is {version}."));
    found.measure("plain SQL", "msg/s", Better::Higher, floor);
    found.measure("received", "msg/s", Better::Higher, received);
    let rate = found.measure("received and settled", "msg/s", Better::Higher, settled);
    found.measure("settled / plain SQL", "", Better::Higher, ratios);
    found.at_least(
        "python: ≥ 15,000 messages a second received and acknowledged in one process",
        rate,
        ASKED,
        "msg/s",
    );
    Ok(found)
}

/// Runs the process until it has all messages and has left.
async fn receive(
    python: &str,
    script: &Path,
    broker: &Broker,
    name: &str,
    messages: usize,
) -> anyhow::Result<Said> {
    let child = Command::new(python)
        .arg(script)
        .arg(messages.to_string())
        .env("POSTBELL_URL", &broker.url)
        .env("POSTBELL_AGENT", name)
        .env("POSTBELL_TOKEN", TOKEN)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{python} cannot be started"))?;
    let ended =
        timeout(PATIENCE, child.wait_with_output()).await.context("it did not have them all in time")??;
    ensure!(
        ended.status.success(),
        "{}: {}",
        script.display(),
        String::from_utf8_lossy(&ended.stderr).trim()
    );
    Ok(serde_json::from_slice(&ended.stdout)?)
}

/// The program of the process, in the clone that this was built in.
fn script() -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/python/bench/receive.py");
    file.exists().then_some(file)
}

/// The interpreter's name and version, if the library can run on it.
async fn version(python: &str) -> Option<String> {
    let code = "import platform, sys; sys.version_info < (3, 10) and sys.exit(1); \
                print(platform.python_implementation(), platform.python_version())";
    let asked = Command::new(python).args(["-c", code]).stderr(Stdio::null()).output().await.ok()?;
    let said = String::from_utf8(asked.stdout).ok()?;
    asked.status.success().then(|| said.trim().to_owned())
}
