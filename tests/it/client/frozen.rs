//! A balancer that looks at nobody's health leads a client to a frozen broker, whose kernel accepts what nobody reads.

use postbell_client::State;
use serde_json::json;

use super::fake::{Fake, Peer};
use super::within;

/// A client that gave up has said nothing but the question.
async fn said_no_hello(mut silent: Peer) {
    assert_eq!(silent.next().await, Some(json!({"op": "ping"})));
    assert_eq!(silent.next().await, None);
}

#[tokio::test]
async fn a_client_says_no_hello_to_a_broker_that_does_not_answer() {
    let broker = Fake::start().await;
    let connecting = tokio::spawn(broker.builder().connect());
    let silent = within(broker.accept()).await;
    let _peer = within(broker.welcome()).await;
    let (_client, _deliveries) = within(connecting).await.expect("no panic").expect("connects");
    said_no_hello(silent).await;
}

#[tokio::test]
async fn a_client_whose_broker_froze_goes_on_to_the_next_that_answers() {
    let broker = Fake::start().await;
    let connecting = broker.builder().connect();
    let (connected, peer) = within(async { tokio::join!(connecting, broker.welcome()) }).await;
    let (client, _deliveries) = connected.expect("connects");
    drop(peer);
    // Three frozen ones in a row: the client asks each, and tells none of them who it is.
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(within(broker.accept()).await);
    }
    let _peer = within(broker.welcome()).await;
    let mut state = client.state();
    within(state.wait_for(|state| matches!(state, State::Connected { .. }))).await.expect("a state");
    for peer in silent {
        said_no_hello(peer).await;
    }
}

#[tokio::test]
async fn an_older_broker_that_refuses_the_question_is_told_hello() {
    let broker = Fake::start().await;
    let connecting = tokio::spawn(broker.builder().connect());
    let mut peer = within(broker.accept()).await;
    assert_eq!(peer.next().await, Some(json!({"op": "ping"})));
    let refusal =
        r#"{"op":"error","code":"hello_expected","fatal":true,"message":"the first line must be a hello"}"#;
    peer.say(refusal).await;
    drop(peer);
    let mut peer = within(broker.accept()).await;
    assert_eq!(peer.next().await.expect("a line")["op"], "hello");
    peer.welcome(600_000).await;
    let (_client, _deliveries) = within(connecting).await.expect("no panic").expect("connects");
}

#[tokio::test]
async fn a_broker_that_answered_the_question_may_be_slow_to_welcome() {
    let broker = Fake::start().await;
    let connecting = tokio::spawn(broker.builder().connect());
    let mut peer = within(broker.accept()).await;
    assert_eq!(peer.next().await, Some(json!({"op": "ping"})));
    peer.say(r#"{"op":"pong"}"#).await;
    assert_eq!(peer.next().await.expect("a line")["op"], "hello");
    // Longer than the question would be waited for.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    peer.welcome(600_000).await;
    let (_client, _deliveries) = within(connecting).await.expect("no panic").expect("connects");
}
