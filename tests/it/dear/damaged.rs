//! A row that the server itself fails on while it is read: its table lost a part of it.

use super::{served, until_dead};
use crate::mesh::{Mesh, insert, next};
use crate::require::missing;

/// Postgres keeps a value that it cannot pack in pieces beside the table.
const INCOMPRESSIBLE: &str =
    "(select string_agg(md5(random()::text), '') from generate_series(1, 400) where n is not null)";

/// Takes a piece away from three of the last twenty messages, as a damaged disk does: the 4th, the 5th and the 20th.
async fn damage(sql: &tokio_postgres::Client) {
    let pieces = "select reltoastrelid::regclass::text from pg_class where oid = 'agent_messages'::regclass";
    let pieces: String = sql.query_one(pieces, &[]).await.expect("the pieces' table").get(0);
    // Each message's pieces have a number of their own, and these grow.
    let places = format!(
        "select array_agg(t.ctid)::text from
           (select ctid, row_number() over (order by chunk_id desc) as back from {pieces} where chunk_seq = 0) t
         where back in (17, 16, 1)"
    );
    let places: String = sql.query_one(&places, &[]).await.expect("the places").get(0);
    let kill = format!("select heap_force_kill('{pieces}'::regclass, '{places}'::tid[])");
    sql.batch_execute(&kill).await.expect("damaged");
}

/// To one that is here, which the tail brings, and to one that comes later, which a refill does.
async fn lost_a_piece(columns: &str, values: &str) {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    if sql.batch_execute("create extension pg_surgery").await.is_err() {
        return missing("pg_surgery, of Postgres 14 or newer with its contrib modules");
    }
    let (_u, mut uninvolved) = mesh.connect("u", 5).await;
    let (_client, mut deliveries) = mesh.connect("a", 50).await;
    let token = mesh.db.agent("late").await;
    let mut late = None;
    for (round, agent) in ["a", "late"].into_iter().enumerate() {
        sql.batch_execute("begin").await.expect("begin");
        let many = format!(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, {columns})
             select 'x', '{agent}', 'data', {values} from generate_series(1, 20) n"
        );
        sql.batch_execute(&many).await.expect("inserted");
        damage(&sql).await;
        sql.batch_execute("commit").await.expect("commit");
        insert(&sql, agent, 5, "[0]").await;
        if agent == "late" {
            let (client, later) = mesh.builder("late", &token).window(50).connect().await.expect("connects");
            (late, deliveries) = (Some(client), later);
        }
        let mut seen = Vec::new();
        for _ in 0..18 {
            let delivery = next(&mut deliveries).await;
            let payload: serde_json::Value = serde_json::from_str(delivery.payload()).expect("JSON");
            seen.push(payload[0].as_i64().expect("its number"));
            delivery.ack_confirmed().await.expect("acknowledged");
        }
        seen.sort_unstable();
        let whole: Vec<i64> = (0..=20).filter(|n| ![4, 5, 20].contains(n)).collect();
        assert_eq!(seen, whole, "for {agent}");
        served(&mesh, &mut uninvolved, "beside them").await;
        until_dead(&mesh, "unreadable", 3 * (round + 1)).await;
    }
    let reasons = "select string_agg(distinct last_error, '; ') from postbell.deliveries";
    let reasons: String = mesh.db.ask(reasons).await;
    assert!(reasons.contains("XX001"), "{reasons}");
    mesh.until_metric("postbell_dead_total{reason=\"unreadable\"}", |n| n == 6.0).await;
    drop(late);
    mesh.stop().await;
}

#[tokio::test]
async fn a_payload_that_the_server_cannot_read_is_a_dead_letter_and_its_neighbours_arrive() {
    lost_a_piece("payload", &format!("jsonb_build_array(n, {INCOMPRESSIBLE})")).await;
}

/// Also where it is not the payload, which is read by itself, but what each statement reads.
#[tokio::test]
async fn nor_does_a_name_that_it_cannot_read_hold_anybody_up() {
    lost_a_piece("payload, correlation_id", &format!("jsonb_build_array(n), {INCOMPRESSIBLE}")).await;
}
