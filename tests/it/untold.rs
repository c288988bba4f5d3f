//! `postbell listen` whose broker dies before it was told of an outcome: nothing was settled, and the process says so.

use std::process::Stdio;

use serde_json::json;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::client::fake::{Fake, Peer, msg};
use crate::family::Scene;
use crate::mesh::PATIENCE;

const HANDLES: &str = "touch up; until [ -e go ]; do sleep 0.05; done";

fn listen(broker: &Fake, scene: &Scene, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postbell"));
    command.arg("listen").args(args).env_clear().kill_on_drop(true).current_dir(scene.path(""));
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("POSTBELL_URL", broker.url()).env("POSTBELL_AGENT", "a").env("POSTBELL_TOKEN", "pb_any");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("spawns")
}

/// A client that is welcomed and has the message in hand.
async fn serve(broker: &Fake) -> Peer {
    let mut peer = broker.welcome().await;
    peer.say(&msg(1, r#""payload":1"#)).await;
    peer
}

async fn ended(child: Child) -> (Option<i32>, String) {
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("ends").expect("waits");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_broker_that_died_while_the_command_ran_was_told_nothing() {
    let (broker, scene) = (Fake::start().await, Scene::new());
    let child = listen(&broker, &scene, &["--max", "1", "--exec", HANDLES]);
    let session = serve(&broker).await;
    scene.file("up").await;
    drop(broker);
    drop(session);
    std::fs::write(scene.path("go"), "").expect("written");
    let (code, said) = ended(child).await;
    assert!(code == Some(1) && said.contains("postbell: handled 0, failed 1"), "{code:?}: {said}");
}

#[tokio::test]
async fn nor_was_one_that_died_before_it_wrote_the_ack() {
    for args in [&["--max", "1", "--exec", "true"][..], &["--max", "1"]] {
        let (broker, scene) = (Fake::start().await, Scene::new());
        let child = listen(&broker, &scene, args);
        let mut session = serve(&broker).await;
        session.heard("ack").await;
        drop(broker);
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
        let (broker, scene) = (Fake::start().await, Scene::new());
        let child = listen(&broker, &scene, args);
        let mut session = serve(&broker).await;
        session.heard("ack").await;
        drop(session);
        let mut session = serve(&broker).await;
        let reference = session.heard("ack").await["ref"].clone();
        session.say(&json!({"op": "acked", "ref": reference}).to_string()).await;
        let (code, said) = ended(child).await;
        assert!(
            code == Some(0) && said.contains("postbell: handled 1, failed 1"),
            "{args:?}: {code:?}: {said}"
        );
    }
}
