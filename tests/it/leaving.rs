//! `postbell listen` that is told to leave: no message loses an attempt by that.

use serde_json::{Value, json};

use crate::cli::postbell;
use crate::client::fake::{Fake, msg};
use crate::family::{Scene, code, signal};
use crate::mesh::{Mesh, insert};

const HANDLES: &str = "echo $$ > up.new; mv up.new up; sleep 61";

/// Before an outcome makes room for another message, the agent must have said that it takes none.
#[tokio::test]
async fn who_leaves_takes_nothing_more_before_it_gives_back() {
    let (mesh, scene) = (Mesh::start().await, Scene::new());
    let broker = Fake::start().await;
    let mut command = postbell(&mesh, "a", "pb_any", &["listen", "--window", "1", "--exec", HANDLES]);
    command.current_dir(scene.path("")).env("POSTBELL_URL", broker.url());
    let child = command.spawn().expect("spawns");
    let mut peer = broker.welcome().await;
    peer.say(&msg(1, r#""payload":1"#)).await;
    scene.file("up").await;
    signal(&child, "-TERM");
    let mut heard: Vec<Value> = Vec::new();
    while let Some(line) = peer.next().await {
        heard.push(line);
    }
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
