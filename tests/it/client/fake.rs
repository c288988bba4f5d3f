//! A broker that says the lines that a test wants.

use std::time::Duration;

use postbell_client::Builder;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::mesh::PATIENCE;

pub(crate) struct Fake(TcpListener);

/// One client's connection.
pub(crate) struct Peer {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

/// A `msg` line with this tag and, at its end, these fields.
pub(crate) fn msg(tag: u64, fields: &str) -> String {
    let id = uuid::Uuid::nil();
    format!(
        r#"{{"op":"msg","tag":{tag},"attempt":1,"deadline_ms":30000,"id":"{id}","from":"s","type":"data","priority":5,"created_at":"2026-11-29T00:00:00Z",{fields}}}"#
    )
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.expect("a port"))
    }

    pub(crate) fn url(&self) -> String {
        format!("tcp://{}", self.0.local_addr().expect("bound"))
    }

    pub(crate) fn builder(&self) -> Builder {
        Builder::new(&self.url(), "a", "pb_any").window(10_000).reconnect_first(Duration::from_millis(500))
    }

    pub(crate) async fn welcome(&self) -> Peer {
        self.greet(600_000).await
    }

    pub(crate) async fn welcome_with(&self, heartbeat_ms: u32) -> Peer {
        self.greet(heartbeat_ms).await
    }

    /// A client's connection, of which nothing was read.
    pub(crate) async fn accept(&self) -> Peer {
        let (read, write) = self.0.accept().await.expect("a client").0.into_split();
        Peer { lines: BufReader::new(read).lines(), write }
    }

    async fn greet(&self, heartbeat_ms: u32) -> Peer {
        let mut peer = self.accept().await;
        assert_eq!(peer.next().await, Some(json!({"op": "ping"})), "a client asks first");
        peer.say(r#"{"op":"pong"}"#).await;
        peer.heard("hello").await;
        peer.welcome(heartbeat_ms).await;
        peer
    }
}

impl Peer {
    /// Answers the hello.
    pub(crate) async fn welcome(&mut self, heartbeat_ms: u32) {
        let limits = r#"{"line_bytes":1048576,"payload_bytes":983040,"window":10000}"#;
        self.say(&format!(
            r#"{{"op":"welcome","proto":1,"broker":"fake","session":1,"limits":{limits},"heartbeat_ms":{heartbeat_ms}}}"#
        ))
        .await;
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.expect("written");
    }

    /// The next line, or `None` at the connection's end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line").unwrap_or(None)?;
        Some(serde_json::from_str(&line).expect("JSON"))
    }

    /// The next line that is no ping.
    pub(crate) async fn anything(&mut self) -> Value {
        loop {
            let value = self.next().await.expect("an open connection");
            if value["op"] != "ping" {
                return value;
            }
        }
    }

    /// The next line with this op; others are passed over.
    pub(crate) async fn heard(&mut self, op: &str) -> Value {
        loop {
            let value = self.anything().await;
            if value["op"] == op {
                return value;
            }
        }
    }
}
