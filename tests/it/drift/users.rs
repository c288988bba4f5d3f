//! The user's own triggers run with the search_path that they would have without us, and never with another's.

use postbell::store::migrate::migrate;

use super::run;
use crate::harness::{EXISTING_MESH, TestDb, fresh, number, roles, texts};
use crate::mesh::{Mesh, insert, next};

/// Triggers that name a table and a function as people do: without a schema.
const AUDIT: &str = "
    create table audit_log (what text, who text default current_user);
    create function audit() returns trigger language plpgsql as $$
      begin insert into audit_log (what) values (tg_table_name || ' ' || tg_op); return null; end $$;
    create trigger audit after insert or update on agent_messages for each row execute function audit();
    create trigger audit after insert or update on agent_alerts for each row execute function audit();
    create trigger audit after insert or update on agent_registry for each row execute function audit()";

async fn mesh_with(triggers: &str) -> TestDb {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    run(&client, triggers).await;
    migrate(&db.target()).await.expect("migrate");
    db
}

const ALERT: &str = "insert into agent_alerts (agent_id, alert_type, severity, message) values ('validation-agent', 't', 'high', 'm')";

#[tokio::test]
async fn an_alert_is_stored_and_sent_where_triggers_name_their_tables_without_a_schema() {
    let db = mesh_with(AUDIT).await;
    let client = db.client().await;
    run(
        &client,
        "insert into postbell.subscriptions (pattern, agent_id) values ('alerts.>', 'local-orchestrator');
                  delete from audit_log",
    )
    .await;
    run(&client, ALERT).await;
    run(&client, "update agent_alerts set status = 'resolved'").await;
    let said = texts(&client, "select what from audit_log order by what").await;
    assert_eq!(
        said,
        ["agent_alerts INSERT", "agent_alerts UPDATE", "agent_messages INSERT", "agent_messages INSERT"]
    );
    let sent = "select topic from agent_messages where topic is not null order by topic";
    assert_eq!(texts(&client, sent).await, ["alerts.high", "alerts.resolved"]);
    // The caller's own search_path is as it was.
    assert_eq!(texts(&client, "select current_setting('search_path')").await.len(), 1);
}

#[tokio::test]
async fn the_end_of_an_absence_resolves_its_alert_where_triggers_name_their_tables_without_a_schema() {
    let db = mesh_with(AUDIT).await;
    let client = db.client().await;
    run(
        &client,
        "insert into agent_alerts (alert_id, agent_id, alert_type, severity, message)
           values ('00000000-0000-7000-8000-000000000001', 'validation-agent', 'agent_offline', 'high', 'm');
         update postbell.presence_history set alert_id = '00000000-0000-7000-8000-000000000001'
           where agent_id = 'validation-agent' and until = 'infinity';
         update agent_registry set status = 'online' where agent_id = 'validation-agent'",
    )
    .await;
    let resolved = "select count(*) from agent_alerts where status = 'resolved' and resolved_by = 'postbell'";
    assert_eq!(number(&client, resolved).await, 1);
    assert_eq!(number(&client, "select count(*) from audit_log where what = 'agent_alerts UPDATE'").await, 1);
}

#[tokio::test]
async fn the_brokers_statements_fire_triggers_that_call_what_is_in_the_roles_path() {
    let db = mesh_with(AUDIT).await;
    let name = db.url().rsplit('/').next().unwrap_or_default().to_owned();
    run(
        &db.client().await,
        &format!(
            "create schema extensions; create table extensions.calls (n int);
             create function extensions.stamp(n int) returns int language sql as 'insert into extensions.calls values (n) returning n';
             create function stamps() returns trigger language plpgsql as $$ begin perform stamp(1); return null; end $$;
             create trigger stamps after update on agent_messages for each row execute function stamps();
             create trigger stamps after update on agent_registry for each row execute function stamps();
             alter database {name} set search_path = \"$user\", public, extensions"
        ),
    )
    .await;
    let mesh = Mesh::on(db, &[]).await;
    let (_client, mut deliveries) = mesh.connect("fresh", 10).await;
    insert(&mesh.db.sql().await, "fresh", 5, "1").await;
    next(&mut deliveries).await.ack_confirmed().await.expect("acknowledged");
    mesh.db
        .until("select count(*) = 1 from agent_messages where to_agent_id = 'fresh' and status = 'processed'")
        .await;
    mesh.db.until("select count(*) > 1 from extensions.calls").await;
    let _ = mesh.stop().await;
}

/// A role that may insert an alert and make objects must not have its objects run with the rights of the tables'
/// owner.
#[tokio::test]
async fn a_hostile_search_path_runs_nothing_as_the_owner() {
    let db = mesh_with(AUDIT).await;
    let owner = db.client().await;
    roles(
        &owner,
        "do $$ begin if to_regrole('mallory') is null then create role mallory login password 'secret'; end if; end $$",
    )
    .await;
    run(
        &owner,
        "create schema evil authorization mallory; grant insert, select, update on agent_alerts to mallory;
         grant insert on audit_log to mallory",
    )
    .await;
    let mallory = db.client_as("mallory").await;
    run(
        &mallory,
        "create table evil.caught (who text);
         create function evil.catch() returns trigger language plpgsql as $$
           begin insert into evil.caught values (current_user); return null; end $$;
         create table evil.audit_log (what text, who text default current_user);
         create trigger catch after insert on evil.audit_log for each row execute function evil.catch();
         create temporary table audit_log (what text, who text default current_user);
         create trigger catch after insert on pg_temp.audit_log for each row execute function evil.catch();
         create function evil.to_jsonb(public.agent_alerts) returns jsonb language plpgsql as $$
           begin insert into evil.caught values (current_user); return '{}'; end $$;
         create function evil.now() returns timestamptz language plpgsql as $$
           begin insert into evil.caught values (current_user); return null; end $$;
         create function evil.same(text, text) returns boolean language plpgsql as $$
           begin insert into evil.caught values (current_user); return true; end $$;
         create operator evil.<> (leftarg = text, rightarg = text, function = evil.same);
         grant all on all tables in schema evil to public; grant usage on schema evil to public",
    )
    .await;
    for path in ["evil, public", "evil, pg_temp, public", "pg_temp, evil, pg_catalog, public", "evil"] {
        run(&mallory, &format!("set search_path = {path}")).await;
        run(&mallory, &ALERT.replace("agent_alerts", "public.agent_alerts")).await;
        run(&mallory, "update public.agent_alerts set status = 'resolved'").await;
    }
    let caught = "select distinct who from evil.caught where who <> 'mallory'";
    assert_eq!(texts(&owner, caught).await, [""; 0], "something of his ran as another");
    let sent = "select count(*) from audit_log where what = 'agent_messages INSERT' and who <> 'mallory'";
    assert_eq!(number(&owner, sent).await, 4, "the user's own trigger wrote to the user's own table");
}
