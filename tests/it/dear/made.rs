//! Made-up payloads of every cost: the broker's count at `send` is what Postgres writes, and a payload that SQL
//! inserts is delivered or dead, with a reason.

use std::time::Instant;

use postbell_client::protocol::written::written_bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tokio::time::timeout;

use super::{PROMISED, served};
use crate::harness::migrated;
use crate::mesh::{Mesh, PATIENCE};

fn number() -> impl Strategy<Value = String> {
    let exponent = prop_oneof![
        4 => Just(String::new()),
        2 => "[eE][+-]?[0-9]{1,2}",
        1 => (-1_500..1_500_i32).prop_map(|e| format!("e{e}")),
    ];
    let mantissa =
        prop_oneof!["-?(0|[1-9][0-9]{0,30})", "-?(0|[1-9][0-9]{0,5})\\.[0-9]{1,12}", "-?0(\\.0{1,5})?"];
    (mantissa, exponent).prop_map(|(m, e)| m + &e)
}

/// A character as it is, or in one of its escapes.
fn character() -> impl Strategy<Value = String> {
    let escape = |c: char| {
        let mut units = [0; 2];
        c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04X}")).collect::<String>()
    };
    prop_oneof![
        3 => any::<char>().prop_filter("as it is", |c| *c >= ' ' && *c != '"' && *c != '\\').prop_map(String::from),
        1 => any::<char>().prop_filter("Postgres has no zero", |c| *c != '\0').prop_map(escape),
        1 => (1..0x20_u8).prop_map(|c| format!("\\u{c:04x}")),
        1 => prop::sample::select(vec!["\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t"]).prop_map(String::from),
    ]
}

fn string() -> impl Strategy<Value = String> {
    vec(character(), 0..12).prop_map(|all| format!("\"{}\"", all.concat()))
}

/// JSON as somebody may write it: with white space, keys that come twice, and escapes in keys.
fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        number(),
        string(),
        prop::sample::select(vec!["true", "false", "null"]).prop_map(String::from)
    ];
    leaf.prop_recursive(6, 60, 8, |inner| {
        let key = prop_oneof![3 => "\"[abc]\"", 1 => Just("\"\\u0061\"".to_owned()), 1 => string()];
        let space = || prop::sample::select(vec!["", " ", "\n\t "]);
        prop_oneof![
            (vec(inner.clone(), 0..8), space()).prop_map(|(all, s)| format!("[{s}{}{s}]", all.join(","))),
            (vec((key, inner), 0..8), space()).prop_map(|(all, s)| {
                let members: Vec<String> = all.iter().map(|(k, v)| format!("{k}{s}:{v}")).collect();
                format!("{{{}{s}}}", members.join(&format!("{s},{s}")))
            }),
        ]
    })
}

fn some(count: usize) -> Vec<String> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| json().new_tree(&mut runner).expect("a value").current()).collect()
}

#[tokio::test]
async fn what_is_counted_is_what_postgres_writes() {
    let sql = migrated().await.sql().await;
    let all = some(3_000);
    let query = "select octet_length(x::jsonb::text)::bigint from unnest($1::text[]) with ordinality as t (x, n) order by n";
    let written = sql.query(query, &[&all]).await.expect("all of it is jsonb");
    for (json, row) in all.iter().zip(&written) {
        assert_eq!(written_bytes(json), row.get::<_, i64>(0) as u64, "{json}");
    }
}

/// Payloads that nobody would write by accident.
fn extremes() -> Vec<String> {
    let long = |c: &str, n: usize| format!("\"{}\"", c.repeat(n));
    let keys: Vec<String> = (0..60_000).map(|i| format!("\"k{i}\":{i}")).collect();
    vec![
        "[".repeat(3_000) + "1e131071" + &"]".repeat(3_000),
        "{\"a\":".repeat(2_000) + "0e-16383" + &"}".repeat(2_000),
        format!("[{}]", vec!["1e131071"; 200].join(",")),
        format!("[{}]", vec!["1e-16383"; 200].join(",")),
        format!("[{}]", vec!["-9.99e40000"; 100].join(",")),
        format!("{{{}}}", keys.join(",")),
        format!("[{}]", vec!["0"; 300_000].join(",")),
        long("x", 1_500_000),
        long("\\u0001", 200_000),
        long("\u{1f600}", 100_000),
        long("\\ud83d\\ude00", 50_000),
    ]
}

#[tokio::test]
async fn payloads_of_every_cost_are_delivered_or_dead_and_delay_nobody() {
    let mesh = Mesh::start().await;
    let (_u, mut uninvolved) = mesh.connect("u", 5).await;
    let (_a, mut deliveries) = mesh.connect("a", 100).await;
    let sql = mesh.db.sql().await;
    let mut all = some(300);
    for (n, extreme) in extremes().into_iter().enumerate() {
        all.insert(n * 25, extreme);
    }
    for part in all.chunks(60) {
        let insert = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                      select 'x', 'a', 'data', p::jsonb from unnest($1::text[]) p";
        sql.execute(insert, &[&part]).await.expect("inserts");
        served(&mesh, &mut uninvolved, "beside them").await;
    }
    let since = Instant::now();
    let mut handled = 0;
    let count: i64 = loop {
        let ended: i64 = mesh.db.ask("select count(*) from agent_messages where to_agent_id = 'a' and status in ('processed', 'failed')").await;
        if ended == all.len() as i64 || since.elapsed() > PATIENCE {
            break ended;
        }
        if let Ok(Some(delivery)) = timeout(PROMISED / 50, deliveries.next()).await {
            delivery.ack().await;
            handled += 1;
        }
    };
    assert_eq!(count, all.len() as i64);
    let dead: i64 = mesh.db.ask("select count(*) from postbell.deliveries where state = 'dead' and last_error ~ '^(payload_too_large|unreadable)'").await;
    // In the order of the list: payloads with too many digits, or too long ones.
    assert_eq!((handled, dead), (all.len() as i64 - 5, 5));
}
