//! An operator sees the outcomes that are set aside, and ends them.

use super::{Two, doctor_says};
use crate::harness::command;
use crate::mesh::{Mesh, insert, next};
use crate::status::{JSON, OPERATOR, VIEWER, get, mesh, post};
use serde_json::json;

const REFUSE: &str = "create function refuse() returns trigger language plpgsql as $$
                      begin if new.status = 'processed' then raise exception 'no'; end if; return new; end $$;
                      create trigger refuse before update on agent_messages for each row execute function refuse()";

#[tokio::test]
async fn the_command_lists_retries_and_drops() {
    let mut two = Two::after(REFUSE).await;
    two.u_is_served().await;
    two.u_is_served().await;
    let db = two.nothing_comes_again().await;
    let listed = command(&db, &["aside", "list"]).await;
    assert_eq!(listed.status, 0, "{}", listed.stderr);
    assert!(
        listed.stdout.contains("NUMBER") && listed.stdout.contains("the trigger refuse"),
        "{}",
        listed.stdout
    );
    let listed = command(&db, &["aside", "list", "--kind", "ack", "--json"]).await;
    let rows: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(rows.as_array().map(Vec::len), Some(2));
    let number = rows[1]["number"].to_string();

    let refused = command(&db, &["aside", "retry", "--all"]).await;
    assert_eq!((refused.status, refused.stdout.contains("still refused 2")), (1, true), "{}", refused.stdout);
    let dropped = command(&db, &["aside", "drop", &number]).await;
    assert_eq!(dropped.stdout, "dropped 1\n");
    doctor_says(&db, &["1 outcomes (ack)"]).await;
    // Dropped rows still say that their messages are over.
    assert_eq!(db.ask::<i64>("select count(*) from postbell.set_aside").await, 2);

    db.sql().await.batch_execute("drop trigger refuse on agent_messages").await.unwrap();
    let written = command(&db, &["aside", "retry", "--inbox", "u"]).await;
    assert_eq!((written.status, written.stdout.contains("written 1,")), (0, true), "{}", written.stdout);
    let listed = command(&db, &["aside", "list"]).await;
    assert_eq!(listed.stdout, "nothing is set aside\n");
    // The last trace goes with the message.
    db.sql().await.batch_execute("delete from agent_messages").await.unwrap();
    assert_eq!(db.ask::<i64>("select count(*) from postbell.set_aside").await, 0);
}

#[tokio::test]
async fn what_somebody_else_ended_is_forgotten() {
    let mut two = Two::after(REFUSE).await;
    two.u_is_served().await;
    let sql = two.mesh.db.sql().await;
    let end = "alter table agent_messages disable trigger refuse; update agent_messages set status = 'failed' where to_agent_id = 'u';
               update postbell.set_aside set next_try = now()";
    sql.batch_execute(end).await.unwrap();
    two.mesh.db.until("select count(*) = 0 from postbell.set_aside").await;
    assert_eq!(
        two.mesh.db.ask::<String>("select status from agent_messages where to_agent_id = 'u'").await,
        "failed"
    );
    two.nothing_comes_again().await;
}

#[tokio::test]
async fn the_page_and_its_api_show_it_and_an_operator_ends_it() {
    let mesh: Mesh = mesh("local").await;
    mesh.db.sql().await.batch_execute(REFUSE).await.unwrap();
    let (_client, mut deliveries) = mesh.connect("u", 5).await;
    for _ in 0..2 {
        insert(&mesh.db.sql().await, "u", 5, "1").await;
        next(&mut deliveries).await.ack_confirmed().await.unwrap();
    }
    let (_, shown) = get(&mesh, "/api/mesh", &[]).await;
    assert_eq!((&shown["set_aside"][0]["kind"], &shown["set_aside"][0]["count"]), (&json!("ack"), &json!(2)));
    let findings = shown["verdict"]["findings"].to_string();
    assert!(findings.contains("The table agent_messages does not take 2 outcomes"), "{findings}");
    assert_eq!(get(&mesh, "/api/aside", &[]).await.0, 401);
    let (_, list) = get(&mesh, "/api/aside?kind=ack&limit=1", &[VIEWER]).await;
    assert!(
        list["asides"][0]["reason"].to_string().contains("the trigger refuse") && list["more"] == true,
        "{list}"
    );
    let all = json!({"inbox": "u"});
    assert_eq!(post(&mesh, "/api/aside/drop", &[VIEWER, JSON], &all).await.0, 403);
    let one = json!({"ids": [list["asides"][0]["number"]]});
    assert_eq!(post(&mesh, "/api/aside/drop", &[OPERATOR, JSON], &one).await, (200, json!({"count": 1})));
    mesh.db.sql().await.batch_execute("drop trigger refuse on agent_messages").await.unwrap();
    assert_eq!(post(&mesh, "/api/aside/retry", &[OPERATOR, JSON], &all).await, (200, json!({"count": 1})));
    mesh.db.until("select count(*) = 0 from postbell.set_aside where dropped_at is null").await;
    mesh.stop().await;
}
