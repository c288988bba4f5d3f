//! Dead letters by the protocol: who may do it, whose they may be, and how many at once.

use faults::proxy::Proxy;
use faults::schedule::Net;
use postbell::store::Connection;
use postbell_client::protocol::ErrorCode;
use postbell_client::{Administered, Client, ClientError, Which};
use serde_json::Value;
use tokio::time::timeout;

use crate::harness::{TestDb, migrated};
use crate::mesh::{Mesh, PATIENCE, Raw, next};

/// Makes so many dead letters of an inbox, as the broker leaves them.
async fn bury(db: &TestDb, inbox: &str, count: u32) {
    let bury = format!(
        "with m as (
           insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
           select 'x', '{inbox}', 'command', to_jsonb(n) from generate_series(1, {count}) n returning message_id
         ) select count(*) from m;
         update postbell.deliveries set state = 'dead', dead_at = now(), attempt = 10, last_error = 'no such county'
         where inbox = '{inbox}' and state = 'ready'"
    );
    db.sql().await.batch_execute(&bury).await.expect("dead letters");
}

async fn left(db: &TestDb, inbox: &str) -> i64 {
    db.ask(&format!("select count(*) from postbell.deliveries where inbox = '{inbox}' and state = 'dead'"))
        .await
}

/// A broker, with three dead letters of inbox a and two of inbox b.
async fn mesh() -> Mesh {
    let mesh = Mesh::start().await;
    bury(&mesh.db, "a", 3).await;
    bury(&mesh.db, "b", 2).await;
    mesh
}

async fn orchestrator(mesh: &Mesh) -> Client {
    let token = mesh.db.agent_as("boss", Some("orchestrator")).await;
    mesh.builder("boss", &token).window(0).connect().await.expect("connects").0
}

async fn ids(client: &Client, inbox: &str) -> Vec<i64> {
    let page = client.dead_letters(Some(inbox), None).await.expect("a page");
    page.letters.iter().map(|l| l.id).collect()
}

#[tokio::test]
async fn an_agent_lists_redrives_and_purges_its_own() {
    let mesh = mesh().await;
    let (client, mut deliveries) = mesh.connect("a", 10).await;
    let page = client.dead_letters(None, None).await.unwrap();
    assert!(page.letters.len() == 3 && !page.more && page.letters.is_sorted_by_key(|l| l.id));
    let letter = &page.letters[0];
    assert_eq!((letter.inbox.as_str(), letter.from.as_str(), letter.attempts), ("a", "x", 10));
    assert_eq!(letter.reason.as_deref(), Some("no such county"));
    assert!(letter.dead_at.is_some() && letter.payload.as_ref().is_some_and(|p| p.get() == "1"));

    assert_eq!(client.redrive(Which::Ids(&[letter.id])).await.unwrap().count, 1);
    assert_eq!(left(&mesh.db, "a").await, 2, "it was committed");
    let delivery = next(&mut deliveries).await;
    assert_eq!((delivery.id(), delivery.attempt()), (letter.message_id, 1));
    delivery.ack_confirmed().await.unwrap();
    assert_eq!(client.purge(Which::Ids(&[page.letters[1].id])).await.unwrap().count, 1);
    assert_eq!(client.redrive(Which::Inbox("a")).await.unwrap().count, 1);
    assert_eq!(next(&mut deliveries).await.id(), page.letters[2].message_id);
    assert_eq!(client.redrive(Which::Inbox("a")).await.unwrap().count, 0);
    assert_eq!(left(&mesh.db, "a").await, 0);
    assert_eq!(mesh.metric("postbell_tail_late_total").await, 0.0);
}

#[tokio::test]
async fn an_agent_can_do_nothing_to_those_of_others() {
    let mesh = mesh().await;
    let (client, _) = mesh.connect("a", 0).await;
    let boss = orchestrator(&mesh).await;
    let of_b = ids(&boss, "b").await;
    let refusals = [
        client.dead_letters(Some("b"), None).await.map(|_| Administered::default()),
        client.redrive(Which::Inbox("b")).await,
        client.purge(Which::Inbox("b")).await,
        // The agent is not even told whether there is such an inbox.
        client.purge(Which::Inbox("nobody's")).await,
    ];
    for refusal in refusals {
        let error = refusal.expect_err("forbidden");
        assert!(matches!(error, ClientError::Refused { code: ErrorCode::Forbidden, .. }), "{error}");
        assert!(!error.is_retryable());
    }
    // By their numbers, the letters of others do not exist for this agent.
    assert_eq!(client.redrive(Which::Ids(&of_b)).await.unwrap().count, 0);
    assert_eq!(client.purge(Which::Ids(&[&of_b[..], &[999_999]].concat())).await.unwrap().count, 0);
    assert_eq!((left(&mesh.db, "a").await, left(&mesh.db, "b").await), (3, 2));
}

#[tokio::test]
async fn an_orchestrator_may_do_it_all_to_any() {
    let mesh = mesh().await;
    let (_b, mut deliveries) = mesh.connect("b", 10).await;
    let boss = orchestrator(&mesh).await;
    assert!(boss.dead_letters(None, None).await.unwrap().letters.is_empty(), "its own, where none is named");
    let (of_a, of_b) = (ids(&boss, "a").await, ids(&boss, "b").await);
    assert_eq!((of_a.len(), of_b.len()), (3, 2));
    assert_eq!(boss.redrive(Which::Ids(&[of_b[0]])).await.unwrap().count, 1);
    next(&mut deliveries).await.ack_confirmed().await.unwrap();
    // Ids of several inboxes at once.
    assert_eq!(boss.purge(Which::Ids(&[of_a[0], of_b[1]])).await.unwrap().count, 2);
    assert_eq!(boss.purge(Which::Inbox("a")).await.unwrap().count, 2);
    assert_eq!((left(&mesh.db, "a").await, left(&mesh.db, "b").await), (0, 0));
}

#[tokio::test]
async fn a_link_may_not() {
    let mesh = mesh().await;
    let (_client, _deliveries) = mesh.connect("b", 0).await;
    mesh.db.until("select count(*) = 1 from postbell.leases where inbox = 'b'").await;
    // The row of another broker.
    let (id, token) = ("0197a000-0000-7000-8000-000000000001", "pb_another");
    let row = format!(
        "insert into postbell.brokers (broker_id, name, address, version, lease_until, token_hash)
         values ('{id}', 'another', '', '', now() + interval '1 hour', sha256('{token}'))"
    );
    mesh.db.sql().await.batch_execute(&row).await.expect("a broker's row");
    let mut raw = Raw::open(mesh.agents).await;
    raw.say(&format!(r#"{{"op":"hello","agent":"b","token":"{token}","broker":"{id}","window":0}}"#)).await;
    raw.expect("welcome").await;
    for ask in [r#""op":"dead""#, r#""op":"redrive","ids":[1]"#, r#""op":"purge","inbox":"b""#] {
        raw.say(&format!("{{{ask}}}")).await;
        raw.expect_error("forbidden", false).await;
    }
    assert_eq!(left(&mesh.db, "b").await, 2);
}

#[tokio::test]
async fn pages_are_bounded_in_letters_and_bytes_and_long_payloads_are_left_out() {
    let mesh = Mesh::start().await;
    bury(&mesh.db, "a", 250).await;
    // Values that only SQL can write: payloads about the limit, and names and reasons that JSON makes six times as
    // long.
    mesh.db
        .sql()
        .await
        .batch_execute(
            "update agent_messages set payload = to_jsonb(repeat('x', 4094)) where payload = '1';
             update agent_messages set payload = to_jsonb(repeat('x', 4095)) where payload = '2';
             update agent_messages set payload = to_jsonb(repeat('x', 900000)) where payload = '3';
             update agent_messages set from_agent_id = repeat(chr(1), 3000) where payload = '4';
             update agent_messages set payload = to_jsonb(repeat('y', 4000))
             where payload in (select to_jsonb(n) from generate_series(10, 60) n);
             update postbell.deliveries set last_error = repeat(chr(1), 5000) where delivery_id <= 4",
        )
        .await
        .expect("rows");
    let mut raw = mesh.raw("a", 0).await;
    let (mut found, mut after, mut pages) = (Vec::<Value>::new(), 0, Vec::new());
    loop {
        raw.say(&format!(r#"{{"op":"dead","limit":4000,"after":{after}}}"#)).await;
        let line = raw.line().await.expect("an answer");
        assert!(line.len() < 68 * 1024, "{} bytes", line.len());
        let mut page: Value = serde_json::from_str(&line).expect("JSON");
        let letters = page["letters"].as_array_mut().expect("letters");
        pages.push(letters.len());
        found.append(letters);
        after = found.last().expect("one at least")["id"].as_i64().expect("a number");
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(found.len(), 250);
    assert!(
        pages.iter().all(|n| (1..=100).contains(n)) && pages[0] < 20 && pages.contains(&100),
        "{pages:?}"
    );
    let payload = |n: usize| found[n]["payload"].as_str().map(str::len);
    assert_eq!((payload(0), payload(1), payload(2)), (Some(4_094), None, None));
    assert!(found[1].get("payload").is_none(), "left out, not null");
    assert_eq!(found[3]["from"].as_str().map(str::len), Some(256));
    assert_eq!(found[3]["reason"].as_str().map(str::len), Some(1_000));
}

#[tokio::test]
async fn one_request_is_one_bounded_transaction() {
    let mesh = Mesh::start().await;
    bury(&mesh.db, "a", 2_500).await;
    let mut raw = mesh.raw("a", 0).await;
    raw.say(r#"{"op":"purge","ref":"p","inbox":"a"}"#).await;
    let done = raw.expect("purged").await;
    assert_eq!((done["count"].as_i64(), done["more"].as_bool()), (Some(1_000), Some(true)));
    assert_eq!(left(&mesh.db, "a").await, 1_500);
    raw.say(&format!(r#"{{"op":"redrive","inbox":"a","after":{}}}"#, done["last"])).await;
    assert_eq!(raw.expect("redriven").await["count"], 1_000);
    raw.say(r#"{"op":"redrive","ref":"r","inbox":"a"}"#).await;
    let done = raw.expect("redriven").await;
    assert_eq!((done["count"].as_i64(), done["more"].as_bool()), (Some(500), Some(false)));
    let distinct = "select count(distinct txid) from postbell.deliveries where state = 'ready'";
    assert_eq!(mesh.db.ask::<i64>(distinct).await, 2);
    let many = vec!["7"; 1_001].join(",");
    raw.say(&format!(r#"{{"op":"purge","ref":"many","ids":[{many}]}}"#)).await;
    assert_eq!(raw.expect_error("bad_field", false).await["ref"], "many");
    raw.say(r#"{"op":"purge","ids":[1],"inbox":"a"}"#).await;
    raw.expect_error("bad_field", false).await;
    // The client itself asks again until all are purged.
    bury(&mesh.db, "b", 2_500).await;
    let (b, _) = mesh.connect("b", 0).await;
    assert_eq!(b.purge(Which::Inbox("b")).await.unwrap().count, 2_500);
}

#[tokio::test]
async fn an_agent_has_one_request_under_way_and_nobody_waits_for_it() {
    let mesh = mesh().await;
    let token = mesh.db.agent("a").await;
    let mut raw = mesh.raw_with("a", &token, 0).await;
    let mut second = mesh.raw_with("a", &token, 5).await;
    let mut sql = mesh.db.sql().await;
    let held = sql.transaction().await.unwrap();
    // A trigger of the user's that waits: a row that somebody holds would be passed over.
    let slow = "create function slow() returns trigger language plpgsql as $$
                begin perform pg_advisory_xact_lock(4711); return new; end $$;
                create trigger slow before update on agent_messages for each row execute function slow()";
    mesh.db.sql().await.batch_execute(slow).await.unwrap();
    held.batch_execute("select pg_advisory_xact_lock(4711)").await.unwrap();
    raw.say(r#"{"op":"redrive","ref":"1","inbox":"a"}"#).await;
    // The session goes on reading, and so does every other. The agent has had its turn, over whichever connection.
    raw.say(r#"{"op":"ping"}"#).await;
    raw.expect("pong").await;
    second.say(r#"{"op":"dead","ref":"2"}"#).await;
    let error = second.expect_error("slow_down", false).await;
    assert_eq!((error["ref"].as_str(), error["retry_ms"].as_i64()), (Some("2"), Some(50)));
    crate::mesh::insert(&mesh.db.sql().await, "a", 5, "1").await;
    raw.say(r#"{"op":"send","ref":"s","to":"b","type":"data","payload":1}"#).await;
    raw.expect("sent").await;
    held.rollback().await.unwrap();
    assert_eq!(raw.expect("redriven").await["count"], 3);
    second.expect("msg").await;
    // Clones of a client ask again by themselves.
    let (client, _) = mesh.builder("a", &token).window(0).connect().await.unwrap();
    let asks: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.dead_letters(None, None).await })
        })
        .collect();
    for ask in asks {
        ask.await.unwrap().expect("a page");
    }
}

#[tokio::test]
async fn without_the_database_it_is_unavailable_and_goes_on_when_it_is_back() {
    let db = migrated().await;
    bury(&db, "a", 3).await;
    let proxy = Proxy::in_turn(Vec::new()).await.unwrap();
    let mesh = Mesh::on(db.through(&proxy), &[]).await;
    let token = db.agent("a").await;
    let mut raw = mesh.raw_with("a", &token, 0).await;
    proxy.inflict(Net::BlackHole);
    // Nobody is told that the database is away. All the same each request is answered, and the session lives.
    for ask in [r#""op":"redrive","ref":"r","inbox":"a""#, r#""op":"dead","ref":"r""#] {
        raw.say(&format!("{{{ask}}}")).await;
        let error = raw.expect_error("unavailable", false).await;
        assert_eq!(error["ref"], "r");
    }
    proxy.heal();
    let asked_again = async {
        loop {
            raw.say(r#"{"op":"purge","inbox":"a"}"#).await;
            if raw.line().await.expect("an answer").contains(r#""op":"purged""#) {
                return;
            }
        }
    };
    timeout(PATIENCE, asked_again).await.expect("done on a new connection");
    assert_eq!(left(&db, "a").await, 0);
    mesh.stop().await;
}

#[tokio::test]
async fn the_dead_letters_of_others_are_not_walked() {
    let db = migrated().await;
    bury(&db, "others", 20_000).await;
    bury(&db, "a", 2).await;
    db.sql().await.batch_execute("analyze").await.unwrap();
    let broker = Connection::open(&db.target()).await.expect("connects");
    let text = include_str!("../../sql/queries/dead_page.sql");
    broker.batch(&format!("prepare page as {text}")).await.expect("prepared");
    let explain = "explain (analyze, buffers, costs off, timing off) execute page('a', 0, 100)";
    let rows = broker.query(explain, &[]).await.expect("explained");
    let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let removed = plan.iter().any(|line| line.contains("Rows Removed"));
    assert!(!removed && plan.iter().any(|line| line.contains("deliveries_dead")), "{}", plan.join("\n"));
}
