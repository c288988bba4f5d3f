//! A row at which the server fails whenever it is read: a policy of row level security raises for it. Whatever else is in
//! the table is read, written, removed and shown all the same.

use std::time::Duration;

use postbell::store::StoreError;
use postbell::store::forgetting::{Past, forget};
use postbell::store::status::Bounds;
use postbell::store::{aside, dead, doctor, gauges, reap, status, sweep};
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::harness::{TestDb, fresh};
use crate::mesh::{Mesh, PATIENCE, insert};
use crate::rehearsal::{owned, owner_url};
use crate::standstill::owned_mesh;

/// A policy that raises by a cast, and one that raises by a function of its own.
const POLICIES: [&str; 2] = ["(payload ->> 'n')::int > 0", "whole(payload)"];

/// Binds the table's owner, which is the broker's role, to the policy. A superuser is not bound.
async fn bind(admin: &TestDb, policy: &str) {
    let policy = format!(
        "create function whole(payload jsonb) returns boolean language plpgsql as $$
           begin assert payload ->> 'n' <> 'x', payload::text; return true; end $$;
         create policy strict on agent_messages using ({policy}) with check (true);
         alter table agent_messages force row level security"
    );
    admin.sql().await.batch_execute(&policy).await.expect("a policy");
}

/// A broker under the policy. The first handle sees everything.
async fn bound(policy: &str) -> (TestDb, Mesh) {
    let (admin, mesh) = owned_mesh().await;
    bind(&admin, policy).await;
    (admin, mesh)
}

/// From now on the message with this number cannot be read.
async fn spoil(sql: &Client, number: i64) {
    let spoil = "update agent_messages set payload = jsonb_build_object('n', 'x', 'was', $1::bigint)
                 where payload ->> 'n' = $1::bigint::text";
    assert_eq!(sql.execute(spoil, &[&number]).await.expect("spoiled"), 1);
}

/// Makes the spoiled message readable again.
async fn mend(sql: &Client) {
    let mend = "update agent_messages set payload = jsonb_build_object('n', payload -> 'was') where payload ->> 'n' = 'x'";
    sql.execute(mend, &[]).await.expect("mended");
}

fn numbered(n: i64) -> String {
    format!("{{\"n\": {n}}}")
}

#[tokio::test]
async fn its_outcome_waits_and_those_of_all_others_are_written() {
    for policy in POLICIES {
        let (admin, mesh) = bound(policy).await;
        let sql = admin.sql().await;
        let mut u = mesh.raw("u", 5).await;
        let mut a = mesh.raw("a", 10).await;
        let mut tags = Vec::new();
        for n in 1..=4 {
            insert(&sql, "a", 5, &numbered(n)).await;
            tags.push(a.expect("msg").await["tag"].clone());
        }
        let many = "insert into agent_messages (from_agent_id, message_type, payload) values ('sql', 'data', '{\"n\": 5}')";
        sql.execute(many, &[]).await.expect("to all");
        let broadcast = (a.expect("msg").await["tag"].clone(), u.expect("msg").await["tag"].clone());
        for n in [2, 3, 5] {
            spoil(&sql, n).await;
        }
        let says = [
            format!(r#"{{"op":"ack","tag":{}}}"#, tags[0]),
            format!(r#"{{"op":"ack","tag":{}}}"#, tags[1]),
            format!(r#"{{"op":"nack","tag":{},"outcome":"dead","reason":"no"}}"#, tags[2]),
            format!(r#"{{"op":"ack","tag":{}}}"#, tags[3]),
            format!(r#"{{"op":"ack","tag":{},"ref":"a"}}"#, broadcast.0),
        ];
        for say in says {
            a.say(&say).await;
        }
        a.expect("acked").await;
        insert(&sql, "u", 5, &numbered(6)).await;
        let tag = u.expect("msg").await["tag"].clone();
        u.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"u"}}"#)).await;
        u.expect("acked").await;
        u.say(&format!(r#"{{"op":"ack","tag":{},"ref":"b"}}"#, broadcast.1)).await;
        u.expect("acked").await;
        admin.until("select count(*) = 3 from agent_messages where status = 'processed'").await;
        admin
            .until(
                "select count(*) = 3 from postbell.set_aside where reason like 'its row cannot be read: %'",
            )
            .await;
        admin
            .until("select count(*) = 1 from postbell.deliveries where state = 'dead' and last_error = 'no'")
            .await;
        assert_eq!(
            admin.ask::<i64>("select count(*) from postbell.deliveries where state <> 'dead'").await,
            0
        );
        mesh.until_ready(true).await;

        // Once the row can be read, what waited is written, by whatever tries it first.
        mend(&sql).await;
        let target = mesh.db.target();
        let all = aside::Chosen { ids: None, inbox: None };
        let again = aside::Tries::new(target).retry_chosen(all).await.expect("tried");
        assert_eq!(again.refused, 0);
        let ended = "select string_agg(coalesce(status, '-'), ' ' order by (payload ->> 'n')::int) from agent_messages";
        assert_eq!(
            admin.ask::<String>(ended).await,
            "processed processed failed processed processed processed",
            "{policy}"
        );
        mesh.stop().await;
    }
}

/// Works until no message that can be read is left as it was. A search ends early on a busy machine; the next one goes on.
async fn until_none(admin: &TestDb, which: &str, work: impl AsyncFn() -> Result<u64, StoreError>) {
    let left = format!("select count(*) from agent_messages where payload ->> 'n' <> 'x' and {which}");
    let working = async {
        while admin.ask::<i64>(&left).await > 0 {
            work().await.expect(which);
        }
    };
    timeout(PATIENCE, working).await.unwrap_or_else(|_| panic!("always some where {which}"));
}

#[tokio::test]
async fn what_only_time_ends_ends_beside_it() {
    for policy in POLICIES {
        // No broker, which would do the same at the same time.
        let admin = fresh().await;
        let owner = owned(&admin, &admin.client().await).await;
        postbell::store::migrate::migrate(&owner).await.expect("migrates");
        bind(&admin, policy).await;
        let (sql, pool) = (admin.sql().await, TestDb::at(owner_url(&admin)).pool());
        // One transaction's messages have one time, and three transactions' have three.
        for (status, created, expires, to) in [
            ("'pending'", "now()", "now() - interval '1 minute'", "'nobody'"),
            ("'processed'", "now() - interval '3 days'", "null", "'nobody'"),
            ("'pending'", "now() - interval '2 hours'", "null", "null"),
        ] {
            let rows = format!(
                "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, status, created_at, expires_at)
                 select 'sql', {to}, 'data', jsonb_build_object('n', n), {status}, {created}, {expires}
                 from generate_series(1, 20) n"
            );
            sql.execute(&rows, &[]).await.expect("inserted");
            sql.execute("update agent_messages set payload = '{\"n\": \"x\"}' where payload ->> 'n' in ('1', '7', '20')", &[])
                .await
                .expect("three are spoiled");
        }
        until_none(&admin, "expires_at < now() and status = 'pending'", async || reap::expire(&pool).await)
            .await;
        let day = Duration::from_secs(86_400);
        let old = "created_at < now() - interval '1 day'";
        until_none(&admin, old, async || reap::remove_older(&pool, day).await).await;
        sql.execute("delete from postbell.deliveries d using agent_messages m where m.message_id = d.message_id and m.to_agent_id is null", &[])
            .await
            .expect("all had it");
        let open = "to_agent_id is null and status <> 'processed'";
        until_none(&admin, open, async || reap::finish_broadcasts(&pool).await).await;
        reap::forget_routed(&pool).await.expect("forgets");
        forget(&pool, Past::Asides).await.expect("forgets");
        // The nine that cannot be read are as they were.
        assert_eq!(
            admin.ask::<i64>("select count(*) from agent_messages where payload ->> 'n' = 'x'").await,
            9
        );
    }
}

#[tokio::test]
async fn what_no_trigger_saw_is_found_beside_it() {
    for policy in POLICIES {
        let (admin, mesh) = bound(policy).await;
        let mut u = mesh.raw("u", 50).await;
        let sql = admin.sql().await;
        let rows = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                    select 'sql', 'u', 'data', jsonb_build_object('n', case when n in (1, 7, 20) then 'x' else n::text end)
                    from generate_series(1, 20) n";
        // Noted, then taken one by one.
        sql.batch_execute(&format!(
            "set session_replication_role = replica; {rows}; reset session_replication_role"
        ))
        .await
        .expect("inserted");
        for _ in 0..17 {
            u.expect("msg").await;
        }
        // Not even noted.
        sql.batch_execute(&format!(
            "begin; alter table agent_messages disable trigger all; {rows}; alter table agent_messages enable trigger all; commit"
        ))
        .await
        .expect("inserted");
        for _ in 0..17 {
            u.expect("msg").await;
        }
        sweep::look_at_all(&mesh.db.target()).await.expect("looks");
        mesh.until_ready(true).await;
        mesh.stop().await;
    }
}

#[tokio::test]
async fn who_looks_sees_all_others() {
    for policy in POLICIES {
        let (admin, mesh) = bound(policy).await;
        let sql = admin.sql().await;
        let mut a = mesh.raw("a", 5).await;
        for n in 1..=2 {
            insert(&sql, "a", 5, &numbered(n)).await;
            let tag = a.expect("msg").await["tag"].clone();
            a.say(&format!(r#"{{"op":"nack","tag":{tag},"outcome":"dead","reason":"no"}}"#)).await;
        }
        insert(&sql, "later", 5, &numbered(3)).await;
        admin.until("select count(*) = 2 from postbell.deliveries where state = 'dead'").await;
        let (first, pool) = (gauges::mesh(&mesh.db.pool(), None).await.expect("gauges").1, mesh.db.pool());
        for n in [1, 3] {
            spoil(&sql, n).await;
        }
        let letters =
            dead::list(&pool, &dead::Filter { limit: 10, ..dead::Filter::default() }).await.expect("listed");
        assert_eq!(letters.iter().map(|l| l.message_type.as_str()).collect::<Vec<_>>(), ["data", ""]);
        for letter in &letters {
            let shown = dead::show(&pool, &letter.delivery_id.to_string()).await.expect("shown");
            assert_eq!(shown[0].left_out.is_some(), letter.message_type.is_empty(), "{shown:?}");
        }
        gauges::mesh(&pool, Some(first)).await.expect("gauges");
        let waiting = gauges::waiting(&pool).await.expect("gauges");
        assert_eq!(waiting.unknown, 1, "{waiting:?}");
        status::read(&pool, Bounds { agents: 10, flow_messages: 100, flow_seconds: 60 })
            .await
            .expect("the page");
        let (newest, _) = status::messages(&pool, "a", 10).await.expect("an agent's messages");
        assert_eq!(newest.len(), 1, "{newest:?}");
        let checks = doctor::examine(&mesh.db.target()).await;
        assert!(
            checks.iter().any(|c| c.level != doctor::Level::Ok && c.sentence.contains("row level security")),
            "{checks:?}"
        );
        mesh.stop().await;
    }
}

/// A row that takes a minute to be read, whatever is asked for of it. The sum of its neighbours' waits is in the load test's
/// hands; here, that they come at all, and that only this one is given up.
#[tokio::test]
async fn a_row_that_takes_long_to_read_is_a_dead_letter_and_its_neighbours_come() {
    let (admin, mesh) = owned_mesh().await;
    let sql = admin.sql().await;
    sql.batch_execute(
        "create function drowsy(payload jsonb) returns boolean language plpgsql as $$
           begin perform pg_sleep(case payload ->> 'n' when 'x' then 60 else 0 end); return true; end $$;
         create policy strict on agent_messages using (drowsy(payload)) with check (true);
         alter table agent_messages force row level security",
    )
    .await
    .expect("a policy");
    let mut u = mesh.raw("u", 50).await;
    for to in ["a", "later"] {
        let rows = format!(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
             select 'sql', case when n = 7 then '{to}' else 'u' end, 'data',
                    jsonb_build_object('n', case when n = 7 then 'x' else n::text end)
             from generate_series(1, 20) n"
        );
        // To one that is here, which the tail brings; to one that comes later, which a refill does.
        let mut a = match to {
            "a" => Some(mesh.raw("a", 5).await),
            _ => None,
        };
        sql.batch_execute(&rows).await.expect("inserted");
        insert(&sql, to, 5, "8").await;
        for _ in 0..19 {
            let tag = u.expect("msg").await["tag"].clone();
            u.say(&format!(r#"{{"op":"ack","tag":{tag}}}"#)).await;
        }
        if a.is_none() {
            a = Some(mesh.raw(to, 5).await);
        }
        assert_eq!(a.expect("connected").expect("msg").await["payload"], 8, "{to}");
    }
    admin
        .until("select count(*) = 2 from postbell.deliveries where state = 'dead' and last_error like 'unreadable%'")
        .await;
    let waits = "select count(*) from postbell.deliveries d join agent_messages m using (message_id)
                 where d.state <> 'dead' and m.to_agent_id = 'u'";
    admin.until(&format!("select ({waits}) = 0")).await;
    mesh.until_ready(true).await;
    mesh.stop().await;
}
