//! Dead letters: list, show, redrive, purge.

use std::time::Duration;

use postbell::store::dead::{Chosen, Filter, list, purge, redrive, show};
use postbell::store::listen::{Rope, listen};
use postbell::store::{Connection, Pool};
use uuid::Uuid;

use crate::harness::{TestDb, command, migrated, number, text};

/// Six dead letters, as the broker leaves them: four of inbox a, two of inbox b, with different reasons.
async fn with_dead_letters() -> (TestDb, Pool, Connection) {
    let db = migrated().await;
    let client = db.client().await;
    client
        .batch(
            "set postbell.broker = on;
             insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, headers)
             select 'x', case when n <= 4 then 'a' else 'b' end, 'command', jsonb_build_object('n', n), '{\"h\": 1}'
             from generate_series(1, 6) n;
             update postbell.deliveries
             set state = 'dead', dead_at = now(), attempt = 10,
                 last_error = case when inbox = 'a' then 'ack deadline passed' else 'no such county' end;
             update agent_messages set status = 'failed', error_message = 'gave up';
             set postbell.broker = off",
        )
        .await
        .expect("dead letters");
    let pool = db.pool();
    (db, pool, client)
}

fn all() -> Filter<'static> {
    Filter { limit: 100, ..Filter::default() }
}

#[tokio::test]
async fn they_are_listed_by_inbox_reason_and_page() {
    let (_db, pool, _) = with_dead_letters().await;
    assert_eq!(list(&pool, &all()).await.expect("all").len(), 6);
    assert_eq!(list(&pool, &Filter { inbox: Some("b"), ..all() }).await.expect("of b").len(), 2);
    let county = list(&pool, &Filter { reason: Some("county"), ..all() }).await.expect("by reason");
    assert!(county.len() == 2 && county.iter().all(|l| l.inbox == "b" && l.attempt == 10));

    let first = list(&pool, &Filter { limit: 4, ..all() }).await.expect("a page");
    let before = first.last().map(|l| l.delivery_id);
    let second = list(&pool, &Filter { before, ..all() }).await.expect("the next");
    let numbers: Vec<_> = first.iter().chain(&second).map(|l| l.delivery_id).collect();
    assert_eq!(numbers.len(), 6);
    assert!(numbers.is_sorted_by(|a, b| a > b), "the newest first: {numbers:?}");
}

#[tokio::test]
async fn one_is_shown_by_number_or_by_message() {
    let (_db, pool, _) = with_dead_letters().await;
    let letter = list(&pool, &all()).await.expect("all").remove(0);
    for id in [letter.delivery_id.to_string(), letter.message_id.to_string()] {
        let found = show(&pool, &id).await.expect("shown");
        assert_eq!(found[0].letter, letter);
        assert_eq!(found[0].payload.get(), r#"{"n": 6}"#);
        assert_eq!(found[0].headers.as_ref().map(|h| h.get()), Some(r#"{"h": 1}"#));
    }
    for id in ["999999", "00000000-0000-0000-0000-000000000000", "abc"] {
        assert!(show(&pool, id).await.is_err(), "{id}");
    }
}

#[tokio::test]
async fn a_redriven_one_is_as_new_and_rings() {
    let (db, pool, client) = with_dead_letters().await;
    let rope = std::sync::Arc::new(Rope::default());
    let _listening = listen(&db.target(), Uuid::new_v4(), rope.clone()).await.expect("listen");
    let b = list(&pool, &Filter { inbox: Some("b"), ..all() }).await.expect("of b");
    assert_eq!(redrive(&pool, &Chosen::Ids(&[b[0].delivery_id])).await.expect("one"), 1);
    let rung = async {
        while rope.rings() == 0 {
            rope.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), rung).await.expect("the bell");
    assert_eq!(redrive(&pool, &Chosen::Inbox("a")).await.expect("all of a"), 4);
    assert_eq!(redrive(&pool, &Chosen::Inbox("a")).await.expect("again"), 0);
    assert_eq!(list(&pool, &all()).await.expect("left").len(), 1);

    let as_new = "select count(*) from postbell.deliveries d join agent_messages m using (message_id)
                  where d.state = 'ready' and d.attempt = 0 and d.dead_at is null and d.last_error is null
                    and m.status = 'pending' and m.error_message is null";
    assert_eq!(number(&client, as_new).await, 5);
    // The tail reads by transaction, so each needs a newer one than the insert's.
    let newer = "select count(*) from postbell.deliveries
                 where txid > (select txid from postbell.deliveries where state = 'dead')";
    assert_eq!(number(&client, newer).await, 5);
}

#[tokio::test]
async fn purged_ones_are_gone_and_their_messages_stay_failed() {
    let (_db, pool, client) = with_dead_letters().await;
    client
        .batch(
            "insert into agent_registry (agent_id, agent_name, agent_type, environment, status)
             values ('a', 'A', 'agent', 'pc', 'offline'), ('b', 'B', 'agent', 'pc', 'offline');
             insert into agent_messages (from_agent_id, message_type, payload) values ('x', 'alert', '{}');
             update postbell.deliveries set state = 'dead', dead_at = now(), last_error = 'broken'
             where state = 'ready'",
        )
        .await
        .expect("a dead broadcast");
    let broadcast = "select status from agent_messages where to_agent_id is null";
    assert_eq!(purge(&pool, &Chosen::Inbox("a")).await.expect("of a"), 5);
    assert_eq!(text(&client, broadcast).await, "pending", "it is still dead for b");
    assert_eq!(purge(&pool, &Chosen::All).await.expect("the rest"), 3);
    assert_eq!(text(&client, broadcast).await, "failed");
    assert_eq!(number(&client, "select count(*) from agent_messages where status = 'failed'").await, 7);
    assert_eq!(number(&client, "select count(*) from postbell.deliveries").await, 0);
}

#[tokio::test]
async fn large_numbers_go_in_batches() {
    let db = migrated().await;
    let client = db.client().await;
    client
        .batch(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
             select 'x', 'a', 'data', '{}' from generate_series(1, 12000);
             update postbell.deliveries set state = 'dead', dead_at = now()",
        )
        .await
        .expect("many");
    assert_eq!(redrive(&db.pool(), &Chosen::All).await.expect("all"), 12_000);
    assert_eq!(number(&client, "select count(distinct txid) from postbell.deliveries").await, 3);
}

#[tokio::test]
async fn the_commands_do_the_same() {
    let (db, _, _) = with_dead_letters().await;
    let listed: serde_json::Value =
        serde_json::from_str(&command(&db, &["dead", "list", "--inbox", "b", "--json"]).await.stdout)
            .expect("JSON");
    let id = listed[0]["delivery_id"].to_string();
    assert!(listed[0]["dead_at"].as_str().is_some_and(|at| at.ends_with('Z')));
    let shown = command(&db, &["dead", "show", &id]).await.stdout;
    assert!(shown.contains("reason       no such county") && shown.contains("{\"n\": 6}"), "{shown}");
    let redriven = command(&db, &["dead", "redrive", &id, "999999"]).await;
    assert_eq!(redriven.stdout, "redriven 1\n");
    assert!(redriven.stderr.contains("1 of the 2 named are no dead letters"), "{}", redriven.stderr);
    assert_eq!(command(&db, &["dead", "purge", "--all", "--json"]).await.stdout, "{\"purged\":5}\n");
    assert_eq!(command(&db, &["dead", "list"]).await.stdout, "no dead letters\n");
    assert_eq!(command(&db, &["dead", "purge"]).await.status, 64, "which ones must be said");
}
