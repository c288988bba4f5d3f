//! `postbell listen` whose broker dies before it was told of an outcome: nothing was settled, and the process says so.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::family::Scene;
use crate::mesh::PATIENCE;

const HANDLES: &str = "touch up; until [ -e go ]; do sleep 0.05; done";

/// A broker that is made by hand.
struct Fake {
    listener: Option<TcpListener>,
    url: String,
}

struct Session {
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
}

impl Fake {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("tcp://{}", listener.local_addr().expect("bound"));
        Self { listener: Some(listener), url }
    }

    fn listen(&self, scene: &Scene, args: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postbell"));
        command.arg("listen").args(args).env_clear().kill_on_drop(true).current_dir(scene.path(""));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("POSTBELL_URL", &self.url).env("POSTBELL_AGENT", "a").env("POSTBELL_TOKEN", "pb_any");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("spawns")
    }

    /// A client that is welcomed and has the message in hand.
    async fn serve(&self, attempt: u32) -> Session {
        let listener = self.listener.as_ref().expect("lives");
        let (read, write) = listener.accept().await.expect("a client").0.into_split();
        let mut session = Session { lines: BufReader::new(read).lines(), write };
        session.until("hello").await;
        let welcome = json!({"op": "welcome", "proto": 1, "broker": "fake", "session": 1, "heartbeat_ms": 600_000,
                             "limits": {"line_bytes": 1_048_576, "payload_bytes": 983_040, "window": 10_000}});
        let msg = json!({"op": "msg", "tag": 1, "attempt": attempt, "deadline_ms": 600_000, "id": uuid::Uuid::nil(),
                         "from": "s", "type": "data", "priority": 5, "created_at": "2026-11-29T00:00:00Z", "payload": 1});
        session.say(&welcome).await;
        session.say(&msg).await;
        session
    }
}

impl Session {
    async fn say(&mut self, line: &Value) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.expect("written");
    }

    /// The next line with this op.
    async fn until(&mut self, op: &str) -> Value {
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a line");
            let line: Value = serde_json::from_str(&line.expect("text").expect("no end")).expect("JSON");
            if line["op"] == op {
                return line;
            }
        }
    }
}

async fn ended(child: Child) -> (Option<i32>, String) {
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("ends").expect("waits");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_broker_that_died_while_the_command_ran_was_told_nothing() {
    let (mut broker, scene) = (Fake::new().await, Scene::new());
    let child = broker.listen(&scene, &["--max", "1", "--exec", HANDLES]);
    let session = broker.serve(1).await;
    scene.file("up").await;
    broker.listener = None;
    drop(session);
    std::fs::write(scene.path("go"), "").expect("written");
    let (code, said) = ended(child).await;
    assert!(code == Some(1) && said.contains("postbell: handled 0, failed 1"), "{code:?}: {said}");
}

#[tokio::test]
async fn nor_was_one_that_died_before_it_wrote_the_ack() {
    for args in [&["--max", "1", "--exec", "true"][..], &["--max", "1"]] {
        let (mut broker, scene) = (Fake::new().await, Scene::new());
        let child = broker.listen(&scene, args);
        let mut session = broker.serve(1).await;
        session.until("ack").await;
        broker.listener = None;
        drop(session);
        let (code, said) = ended(child).await;
        assert!(
            code == Some(1) && said.contains("postbell: handled 0, failed 1"),
            "{args:?}: {code:?}: {said}"
        );
    }
}

#[tokio::test]
async fn a_message_that_comes_again_and_is_acknowledged_then_is_no_failure() {
    for args in [&["--until-idle", "1s", "--exec", "true"][..], &["--until-idle", "1s"]] {
        let (broker, scene) = (Fake::new().await, Scene::new());
        let child = broker.listen(&scene, args);
        let mut session = broker.serve(1).await;
        session.until("ack").await;
        drop(session);
        let mut session = broker.serve(2).await;
        let reference = session.until("ack").await["ref"].clone();
        session.say(&json!({"op": "acked", "ref": reference})).await;
        let (code, said) = ended(child).await;
        assert!(
            code == Some(0) && said.contains("postbell: handled 1, failed 1"),
            "{args:?}: {code:?}: {said}"
        );
    }
}
