//! NATS JetStream: a server in a process of its own, and a client of a few lines that publishes.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use postbell::devdb::KeptPort;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const READY_WAIT: Duration = Duration::from_secs(10);
/// The stream, its subject, and the consumer that `peers/nats/take.mjs` makes.
const SUBJECT: &str = "work";
const CONSUMER: &str = "$JS.API.CONSUMER.INFO.work.taker";

/// A server; it is killed when this is dropped.
pub(super) struct JetStream {
    address: SocketAddr,
    child: Child,
    _port: KeptPort,
    _store: TempDir,
}

impl JetStream {
    /// Starts a server with an empty store, on the disk that Postgres uses by default.
    ///
    /// # Errors
    /// The server ends, or does not answer.
    pub(super) async fn start(server: &mut Command, is_synced: bool) -> anyhow::Result<Self> {
        let (port, store) = (KeptPort::take()?, tempfile::Builder::new().prefix("loadtest-nats-").tempdir()?);
        let address = port.address();
        let config = store.path().join("nats.conf");
        std::fs::write(&config, configuration(address, &store, is_synced))?;
        server.arg("-c").arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
        let log = store.path().join("log");
        let mut child = server.stderr(std::fs::File::create(&log)?).kill_on_drop(true).spawn()?;
        let since = Instant::now();
        while NatsClient::connect(address, "ready").await.is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("nats-server ended with {status}: {}", std::fs::read_to_string(&log)?.trim());
            }
            ensure!(since.elapsed() < READY_WAIT, "nats-server was not ready in time");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { address, child, _port: port, _store: store })
    }

    /// Where clients connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether every message has been delivered and acknowledged.
    ///
    /// # Errors
    /// The server does not answer.
    pub(super) async fn is_settled(&self) -> anyhow::Result<bool> {
        let said = NatsClient::connect(self.address, "settled").await?.request(CONSUMER, "").await?;
        let said: Value = serde_json::from_str(&said)?;
        let left = |name: &str| said[name].as_u64().with_context(|| format!("no {name} in {said}"));
        Ok(left("num_pending")? + left("num_ack_pending")? == 0)
    }

    /// Ends the server.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

fn configuration(address: SocketAddr, store: &TempDir, is_synced: bool) -> String {
    let sync = if is_synced { "sync_interval: always" } else { "" };
    format!(
        "listen: \"{address}\"\njetstream {{\n  store_dir: \"{}\"\n  {sync}\n}}\n",
        store.path().display()
    )
}

/// A connection that publishes and waits for the stream's answers. The protocol is text:
/// <https://docs.nats.io/reference/reference-protocols/nats-protocol>.
pub(super) struct NatsClient {
    stream: BufReader<TcpStream>,
    inbox: String,
}

impl NatsClient {
    /// Connects; `name` is this connection's alone.
    ///
    /// # Errors
    /// No server is there.
    pub(super) async fn connect(address: SocketAddr, name: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream: BufReader::new(stream), inbox: format!("_INBOX.loadtest.{name}") };
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}}\r\n\
             SUB {} 1\r\nPING\r\n",
            client.inbox
        );
        client.write(&hello).await?;
        while client.line().await? != "PONG" {}
        Ok(client)
    }

    /// Publishes one message, and waits until it is stored.
    ///
    /// # Errors
    /// The server stores it not.
    pub(super) async fn publish(&mut self, payload: &str) -> anyhow::Result<()> {
        let said = self.request(SUBJECT, payload).await?;
        check(&said)
    }

    /// Publishes many before it waits for the first answer.
    ///
    /// # Errors
    /// See [`publish`](Self::publish).
    pub(super) async fn publish_many(&mut self, payloads: &[String]) -> anyhow::Result<()> {
        let all: String = payloads.iter().map(|payload| self.frame(SUBJECT, payload)).collect();
        self.write(&all).await?;
        for _ in payloads {
            check(&self.answer().await?)?;
        }
        Ok(())
    }

    async fn request(&mut self, subject: &str, payload: &str) -> anyhow::Result<String> {
        let frame = self.frame(subject, payload);
        self.write(&frame).await?;
        self.answer().await
    }

    fn frame(&self, subject: &str, payload: &str) -> String {
        format!("PUB {subject} {} {}\r\n{payload}\r\n", self.inbox, payload.len())
    }

    /// The next message to this connection.
    async fn answer(&mut self) -> anyhow::Result<String> {
        loop {
            let line = self.line().await?;
            let mut words = line.split(' ');
            match words.next() {
                Some("PING") => self.write("PONG\r\n").await?,
                Some("MSG") => {
                    let length: usize = words.next_back().unwrap_or_default().parse()?;
                    let mut body = vec![0; length + 2];
                    self.stream.read_exact(&mut body).await?;
                    body.truncate(length);
                    return Ok(String::from_utf8(body)?);
                }
                // Headers come only with the word that nobody is there.
                Some("HMSG" | "-ERR") => bail!("nats-server refuses: {line}"),
                _ => {}
            }
        }
    }

    async fn write(&mut self, text: &str) -> anyhow::Result<()> {
        Ok(self.stream.get_mut().write_all(text.as_bytes()).await?)
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line).await? > 0, "nats-server closed the connection");
        Ok(line.trim_end().to_owned())
    }
}

/// Whether the answer of a stream says that the message is stored.
fn check(said: &str) -> anyhow::Result<()> {
    let answer: Value = serde_json::from_str(said)?;
    ensure!(answer.get("error").is_none() && answer["seq"].is_u64(), "the stream refuses: {said}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_stored_if_its_stream_says_so() {
        assert!(check(r#"{"stream":"work","seq":4}"#).is_ok());
        assert!(check(r#"{"error":{"code":503},"stream":"work","seq":0}"#).is_err());
        assert!(check("{}").is_err());
    }
}
