//! Rows of adopted tables with nulls and odd values in every column, and bytes that are no text.

use futures_util::SinkExt;
use postbell::store::agents::{self, NewAgent};
use postbell::store::dead::{self, Filter};
use postbell::store::doctor::{Level, examine};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use tokio::time::timeout;

use super::{PROMISED, served, until_dead};
use crate::mesh::{Mesh, get, insert, next};
use crate::status::{self, VIEWER};

const VIEWED: (&str, &str) = ("POSTBELL_VIEWER_TOKEN", "a viewer's token of a test");

async fn watched() -> Mesh {
    Mesh::with(&[VIEWED]).await
}

/// The tables of a mesh whose owner never cared for constraints.
const LOOSE: &str = "
    alter table agent_messages alter from_agent_id drop not null, alter message_type drop not null,
        alter payload drop not null, alter priority drop not null, alter status drop not null, alter created_at drop not null;
    alter table agent_registry alter agent_name drop not null, alter agent_type drop not null,
        alter environment drop not null, alter status drop not null, alter role drop not null, alter enabled drop not null;
    do $$ declare c record; begin
      for c in select conrelid::regclass as t, conname from pg_constraint
               where contype = 'c' and conrelid in ('agent_messages'::regclass, 'agent_registry'::regclass) loop
        execute format('alter table %s drop constraint %I', c.t, c.conname);
      end loop;
    end $$";

/// Everything that an operator looks at answers.
pub(super) async fn all_answer(mesh: &Mesh) {
    mesh.until_ready(true).await;
    let pool = mesh.db.pool();
    let agents = agents::list(&pool).await.expect("agent list");
    serde_json::to_string(&agents).expect("as JSON");
    let letters = dead::list(&pool, &Filter { limit: 1_000, ..Filter::default() }).await.expect("dead list");
    serde_json::to_string(&letters).expect("as JSON");
    for letter in letters.iter().take(20) {
        let shown = dead::show(&pool, &letter.delivery_id.to_string()).await.expect("dead show");
        serde_json::to_string(&shown).expect("as JSON");
    }
    for path in ["/metrics", "/health/live"] {
        let (status, body) = get(mesh.http, path).await;
        assert_eq!(status, 200, "{path}: {body}");
    }
    for path in ["/api/mesh", "/api/agents/a/messages"] {
        let (status, body) = status::get(mesh, path, &[VIEWER]).await;
        assert_eq!(status, 200, "{path}: {body}");
        assert!(!body.to_string().contains("could not be read"), "{path}: {body}");
    }
    let checks = examine(&mesh.db.target()).await;
    assert!(
        !checks.iter().any(|c| c.level == Level::Fail && c.sentence.contains("cannot be read")),
        "{checks:?}"
    );
}

#[tokio::test]
async fn a_sender_that_was_deleted_and_a_type_that_is_null_are_delivered_as_empty() {
    let mesh = watched().await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(LOOSE).await.unwrap();
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority, status, created_at)
         values (null, 'a', null, null, null, null, null), ('x', 'a', 'data', '1', 5, 'pending', '-infinity'),
                ('x', 'a', 'data', '2', 5, 'pending', 'infinity')",
    )
    .await
    .unwrap();
    let (_a, mut deliveries) = mesh.connect("a", 5).await;
    let first = next(&mut deliveries).await;
    assert_eq!((first.from(), first.message_type(), first.payload()), ("", "", "null"));
    all_answer(&mesh).await;
    first.ack().await;
    for expected in ["1", "2"] {
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload(), expected);
        delivery.dead("tried").await;
    }
    until_gone(&mesh).await;
    all_answer(&mesh).await;
}

async fn until_gone(mesh: &Mesh) {
    mesh.db.until("select count(*) = 0 from postbell.deliveries where state <> 'dead'").await;
}

#[tokio::test]
async fn a_registry_full_of_nulls_is_listed_and_given_tokens() {
    let mesh = watched().await;
    let (_u, mut uninvolved) = mesh.connect("u", 5).await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(LOOSE).await.unwrap();
    sql.batch_execute(
        "insert into agent_registry (agent_id, agent_name, agent_type, environment, status, last_heartbeat, enabled, role)
         values ('n', null, null, null, null, null, null, null), ('i', 'i', 't', 'pc', 'online', 'infinity', true, 'agent'),
                ('o', 'o', 't', 'pc', 'online', '-infinity', true, 'agent')",
    )
    .await
    .unwrap();
    all_answer(&mesh).await;
    let added = agents::add(&mesh.db.pool(), &NewAgent { agent_id: "n", ..NewAgent::default() })
        .await
        .expect("a token");
    assert_eq!((added.environment.as_str(), added.role.as_str()), ("unknown", "agent"));
    let (_n, mut deliveries) = mesh.builder("n", added.token.reveal()).connect().await.expect("connects");
    insert(&sql, "n", 5, "1").await;
    assert_eq!(next(&mut deliveries).await.payload(), "1");
    all_answer(&mesh).await;
    served(&mesh, &mut uninvolved, "beside them").await;
}

/// Copies bytes as they are: by COPY with SQL_ASCII the server believes the client that there is nothing to check.
async fn copy_bytes(mesh: &Mesh, columns: &str, lines: &[&[u8]]) {
    let sql = mesh.db.sql().await;
    let copy = format!("copy agent_messages ({columns}) from stdin with (encoding 'SQL_ASCII')");
    let sink = sql.copy_in::<_, bytes::Bytes>(&copy).await.expect("copies");
    let mut sink = std::pin::pin!(sink);
    for line in lines {
        sink.send(bytes::Bytes::copy_from_slice(line)).await.expect("a line");
    }
    sink.as_mut().finish().await.expect("copied");
}

#[tokio::test]
async fn bytes_that_are_no_text_are_dead_letters_and_the_broker_lives() {
    let mut mesh = watched().await;
    let (u, a) = (mesh.db.agent("u").await, mesh.db.agent("a").await);
    let (_u, mut uninvolved) = mesh.builder("u", &u).connect().await.expect("connects");
    let (client, mut deliveries) = mesh.builder("a", &a).connect().await.expect("connects");
    let columns = "from_agent_id, to_agent_id, message_type, payload, topic, correlation_id";
    copy_bytes(
        &mesh,
        columns,
        &[
            b"x\ta\tdata\t\"before\"\t\\N\t\\N\n",
            b"\xff\xfe\ta\tdata\t1\t\\N\t\\N\n",
            b"x\ta\tdata\t\"\xe4\"\t\\N\t\\N\n",
            b"x\ta\tdata\t1\t\xc3\t\\N\n",
            b"x\ta\tdata\t1\t\\N\t\xf0\x9f\n",
            b"x\t\xffnobody\tdata\t1\t\\N\t\\N\n",
            b"x\ta\tdata\t\"after\"\t\\N\t\\N\n",
        ],
    )
    .await;
    for expected in ["\"before\"", "\"after\""] {
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload(), expected);
        delivery.ack().await;
    }
    served(&mesh, &mut uninvolved, "beside them").await;
    until_dead(&mesh, "unreadable", 4).await;
    mesh.until_metric("postbell_dead_total{reason=\"unreadable\"}", |n| n == 4.0).await;
    all_answer(&mesh).await;
    let mut raw = mesh.raw_with("a", &a, 5).await;
    raw.say(r#"{"op":"dead","ref":"d"}"#).await;
    assert_eq!(raw.expect("dead_letters").await["letters"].as_array().unwrap().len(), 4);
    drop((client, deliveries, raw));
    // The same rows again, waiting when a broker starts.
    copy_bytes(&mesh, columns, &[b"\xff\ta\tdata\t1\t\\N\t\\N\n", b"x\ta\tdata\t\"again\"\t\\N\t\\N\n"])
        .await;
    drop((_u, uninvolved));
    let (db, _) = mesh.stop().await;
    mesh = Mesh::on(db, &[VIEWED]).await;
    let (_u, mut uninvolved) = mesh.builder("u", &u).connect().await.expect("connects");
    let (_a, mut deliveries) = mesh.builder("a", &a).connect().await.expect("connects");
    assert_eq!(next(&mut deliveries).await.payload(), "\"again\"");
    served(&mesh, &mut uninvolved, "after the restart").await;
    until_dead(&mesh, "unreadable", 5).await;
}

/// A random odd value of a kind, as SQL.
fn odd(random: &mut StdRng, kind: &str) -> String {
    let from: &[&str] = match kind {
        "text" => {
            &["null", "''", "'x'", "repeat('x', 300)", "repeat('x', 100000)", "E'\\u202e\\n\\t'", "'a'"]
        }
        "time" => &[
            "null",
            "'infinity'",
            "'-infinity'",
            "'294276-12-31'",
            "'4713-01-01 BC'",
            "now()",
            "now() + interval '1 h'",
        ],
        "future" => &["null", "'infinity'", "'294276-12-31'", "now() + interval '1 h'", "now()"],
        "int" => &["null", "0", "-2147483648", "2147483647", "5", "1", "10"],
        _ => &[
            "null",
            "'null'",
            "'{}'",
            "'[1e131071]'",
            "'{\"a\": [1e131071, 0e-16383, \"x\"]}'",
            "'\"\"'",
            "to_jsonb(repeat('x', 20000))",
            "to_jsonb(repeat(chr(1), 5000))",
        ],
    };
    from[random.random_range(0..from.len())].to_owned()
}

#[tokio::test]
async fn rows_of_odd_values_in_every_column_are_delivered_or_dead() {
    let mesh = watched().await;
    let (_u, mut uninvolved) = mesh.connect("u", 5).await;
    let sql = mesh.db.sql().await;
    // A session that alters tables beside a broker may be the victim of a deadlock. Then nothing was altered.
    while let Err(e) = sql.batch_execute(LOOSE).await {
        assert_eq!(e.code(), Some(&tokio_postgres::error::SqlState::T_R_DEADLOCK_DETECTED), "{e}");
    }
    let (_a, mut deliveries) = mesh.connect("a", 50).await;
    let taking = tokio::spawn(async move {
        while let Some(delivery) = deliveries.next().await {
            delivery.ack().await;
        }
    });
    let mut random = StdRng::seed_from_u64(13);
    let columns = [
        ("from_agent_id", "text"),
        ("message_type", "text"),
        ("payload", "json"),
        ("priority", "int"),
        ("created_at", "time"),
        ("delivered_at", "time"),
        ("processed_at", "time"),
        ("error_message", "text"),
        ("topic", "text"),
        ("correlation_id", "text"),
        ("headers", "json"),
        ("expires_at", "future"),
        ("ordering_key", "text"),
        ("to_instance", "text"),
    ];
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    for round in 0..12 {
        let rows: Vec<String> = (0..25)
            .map(|_| {
                let values: Vec<String> = columns.iter().map(|(_, kind)| odd(&mut random, kind)).collect();
                format!("('a', {})", values.join(", "))
            })
            .collect();
        let insert = format!(
            "insert into agent_messages (to_agent_id, {}) values {}",
            names.join(", "),
            rows.join(", ")
        );
        sql.batch_execute(&insert).await.expect("inserts");
        let agent: Vec<String> =
            ["text", "text", "text", "text", "time"].iter().map(|kind| odd(&mut random, kind)).collect();
        let agent = format!(
            "insert into agent_registry (agent_id, agent_name, agent_type, environment, status, last_heartbeat)
             values ('odd{round}', {})",
            agent.join(", ")
        );
        sql.batch_execute(&agent).await.expect("registers");
        served(&mesh, &mut uninvolved, "beside them").await;
    }
    until_gone(&mesh).await;
    all_answer(&mesh).await;
    let untold: i64 = mesh
        .db
        .ask("select count(*) from postbell.deliveries where state = 'dead' and last_error is null")
        .await;
    assert_eq!(untold, 0);
    taking.abort();
}

/// The user gives a column another type while the broker runs: whatever has a text form is delivered as that text. The other columns
/// are held by the views of the schema postbell.
#[tokio::test]
async fn a_column_of_another_type_is_read_as_text() {
    let mesh = watched().await;
    let (_u, mut uninvolved) = mesh.connect("u", 5).await;
    let sql = mesh.db.sql().await;
    sql.batch_execute("create type words as enum ('one', 'two')").await.expect("a type");
    served(&mesh, &mut uninvolved, "before").await;
    for (n, (kind, value)) in (1_usize..).zip([
        ("uuid", "6f1b1c1e-0000-4000-8000-000000000001"),
        ("words", "two"),
        ("name", "c"),
        ("varchar(40)", "c"),
        ("bigint", "7"),
    ]) {
        let ddl = format!("alter table agent_messages alter correlation_id type {kind} using null::{kind}");
        sql.batch_execute(&ddl).await.expect(&ddl);
        let insert = format!(
            "insert into agent_messages (from_agent_id, to_agent_id, payload, message_type, correlation_id)
             values ('sql', 'u', '1', 'data', '{value}')"
        );
        sql.batch_execute(&insert).await.expect(&insert);
        // Statements that a connection had prepared return another type now.
        let delivery = timeout(PROMISED, next(&mut uninvolved)).await.expect(kind);
        assert_eq!(delivery.correlation_id(), Some(value), "{kind}");
        delivery.dead("odd").await;
        let dead = format!("select count(*) = {n} from postbell.deliveries where state = 'dead'");
        mesh.db.until(&dead).await;
        mesh.until_ready(true).await;
    }
}
