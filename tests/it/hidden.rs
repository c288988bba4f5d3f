//! Messages that the broker cannot see, outcomes that a trigger takes back, and messages in tables that no trigger
//! watches: somebody is told, everybody else is served, and what can be delivered later is.

use postbell::store::doctor::{Check, Level, examine};
use postbell::store::migrate::migrate;
use tokio::time::timeout;

use crate::harness::{EXISTING_MESH, TestDb, fresh, roles};
use crate::mesh::{Mesh, Raw, insert};
use crate::settle::{SERVED, Two, doctor_says};
use crate::standstill::owned_mesh;

/// The broker's role owns the tables, and sees only the messages that this lets it see.
async fn hide(sql: &tokio_postgres::Client, seen: &str) {
    let policy = format!(
        "create policy few on agent_messages using ({seen}) with check (true);
         alter table agent_messages force row level security"
    );
    sql.batch_execute(&policy).await.expect("a policy");
}

async fn served(sql: &tokio_postgres::Client, u: &mut Raw) {
    insert(sql, "u", 5, "1").await;
    let msg = timeout(SERVED, u.expect("msg")).await.expect("u is served");
    u.say(&format!(r#"{{"op":"ack","tag":{},"ref":"u"}}"#, msg["tag"])).await;
    timeout(SERVED, u.expect("acked")).await.expect("written");
}

/// The doctor's complaints about this.
async fn told(db: &TestDb, about: &str) -> String {
    let checks: Vec<Check> = examine(&db.target()).await;
    let bad = checks.iter().filter(|c| c.check == about && c.level != Level::Ok);
    bad.map(|c| c.sentence.as_str()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn what_was_hidden_for_a_while_is_delivered_once_it_can_be_seen() {
    let (admin, mesh) = owned_mesh().await;
    let sql = admin.sql().await;
    hide(&sql, "to_agent_id <> 'a'").await;
    let mut u = mesh.raw("u", 10).await;
    // The first one waits in the table for a refill; the tail brings the others.
    insert(&sql, "a", 5, "0").await;
    let mut a = mesh.raw("a", 10).await;
    insert(&sql, "a", 5, "1").await;
    insert(&sql, "a", 1, "2").await;
    mesh.until_metric("postbell_unseen_total", |looks| looks >= 3.0).await;
    served(&sql, &mut u).await;
    let waits =
        "select count(*) = 3 and bool_and(state = 'scheduled') from postbell.deliveries where inbox = 'a'";
    admin.until(waits).await;
    assert!(
        told(&mesh.db, "deliveries")
            .await
            .starts_with("3 deliveries wait whose messages this role cannot see")
    );
    // A look at all messages takes what it cannot see for hidden, not for deleted.
    let looked = "select marks = postbell.trigger_marks() from postbell.looked";
    sql.batch_execute(
        "alter table agent_messages disable trigger postbell_route; alter table agent_messages enable trigger postbell_route",
    )
    .await
    .expect("touched");
    admin.until(looked).await;
    sql.batch_execute("alter table agent_messages no force row level security").await.expect("seen again");
    let mut came = Vec::new();
    for _ in 0..3 {
        let msg = timeout(SERVED, a.expect("msg")).await.expect("served once it can be seen");
        came.push(msg["payload"].to_string());
        a.say(&format!(r#"{{"op":"ack","tag":{}}}"#, msg["tag"])).await;
    }
    came.sort();
    assert_eq!(came, ["0", "1", "2"]);
    admin
        .until("select count(*) = 3 from agent_messages where to_agent_id = 'a' and status = 'processed'")
        .await;
    assert_eq!(told(&mesh.db, "deliveries").await, "");
    let _ = mesh.stop().await;
}

/// More hidden messages than one refill reads stand in front of one that can be seen.
#[tokio::test]
async fn hidden_messages_do_not_stand_in_the_way_of_others() {
    let (admin, mesh) = owned_mesh().await;
    let sql = admin.sql().await;
    hide(&sql, "payload <> '0'").await;
    let many = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                select 's', 'a', 'data', case when i > 5000 then '1' else '0' end::jsonb from generate_series(1, 5001) i";
    sql.batch_execute(many).await.expect("inserted");
    let mut a = mesh.raw("a", 10).await;
    let msg = timeout(SERVED, a.expect("msg")).await.expect("served");
    assert_eq!(msg["payload"], 1);
    let _ = mesh.stop().await;
}

const PUT_BACK: &str = "
    create function back() returns trigger language plpgsql as $$
    begin
      if old.payload = '\"poison\"' then raise exception 'no'; end if;
      if new.to_agent_id in ('a', 'late') and new.status in ('processed', 'failed') then new.status := old.status; end if;
      return new;
    end $$;
    create trigger back before update on agent_messages for each row execute function back()";

#[tokio::test]
async fn an_outcome_whose_status_a_trigger_puts_back_is_set_aside_and_not_delivered_again() {
    let mut two = Two::after(PUT_BACK).await;
    let mut tags = Vec::new();
    for payload in ["1", "2", "3", "\"poison\""] {
        tags.push(two.send_a(payload).await["tag"].clone());
    }
    // In a statement for all, as a dead letter, and one by one beside a message that is refused.
    two.a.say(&format!(r#"{{"op":"ack","tag":{},"ref":"x"}}"#, tags[0])).await;
    two.a.expect("acked").await;
    two.a.say(&format!(r#"{{"op":"nack","tag":{},"outcome":"dead","reason":"no"}}"#, tags[1])).await;
    two.a.say(&format!(r#"{{"op":"ack","tags":[{},{}],"ref":"x"}}"#, tags[2], tags[3])).await;
    two.a.expect("acked").await;
    two.mesh.db.until("select count(*) = 4 from postbell.set_aside where inbox = 'a'").await;
    two.u_is_served().await;
    doctor_says(&two.mesh.db, &["3 outcomes (ack)", "1 outcomes (dead)", "puts the status back"]).await;
    assert_eq!(told(&two.mesh.db, "deliveries").await, "", "they are over, and waiting for no broker");
    // One that expires while nobody is there for it.
    let sql = two.mesh.db.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, expires_at)
         values ('s', 'late', 'data', '1', now() - interval '1 minute')",
    )
    .await
    .expect("inserted");
    two.mesh
        .db
        .until("select count(*) = 1 from postbell.set_aside where inbox = 'late' and kind = 'expired'")
        .await;
    assert_eq!(two.mesh.db.ask::<Option<i64>>("select postbell.look_at_all()").await, Some(0));
    let db = two.nothing_comes_again().await;
    // Once the trigger lets them pass, they are written.
    let mend = "drop trigger back on agent_messages; update postbell.set_aside set next_try = now()";
    db.sql().await.batch_execute(mend).await.expect("mended");
    let mesh = Mesh::on(db, &[]).await;
    mesh.db.until("select count(*) = 0 from postbell.set_aside").await;
    let ended = "select string_agg(status, ' ' order by status) from agent_messages where to_agent_id in ('a', 'late')";
    assert_eq!(mesh.db.ask::<String>(ended).await, "failed failed processed processed processed");
    mesh.stop().await;
}

const CHILD: &str = "create table am_child () inherits (agent_messages)";

#[tokio::test]
async fn a_table_that_inherits_is_named_by_adoption_and_by_the_doctor() {
    let db = fresh().await;
    roles(&db.client().await, EXISTING_MESH).await;
    db.sql().await.batch_execute(CHILD).await.expect("a child");
    let refused = migrate(&db.target()).await.expect_err("refused").to_string();
    assert!(refused.contains("a table that others inherit from (am_child)"), "{refused}");
    db.sql().await.batch_execute("drop table am_child").await.expect("gone");
    migrate(&db.target()).await.expect("migrates");

    let sql = db.sql().await;
    sql.batch_execute(CHILD).await.expect("a child, later");
    let many = "insert into am_child (from_agent_id, to_agent_id, message_type, payload) values ('s', 'u', 'data', '1')";
    sql.batch_execute(many).await.expect("inserted past the triggers");
    let schema = told(&db, "schema").await;
    assert!(schema.starts_with("table am_child inherits from agent_messages"), "{schema}");
    let deliveries = told(&db, "deliveries").await;
    assert!(
        deliveries.starts_with("1 messages wait in tables that inherit from agent_messages"),
        "{deliveries}"
    );
    assert!(!deliveries.contains("within seconds"), "{deliveries}");
    let mesh = Mesh::on(db.clone(), &[]).await;
    let mut u = mesh.raw("u", 10).await;
    served(&sql, &mut u).await;
    mesh.until_ready(true).await;
    let _ = mesh.stop().await;
}

#[tokio::test]
async fn the_doctor_says_within_seconds_only_of_what_a_broker_will_route() {
    let db = crate::harness::migrated().await;
    let sql = db.sql().await;
    insert(&sql, "a", 5, "1").await;
    sql.batch_execute("delete from postbell.deliveries").await.expect("deleted");
    let said = told(&db, "deliveries").await;
    let id = db.ask::<String>("select message_id::text from agent_messages").await;
    assert!(
        said.starts_with(&format!(
            "1 messages wait and have no delivery ({id}), and no broker looks for them"
        )),
        "{said}"
    );
    sql.batch_execute("update postbell.looked set marks = ''").await.expect("touched");
    let said = told(&db, "deliveries").await;
    assert!(said.starts_with("1 messages were written while triggers did not fire"), "{said}");
    assert!(said.contains("within seconds"), "{said}");
}
