//! The answers to bad input: a code, a sentence, and a session that goes on if it can.

use tokio::io::AsyncWriteExt;

use crate::mesh::{Mesh, Raw, insert, next};

#[tokio::test]
async fn before_the_welcome_every_fault_is_fatal() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    mesh.db.sql().await.batch_execute("insert into agent_registry (agent_id, agent_name, agent_type, environment, status) values ('old', 'o', 't', 'pc', 'online')").await.unwrap();
    for (line, code) in [
        ("rubbish".to_owned(), "bad_json"),
        (r#"{"op":"ack","tag":1}"#.to_owned(), "hello_expected"),
        ("{\"op\":\"ping\"}\nrubbish".to_owned(), "bad_json"),
        ("{\"op\":\"ping\"}\n{\"op\":\"ping\"}".to_owned(), "hello_expected"),
        (r#"{"op":"hello","agent":"a"}"#.to_owned(), "bad_field"),
        (format!(r#"{{"op":"hello","proto":2,"agent":"a","token":"{token}"}}"#), "proto_unsupported"),
        (r#"{"op":"hello","agent":"a","token":"pb_wrong"}"#.to_owned(), "unauthorized"),
        (format!(r#"{{"op":"hello","agent":"nobody","token":"{token}"}}"#), "unauthorized"),
        // Registered by an older mesh, without a token: an empty one must not let it in.
        (r#"{"op":"hello","agent":"old","token":""}"#.to_owned(), "unauthorized"),
        (format!(r#"{{"op":"hello","agent":"a","token":"{}"}}"#, "x".repeat(9_000)), "line_too_long"),
    ] {
        let mut raw = Raw::open(mesh.agents).await;
        raw.say(&line).await;
        if line.starts_with(r#"{"op":"ping"}"#) {
            raw.expect("pong").await;
        }
        let error = raw.expect_error(code, true).await;
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_missing_hello_is_waited_for_and_then_refused() {
    let mesh = Mesh::start().await;
    let mut raw = Raw::open(mesh.agents).await;
    raw.expect_error("hello_timeout", true).await;
}

#[tokio::test]
async fn after_the_welcome_a_bad_line_is_refused_and_the_session_goes_on() {
    let mesh = Mesh::start().await;
    let mut raw = mesh.raw("a", 5).await;
    for (line, code) in [
        ("rubbish", "bad_json"),
        (r#"{"op":"dance"}"#, "unknown_op"),
        (r#"{"op":"ack"}"#, "bad_field"),
        (r#"{"op":"ack","tag":77}"#, "unknown_tag"),
        (r#"{"op":"nack","tag":77,"outcome":"fail"}"#, "unknown_tag"),
        (r#"{"op":"send","to":"b","type":"gossip","payload":1}"#, "bad_field"),
        (r#"{"op":"hello","agent":"a","token":"t"}"#, "already_welcome"),
    ] {
        raw.say(line).await;
        raw.expect_error(code, false).await;
    }
    raw.write.write_all(b"{\"op\":\"ack\",\"tag\":\"\xff\xfe\"}\n").await.unwrap();
    raw.expect_error("bad_json", false).await;
    raw.say(r#"{"op":"ping"}"#).await;
    raw.expect("pong").await;
}

#[tokio::test]
async fn a_line_of_ten_megabytes_ends_its_session_and_no_other() {
    let mesh = Mesh::start().await;
    let mut other = mesh.raw("b", 5).await;
    let mut raw = mesh.raw("a", 5).await;
    let chunk = vec![b'x'; 64 * 1024];
    for _ in 0..160 {
        // The broker stops reading at the limit: the rest meets a closed socket.
        if raw.write.write_all(&chunk).await.is_err() {
            break;
        }
    }
    mesh.until_metric("postbell_closed_total{reason=\"line_too_long\"}", |n| n == 1.0).await;
    other.say(r#"{"op":"ping"}"#).await;
    other.expect("pong").await;
}

#[tokio::test]
async fn a_payload_over_the_limit_is_refused_with_its_ref() {
    let mesh = Mesh::start().await;
    let mut raw = mesh.raw("a", 5).await;
    let payload = "x".repeat(postbell_client::protocol::limits::PAYLOAD_BYTES_MAX);
    raw.say(&format!(r#"{{"op":"send","ref":"big","to":"b","type":"data","payload":"{payload}"}}"#)).await;
    assert_eq!(raw.expect_error("payload_too_large", false).await["ref"], "big");
    let largest = &payload[2..];
    raw.say(&format!(r#"{{"op":"send","ref":"fits","to":"a","type":"data","payload":"{largest}"}}"#)).await;
    assert_eq!(raw.expect("sent").await["ref"], "fits");
    assert_eq!(raw.expect("msg").await["payload"].as_str().unwrap().len(), largest.len());
}

#[tokio::test]
async fn a_payload_that_sql_made_too_large_is_a_dead_letter_and_the_inbox_goes_on() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    // One message is over the limit by itself, one only by its escapes, one by its sender's name.
    sql.batch_execute(
        r#"insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority)
           values ('x', 'a', 'data', to_jsonb(repeat('x', 3000000)), 1),
                  ('x', 'a', 'data', to_jsonb(repeat(chr(1), 300000)), 1),
                  (repeat('n', 2000000), 'a', 'data', '1', 1)"#,
    )
    .await
    .unwrap();
    insert(&sql, "a", 9, "\"small\"").await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    assert_eq!(next(&mut deliveries).await.payload(), "\"small\"");
    mesh.db
        .until(
            "select count(*) = 3 from postbell.deliveries
             where state = 'dead' and last_error like 'payload_too_large%' and attempt = 0",
        )
        .await;
    mesh.until_metric("postbell_dead_total{reason=\"payload_too_large\"}", |n| n == 3.0).await;
}

#[tokio::test]
async fn odd_rows_that_sql_may_insert_are_delivered() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 50).await;
    mesh.db
        .sql()
        .await
        .batch_execute(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority, status, created_at)
             values ('x', 'a', 'data', '1', null, null, null),
                    ('x', 'a', 'data', '2', 5, 'pending', 'infinity'),
                    ('x', 'a', 'data', '3', 5, 'pending', '-infinity'),
                    ('x', 'a', 'data', '4', 5, 'pending', '0044-03-15 BC'),
                    (E'line\\nbreak \"quoted\"', 'a', 'data', '5', 5, 'pending', now());
             insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, status)
             values ('x', 'a', 'data', '\"history\"', 'processed')",
        )
        .await
        .unwrap();
    for n in 1..=5 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload(), n.to_string());
        if n == 5 {
            assert_eq!(delivery.from(), "line\nbreak \"quoted\"");
        }
        delivery.ack().await;
    }
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
}
