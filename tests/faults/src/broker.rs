//! A broker's process, started again after each death on the same ports, so that the proxies find it again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

use crate::process::Process;
use crate::schedule::letter;

/// The hidden command under which this crate's program is `postbell`, so that both are always of one build.
pub const COMMAND: &str = "postbell";
/// Seconds after which a delivery counts as failed: few, so that a stopped agent exceeds them.
pub const ACK_DEADLINE: &str = "5";
const DRAIN: &str = "4";
const READY_WAIT: Duration = Duration::from_secs(30);
const STOP_WAIT: Duration = Duration::from_secs(20);
const HTTP_WAIT: Duration = Duration::from_secs(1);

/// A broker, in its present life.
pub struct Broker {
    /// The process of this life.
    pub process: Process,
    index: usize,
    life: u32,
    setup: Setup,
}

/// The settings that a broker keeps over its lives.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The program that is `postbell` under [`COMMAND`].
    pub program: PathBuf,
    /// The URL of the proxy before the database.
    pub database_url: String,
    /// The agents' port.
    pub agents: SocketAddr,
    /// The port of its metrics; no proxy is before it.
    pub http: SocketAddr,
    /// The proxy before its agents' port, which the broker advertises.
    pub advertise: SocketAddr,
    /// The folder of its log.
    pub logs: PathBuf,
}

impl Broker {
    /// Starts the broker without waiting until it is ready.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn start(index: usize, setup: Setup) -> anyhow::Result<Self> {
        Ok(Self { process: setup.start(index, 1)?, index, life: 1, setup })
    }

    /// Starts the broker's next life.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.life += 1;
        self.process = self.setup.start(self.index, self.life)?;
        Ok(())
    }

    /// The number of this life, from 1.
    pub fn life(&self) -> u32 {
        self.life
    }

    /// Waits until the broker says that it is ready.
    ///
    /// # Errors
    /// The broker ended, or was not ready in time.
    pub async fn until_ready(&mut self) -> anyhow::Result<()> {
        let since = Instant::now();
        while !is_ready(self.setup.http).await {
            if let Some(status) = self.process.ended() {
                bail!("broker {} ended at its start ({status})", letter(self.index));
            }
            if since.elapsed() > READY_WAIT {
                bail!("broker {} was not ready in {} s", letter(self.index), READY_WAIT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Stops the broker in order.
    ///
    /// # Errors
    /// The broker did not stop, or ended with a failing status: a defect.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let status = self.process.terminate(STOP_WAIT).await?;
        if !status.success() {
            bail!("broker {} ended with {status} after a SIGTERM", letter(self.index));
        }
        Ok(())
    }

    /// The address of its HTTP port.
    pub fn http(&self) -> SocketAddr {
        self.setup.http
    }
}

impl Setup {
    fn start(&self, index: usize, life: u32) -> anyhow::Result<Process> {
        let mut command = Command::new(&self.program);
        command.args([COMMAND, "serve"]).env_clear().envs([
            ("DATABASE_URL", self.database_url.clone()),
            ("POSTBELL_LISTEN", self.agents.to_string()),
            ("POSTBELL_HTTP", self.http.to_string()),
            ("POSTBELL_ADVERTISE", self.advertise.to_string()),
            ("POSTBELL_NAME", letter(index).to_string()),
            ("POSTBELL_ACK_DEADLINE_SECONDS", ACK_DEADLINE.to_owned()),
            ("POSTBELL_RETRY_BASE_MS", "100".to_owned()),
            ("POSTBELL_DRAIN_SECONDS", DRAIN.to_owned()),
            ("POSTBELL_LOG", std::env::var("POSTBELL_LOG").unwrap_or_else(|_| "info".to_owned())),
        ]);
        Process::start(command, &log(&self.logs, index, life))
    }
}

fn log(folder: &Path, index: usize, life: u32) -> PathBuf {
    folder.join(format!("broker-{}-{life}.log", letter(index)))
}

/// Whether a broker says that it is ready.
pub async fn is_ready(http: SocketAddr) -> bool {
    get(http, "/health/ready").await.is_some()
}

/// The value of a series without labels, as a broker's `/metrics` have it.
pub async fn metric(http: SocketAddr, name: &str) -> Option<u64> {
    let text = get(http, "/metrics").await?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    Some(value.trim().parse::<f64>().ok()? as u64)
}

/// The body of an answer with status 200.
async fn get(at: SocketAddr, path: &str) -> Option<String> {
    let asked = async {
        let mut socket = TcpStream::connect(at).await.context("connect")?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer =
        timeout(HTTP_WAIT, asked).await.ok()?.ok().filter(|answer| answer.starts_with("HTTP/1.1 200"))?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}
