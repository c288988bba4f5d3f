//! The broker, in a process of its own, as a user starts it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use postbell::devdb::KeptPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::machine::Process;

const READY_WAIT: Duration = Duration::from_secs(30);
const STOP_WAIT: Duration = Duration::from_secs(40);

/// A broker's process; it is killed if this is dropped before [`stop`](Self::stop).
pub(crate) struct Broker {
    /// Where its agents connect.
    pub(crate) url: String,
    /// The same place as an address.
    pub(crate) address: SocketAddr,
    /// The process, to read its memory and processor time.
    pub(crate) process: Process,
    ports: Ports,
    child: Child,
    log: PathBuf,
}

/// Where a broker listens on loopback, also when it starts again.
pub(crate) struct Ports {
    agents: KeptPort,
    http: KeptPort,
}

impl Ports {
    /// Two free ports.
    ///
    /// # Errors
    /// The system has no free port.
    pub(crate) fn free() -> anyhow::Result<Self> {
        Ok(Self { agents: KeptPort::take()?, http: KeptPort::take()? })
    }
}

impl Broker {
    /// Starts the broker and waits until it is ready; `postbell` is the program with its database.
    ///
    /// # Errors
    /// The broker ended, or was not ready in time.
    pub(crate) async fn start(mut postbell: Command, folder: &Path, ports: Ports) -> anyhow::Result<Self> {
        let (address, http) = (ports.agents.address(), ports.http.address());
        let log = folder.join(format!("broker-{}.log", address.port()));
        postbell
            .arg("serve")
            .env("POSTBELL_LISTEN", address.to_string())
            .env("POSTBELL_HTTP", http.to_string())
            .env("POSTBELL_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true);
        let mut child = postbell.spawn().context("the broker cannot be started")?;
        let since = Instant::now();
        while get(http, "/health/ready").await.is_none() {
            if let Some(status) = child.try_wait()? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("the broker ended ({status}): {}", said.trim());
            }
            if since.elapsed() > READY_WAIT {
                bail!("the broker was not ready in {} s", READY_WAIT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let process = Process(child.id().context("the broker has just ended")?);
        Ok(Self { url: format!("tcp://{address}"), address, process, ports, child, log })
    }

    /// Stops the broker in order, and returns the warnings in its log.
    ///
    /// # Errors
    /// The broker did not stop, or ended with a failing status: a defect.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Vec<String>> {
        let asked = Command::new("kill").args(["-TERM", &self.process.0.to_string()]).status().await?;
        if !asked.success() {
            bail!("the broker was gone before it was stopped: {}", self.said().join(" | "));
        }
        let status =
            tokio::time::timeout(STOP_WAIT, self.child.wait()).await.context("the broker did not stop")??;
        if !status.success() {
            bail!("the broker ended with {status}: {}", self.said().join(" | "));
        }
        Ok(self.said())
    }

    /// Kills the broker, as the loss of power would, and returns its ports.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) async fn crash(mut self) -> anyhow::Result<Ports> {
        self.child.kill().await?;
        Ok(self.ports)
    }

    fn said(&self) -> Vec<String> {
        std::fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

/// The body of an answer with status 200.
async fn get(http: SocketAddr, path: &str) -> Option<String> {
    let asked = async {
        let mut socket = TcpStream::connect(http).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = asked.await.ok().filter(|answer| answer.starts_with("HTTP/1.1 200"))?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}
