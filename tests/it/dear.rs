//! Rows that are dear to read, or cannot be read at all: they cost their own inbox something, and no other.

mod alerts;
mod damaged;
mod made;
mod odd;
mod raising;

use std::time::{Duration, Instant};

use postbell::store::dead::{self, Filter};
use postbell_client::Deliveries;
use tokio::time::timeout;

use crate::mesh::{Mesh, PATIENCE, insert, next};

/// The promise for the worst case.
const PROMISED: Duration = Duration::from_secs(5);

/// 8,192 numbers of 131,072 digits, in 74 kB as they are sent and 2 kB as they are stored.
fn huge_numbers(count: usize) -> String {
    format!("[{}]", vec!["1e131071"; count].join(","))
}

/// A message to an uninvolved agent arrives in time, and the broker says that all is well.
async fn served(mesh: &Mesh, uninvolved: &mut Deliveries, what: &str) {
    let sql = mesh.db.sql().await;
    let since = Instant::now();
    insert(&sql, "u", 5, &format!("\"{what}\"")).await;
    let delivery = timeout(PATIENCE, uninvolved.next()).await.expect(what).expect("an open client");
    assert_eq!(delivery.payload(), format!("\"{what}\""));
    assert!(since.elapsed() < PROMISED, "{what}: {:?}", since.elapsed());
    delivery.ack().await;
    // A machine with much else to do may delay the canary; a broker that stands still would never be ready.
    mesh.until_ready(true).await;
}

async fn until_dead(mesh: &Mesh, reason: &str, count: usize) {
    let query = format!(
        "select count(*) = {count} from postbell.deliveries where state = 'dead' and last_error like '{reason}%' and attempt = 0"
    );
    mesh.db.until(&query).await;
}

#[tokio::test]
async fn numbers_that_are_far_larger_written_than_sent_are_refused_at_send() {
    let mesh = Mesh::start().await;
    let (_u, mut uninvolved) = mesh.connect("u", 5).await;
    let (_a, mut deliveries) = mesh.connect("a", 5).await;
    let mut raw = mesh.raw("b", 5).await;
    for count in [8_192, 4_000, 8] {
        let payload = huge_numbers(count);
        raw.say(&format!(r#"{{"op":"send","ref":"x","to":"a","type":"data","payload":{payload}}}"#)).await;
        assert_eq!(raw.expect_error("payload_too_large", false).await["ref"], "x");
    }
    // Headers have less room than payloads.
    let headers = r#"{"n":1e131071}"#;
    raw.say(&format!(r#"{{"op":"send","ref":"h","to":"a","type":"data","payload":1,"headers":{headers}}}"#))
        .await;
    assert_eq!(raw.expect_error("payload_too_large", false).await["ref"], "h");
    raw.say(&format!(r#"{{"op":"send","ref":"y","to":"a","type":"data","payload":{}}}"#, huge_numbers(7)))
        .await;
    raw.expect("sent").await;
    assert!(next(&mut deliveries).await.payload().len() > 900_000, "what fits is delivered");
    served(&mesh, &mut uninvolved, "after").await;
}

#[tokio::test]
async fn what_sql_lets_in_costs_nobody_else_anything_also_after_a_restart() {
    let mut mesh = Mesh::start().await;
    let u = mesh.db.agent("u").await;
    let a = mesh.db.agent("a").await;
    for round in 0..2 {
        let (_u, mut uninvolved) = mesh.builder("u", &u).connect().await.expect("connects");
        let (_a, mut deliveries) = mesh.builder("a", &a).connect().await.expect("connects");
        let sql = mesh.db.sql().await;
        let (large, ten) = (huge_numbers(8_192), huge_numbers(4_000));
        let zeros = format!("[{}]", vec!["0e-16383"; 4_000].join(","));
        sql.execute(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, headers)
             select 'x', 'a', 'data', $1::text::jsonb, null::jsonb
             union all select 'x', 'a', 'data', $2::text::jsonb, null from generate_series(1, 10)
             union all select 'x', 'a', 'data', $3::text::jsonb, null
             union all select 'x', 'a', 'data', '1', $2::text::jsonb",
            &[&large, &ten, &zeros],
        )
        .await
        .unwrap();
        served(&mesh, &mut uninvolved, "beside them").await;
        insert(&sql, "a", 5, "\"small\"").await;
        assert_eq!(next(&mut deliveries).await.payload(), "\"small\"");
        until_dead(&mesh, "payload_too_large: the payload''s numbers", 13 * (round + 1)).await;
        let (pool, filter) = (mesh.db.pool(), Filter { limit: 100, ..Filter::default() });
        let letter = dead::list(&pool, &filter).await.expect("a list").swap_remove(0);
        let shown = dead::show(&pool, &letter.delivery_id.to_string()).await.expect("shown");
        assert!(shown[0].left_out.is_some());
        let (db, _) = mesh.stop().await;
        mesh = Mesh::on(db, &[]).await;
    }
}

#[tokio::test]
async fn rows_that_wait_are_as_harmless_as_those_that_come() {
    let mesh = Mesh::start().await;
    let (_u, mut uninvolved) = mesh.connect("u", 5).await;
    let sql = mesh.db.sql().await;
    // Small payloads that are over a gigabyte together: each alone costs little.
    sql.execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
         select 'x', 'a', 'data', $1::text::jsonb from generate_series(1, 3000)",
        &[&huge_numbers(7)],
    )
    .await
    .unwrap();
    let (_a, mut deliveries) = mesh.connect("a", 1).await;
    served(&mesh, &mut uninvolved, "beside a backlog").await;
    next(&mut deliveries).await.ack().await;
    sql.execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
         select 'x', 'a', 'data', $1::text::jsonb from generate_series(1, 3000)",
        &[&huge_numbers(7)],
    )
    .await
    .unwrap();
    served(&mesh, &mut uninvolved, "beside a burst").await;
    for _ in 0..5 {
        next(&mut deliveries).await.ack().await;
    }
    served(&mesh, &mut uninvolved, "while it is read").await;
}

#[tokio::test]
async fn twenty_texts_of_sixty_megabytes_in_one_commit() {
    let mesh = Mesh::start().await;
    let (_u, mut uninvolved) = mesh.connect("u", 5).await;
    let (_a, mut deliveries) = mesh.connect("a", 5).await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
         select 'x', 'a', 'data', to_jsonb(repeat('x', 60000000 + i)) from generate_series(1, 20) i",
    )
    .await
    .unwrap();
    served(&mesh, &mut uninvolved, "beside them").await;
    insert(&sql, "a", 5, "\"small\"").await;
    assert_eq!(next(&mut deliveries).await.payload(), "\"small\"");
    until_dead(&mesh, "payload_too_large: payload and headers have 600000", 20).await;
}

#[tokio::test]
async fn large_messages_keep_the_order_of_their_inbox() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    let (_a, mut deliveries) = mesh.connect("a", 50).await;
    // Small and large payloads in turn, in one commit and one by one.
    let sized = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, ordering_key)
                 select 'x', 'a', 'data', to_jsonb(lpad(i::text, case i % 3 when 0 then 300000 when 1 then 8 else 9000 end, ' ')),
                        case when i % 2 = 0 then 'k' end
                 from generate_series($1::int, $2::int) i";
    sql.execute(sized, &[&1, &30]).await.unwrap();
    for i in 31..=40 {
        sql.execute(sized, &[&i, &i]).await.unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..40 {
        let delivery = next(&mut deliveries).await;
        let text: String = serde_json::from_str(delivery.payload()).unwrap();
        seen.push(text.trim().parse::<i32>().unwrap());
        delivery.ack().await;
    }
    let keyed: Vec<i32> = seen.iter().copied().filter(|i| i % 2 == 0).collect();
    assert!(keyed.is_sorted(), "{keyed:?}");
    let free: Vec<i32> = seen.iter().copied().filter(|i| i % 2 == 1).collect();
    assert!(free.is_sorted(), "{free:?}");
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
}

#[tokio::test]
async fn a_message_that_is_due_at_infinity_waits_for_ever_and_alone() {
    let mesh = Mesh::start().await;
    let (_a, mut deliveries) = mesh.connect("a", 5).await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, deliver_at)
         values ('x', 'a', 'data', '\"never\"', 'infinity'), ('x', 'a', 'data', '\"late\"', '294276-01-01'),
                ('x', 'a', 'data', '\"long ago\"', '-infinity'), ('x', 'a', 'data', '\"soon\"', now() + interval '1 s')",
    )
    .await
    .unwrap();
    for expected in ["\"long ago\"", "\"soon\""] {
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload(), expected);
        delivery.ack().await;
    }
    mesh.until_ready(true).await;
    let waiting: i64 =
        mesh.db.ask("select count(*) from postbell.deliveries where state = 'scheduled'").await;
    assert_eq!(waiting, 2);
}
