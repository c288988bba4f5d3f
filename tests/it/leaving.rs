//! `postbell listen` that is told to leave: no message loses an attempt by that.

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::cli::postbell;
use crate::family::{Scene, code, signal};
use crate::mesh::{Mesh, PATIENCE, insert};

const HANDLES: &str = "echo $$ > up.new; mv up.new up; sleep 61";

/// Before an outcome makes room for another message, the agent must have said that it takes none.
#[tokio::test]
async fn who_leaves_takes_nothing_more_before_it_gives_back() {
    let (mesh, scene) = (Mesh::start().await, Scene::new());
    let broker = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("tcp://{}", broker.local_addr().expect("bound"));
    let mut command = postbell(&mesh, "a", "pb_any", &["listen", "--window", "1", "--exec", HANDLES]);
    command.current_dir(scene.path("")).env("POSTBELL_URL", url);
    let child = command.spawn().expect("spawns");
    let (read, mut write) = broker.accept().await.expect("a client").0.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut heard: Vec<Value> = Vec::new();
    let mut line = async |heard: &mut Vec<Value>| {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line").unwrap_or(None)?;
        heard.push(serde_json::from_str(&line).expect("JSON"));
        Some(())
    };
    line(&mut heard).await.expect("hello");
    let welcome = json!({"op": "welcome", "proto": 1, "broker": "fake", "session": 1, "heartbeat_ms": 600_000,
                         "limits": {"line_bytes": 1_048_576, "payload_bytes": 983_040, "window": 10_000}});
    let msg = json!({"op": "msg", "tag": 1, "attempt": 1, "deadline_ms": 600_000, "id": uuid::Uuid::nil(), "from": "s",
                     "type": "data", "priority": 5, "created_at": "2026-11-29T00:00:00Z", "payload": 1});
    write.write_all(format!("{welcome}\n{msg}\n").as_bytes()).await.expect("written");
    scene.file("up").await;
    signal(&child, "-TERM");
    while line(&mut heard).await.is_some() {}
    assert_eq!(code(child).await, Some(0));
    let place = |op: &str| {
        heard.iter().position(|line| line["op"] == op).unwrap_or_else(|| panic!("no {op}: {heard:?}"))
    };
    assert!(place("window") < place("nack") && place("nack") < place("bye"), "{heard:?}");
    assert_eq!(
        (&heard[place("window")]["n"], &heard[place("nack")]["outcome"]),
        (&json!(0), &json!("release"))
    );
}

#[tokio::test]
async fn what_waited_behind_the_one_in_hand_keeps_its_attempts() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    for n in 0..5 {
        insert(&mesh.db.sql().await, "a", 5, &n.to_string()).await;
    }
    for _ in 0..3 {
        let scene = Scene::new();
        let args = ["listen", "--window", "1", "--exec", HANDLES];
        let child = scene.command(&mesh, "a", &token, &args).spawn().expect("spawns");
        scene.file("up").await;
        signal(&child, "-TERM");
        assert_eq!(code(child).await, Some(0));
        mesh.db.until("select count(*) = 0 from postbell.leases").await;
        let untouched = "select count(*) from postbell.deliveries where attempt = 0 and state = 'ready'";
        assert_eq!(mesh.db.ask::<i64>(untouched).await, 5);
    }
}
