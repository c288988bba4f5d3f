//! Who is there: the registry, the metrics, takeover.

use crate::mesh::{Mesh, Raw, insert};

#[tokio::test]
async fn a_session_is_the_heartbeat() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let series = "postbell_agent_connected{agent=\"a\",environment=\"pc\"}";
    mesh.until_metric(series, |n| n == 0.0).await;
    let raw = mesh.raw_with("a", &token, 5).await;
    let second = mesh.raw_with("a", &token, 5).await;
    mesh.db.until("select status = 'online' and last_heartbeat is not null from agent_registry").await;
    mesh.until_metric(series, |n| n == 1.0).await;
    drop(raw);
    mesh.until_metric("postbell_sessions", |n| n == 1.0).await;
    assert_eq!(
        mesh.db.ask::<String>("select status from agent_registry").await,
        "online",
        "one session is left"
    );
    drop(second);
    mesh.db.until("select status = 'offline' from agent_registry").await;
    mesh.until_metric("postbell_closed_total{reason=\"disconnect\"}", |n| n == 2.0).await;
}

#[tokio::test]
async fn the_newest_session_of_an_instance_takes_over_and_the_old_one_is_told() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let hello = format!(r#"{{"op":"hello","agent":"a","token":"{token}","instance":"i"}}"#);
    let other = format!(r#"{{"op":"hello","agent":"a","token":"{token}","instance":"j","window":0}}"#);
    let mut old = Raw::open(mesh.agents).await;
    old.say(&hello).await;
    old.expect("welcome").await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    assert_eq!(old.expect("msg").await["attempt"], 1);
    let mut another = Raw::open(mesh.agents).await;
    another.say(&other).await;
    another.expect("welcome").await;
    let mut new = Raw::open(mesh.agents).await;
    new.say(&hello).await;
    new.expect("welcome").await;
    old.expect_error("taken_over", true).await;
    // What the old one had comes to the new one; the other instance is left alone.
    assert_eq!(new.expect("msg").await["attempt"], 2);
    another.say(r#"{"op":"ping"}"#).await;
    another.expect("pong").await;
}

#[tokio::test]
async fn a_silent_session_is_closed_and_a_pinging_one_is_not() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let hello = format!(r#"{{"op":"hello","agent":"a","token":"{token}","heartbeat_ms":1000}}"#);
    let mut silent = Raw::open(mesh.agents).await;
    silent.say(&hello).await;
    assert_eq!(silent.expect("welcome").await["heartbeat_ms"], 1000);
    let client =
        mesh.builder("a", &token).heartbeat(std::time::Duration::from_secs(1)).connect().await.unwrap().0;
    silent.expect_error("silent", true).await;
    let state = client.state().borrow().clone();
    assert!(matches!(state, postbell::client::State::Connected { session: 2, .. }), "{state:?}");
}
