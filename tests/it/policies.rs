//! The roles of Supabase's API: every forbidden thing is tried as the role it is forbidden to, and every allowed one.

mod adopted;
mod alerts;
mod catalog;
mod command;
mod groups;

use postbell::store::migrate::policies::{Applied, apply};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use crate::harness::{TestDb, migrated, roles};

/// The roles as Supabase has them. An existing role is changed to be so.
const ROLES: &str = "do $$ declare r text; begin
    foreach r in array array['anon', 'authenticated', 'service_role'] loop
      if to_regrole(r) is null then execute format('create role %I nologin noinherit', r); end if;
    end loop;
    if not (select rolbypassrls from pg_roles where rolname = 'service_role') then
      alter role service_role bypassrls;
    end if;
  end $$";

/// The rights that Supabase's default privileges give on each table of `public`.
const GRANTED: &str = "grant usage on schema public to anon, authenticated, service_role;
    grant all on agent_messages, agent_registry, agent_alerts, agent_metrics to anon, authenticated, service_role";

const AGENTS: &str = "
    insert into agent_registry (agent_id, agent_name, agent_type, environment, status, role, enabled, token_hash) values
      ('a', 'A', 'test', 'pc', 'online', 'agent', true, sha256('a')),
      ('b', 'B', 'test', 'pc', 'online', 'agent', true, sha256('b')),
      ('boss', 'Boss', 'test', 'pc', 'online', 'orchestrator', true, null),
      ('off', 'Off', 'test', 'pc', 'offline', 'orchestrator', false, null);
    insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values
      ('a', 'b', 'data', '\"a to b\"'), ('b', 'a', 'data', '\"b to a\"'), ('b', 'boss', 'data', '\"b to boss\"'),
      ('a', null, 'data', '\"a to all\"'), ('boss', null, 'data', '\"boss to all\"')";

/// A database with agents and messages on which the policies were applied, after everything had been granted.
pub(crate) async fn closed() -> TestDb {
    let db = migrated().await;
    let client = db.client().await;
    roles(&client, ROLES).await;
    client.batch(GRANTED).await.expect("as on Supabase");
    client.batch(AGENTS).await.expect("agents");
    apply_on(&db).await;
    db
}

/// Applies the policies. Roles belong to the whole server: granting to one in two databases at once collides in
/// nothing, creating does.
async fn apply_on(db: &TestDb) -> Applied {
    apply(&db.target(), false).await.expect("applies")
}

/// The claims of a token of this agent.
fn claim(agent: &str) -> String {
    format!(r#"{{"role":"authenticated","app_metadata":{{"agent_id":"{agent}"}}}}"#)
}

/// Runs one statement as PostgREST does: in a transaction, as the role, with the claims. Returns the first column of
/// each row, or the number of rows if the statement returns none.
pub(crate) async fn try_as(
    db: &TestDb,
    role: &str,
    claims: &str,
    statement: &str,
) -> Result<Vec<String>, SqlState> {
    let sql = db.sql().await;
    let begin = format!(
        "begin; select set_config('request.jwt.claims', '{}', true); set local role {role}",
        claims.replace('\'', "''")
    );
    sql.batch_execute(&begin).await.expect(role);
    let answers = sql.simple_query(statement).await;
    let end = if answers.is_ok() { "commit" } else { "rollback" };
    sql.batch_execute(end).await.expect(end);
    let answers = answers.map_err(|e| e.code().cloned().unwrap_or_else(|| panic!("{statement}: {e}")))?;
    let mut rows: Vec<String> = Vec::new();
    let mut changed = 0;
    for answer in &answers {
        match answer {
            SimpleQueryMessage::Row(row) => rows.push(row.get(0).unwrap_or("null").to_owned()),
            SimpleQueryMessage::CommandComplete(n) => changed = *n,
            _ => {}
        }
    }
    let is_select = answers.iter().any(|a| matches!(a, SimpleQueryMessage::RowDescription(_)));
    Ok(if is_select { rows } else { vec![changed.to_string()] })
}

pub(crate) async fn as_agent(db: &TestDb, agent: &str, statement: &str) -> Result<Vec<String>, SqlState> {
    try_as(db, "authenticated", &claim(agent), statement).await
}

const DENIED: Result<Vec<String>, SqlState> = Err(SqlState::INSUFFICIENT_PRIVILEGE);

fn none() -> Result<Vec<String>, SqlState> {
    Ok(vec!["0".to_owned()])
}

pub(crate) fn one() -> Result<Vec<String>, SqlState> {
    Ok(vec!["1".to_owned()])
}

/// Statements that are forbidden to every API role, whatever its claim.
const NEVER: &[&str] = &[
    "delete from agent_messages",
    "truncate agent_messages",
    "update agent_messages set payload = '1'",
    "update agent_messages set to_agent_id = 'a'",
    "update agent_messages set from_agent_id = 'a'",
    "create trigger t after insert on agent_messages execute function pg_catalog.suppress_redundant_updates_trigger()",
    "insert into agent_registry (agent_id, agent_name, agent_type, environment, status)
       values ('new', 'n', 't', 'pc', 'online')",
    "delete from agent_registry",
    "truncate agent_registry",
    "select token_hash from agent_registry",
    "select * from agent_registry",
    "select 1 from agent_registry where token_hash is not null",
    "update agent_registry set role = 'orchestrator'",
    "update agent_registry set enabled = true",
    "update agent_registry set token_hash = null",
    "update agent_registry set agent_id = 'z'",
    "update agent_alerts set agent_id = 'a'",
    "update agent_alerts set severity = 'low'",
    "delete from agent_alerts",
    "truncate agent_alerts",
    "update agent_metrics set metric_value = 1",
    "delete from agent_metrics",
    "truncate agent_metrics",
    "select from postbell.deliveries",
    "select from postbell.presence_history",
    "select from postbell.escalations",
    "insert into postbell.outbox (from_agent_id, topic, message_type, payload) values ('b', 't', 'data', '1')",
    "select from postbell.agents",
    "delete from postbell.deliveries",
    "insert into postbell.leases (inbox, broker_id) values ('a', gen_random_uuid())",
    "select nextval('postbell.epochs')",
    "select postbell.arm(gen_random_uuid(), true)",
    "select postbell.api_agent()",
];

#[tokio::test]
async fn what_is_forbidden_to_all_is_forbidden() {
    let db = closed().await;
    for statement in NEVER {
        for agent in ["a", "boss"] {
            assert_eq!(as_agent(&db, agent, statement).await, DENIED, "{agent}: {statement}");
        }
        assert_eq!(try_as(&db, "anon", &claim("boss"), statement).await, DENIED, "anon: {statement}");
    }
}

#[tokio::test]
async fn anon_does_nothing_whatever_its_claim() {
    let db = closed().await;
    let rest = [
        "select from agent_messages",
        "select agent_id from agent_registry",
        "update agent_messages set status = 'processed'",
        "update agent_registry set status = 'online' where agent_id = 'a'",
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values ('a', 'b', 'data', '1')",
    ];
    for claims in ["", &claim("a"), &claim("boss")] {
        for statement in rest {
            assert_eq!(try_as(&db, "anon", claims, statement).await, DENIED, "{statement}");
        }
    }
    // Somebody grants everything again, as many a script does: the policies hold by themselves.
    db.client().await.batch(GRANTED).await.expect("grants");
    assert_eq!(try_as(&db, "anon", &claim("a"), "select payload from agent_messages").await, Ok(vec![]));
    assert_eq!(try_as(&db, "anon", &claim("a"), "select agent_id from agent_registry").await, Ok(vec![]));
    assert_eq!(try_as(&db, "anon", &claim("a"), rest[2]).await, none());
    assert_eq!(try_as(&db, "anon", &claim("a"), "delete from agent_messages").await, none());
    assert_eq!(try_as(&db, "anon", &claim("a"), rest[4]).await, DENIED);
    assert_eq!(as_agent(&db, "a", "delete from agent_messages").await, none());
    assert_eq!(as_agent(&db, "a", "delete from agent_registry").await, none());
}

fn send(from: &str, to: &str, more: &str, values: &str) -> String {
    format!(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload{more})
         values ('{from}', {to}, 'data', '\"sent\"'{values})"
    )
}

#[tokio::test]
async fn an_agent_sends_as_itself_and_the_trigger_routes_it() {
    let db = closed().await;
    assert_eq!(as_agent(&db, "a", &send("a", "'b'", "", "")).await, one());
    // As supabase-js sends: with every column that may be given, and the row in return.
    let whole = send(
        "a",
        "'b'",
        ", priority, status, correlation_id, dedupe_key, deliver_at, expires_at, headers",
        ", 1, 'pending', 'c', 'k', now(), now() + interval '1 hour', '{}'",
    );
    let returned = as_agent(&db, "a", &format!("{whole} returning to_agent_id, message_id")).await;
    assert_eq!(returned, Ok(vec!["b".to_owned()]));
    let routed = "select count(*) from postbell.deliveries d join agent_messages m using (message_id)
                  where m.payload = '\"sent\"' and d.inbox = 'b'";
    assert_eq!(db.ask::<i64>(routed).await, 2);
    assert_eq!(
        as_agent(&db, "boss", &send("boss", "null", "", "")).await,
        one(),
        "an orchestrator may broadcast"
    );
    assert_eq!(
        db.ask::<i64>(
            "select count(*) from postbell.deliveries d join agent_messages m using (message_id)
        where m.payload = '\"sent\"' and m.to_agent_id is null and d.inbox in ('a', 'b')"
        )
        .await,
        2
    );
}

#[tokio::test]
async fn an_agent_sends_as_nobody_else_and_makes_up_no_history() {
    let db = closed().await;
    let count = "select count(*) from agent_messages";
    let before = db.ask::<i64>(count).await;
    let good = send("a", "'b'", "", "");
    for claims in [
        String::new(),
        "{}".to_owned(),
        claim("b"),
        claim("nobody"),
        // Claims that the user can edit, or that stand where no issuer puts them.
        r#"{"role":"authenticated","user_metadata":{"agent_id":"a"}}"#.to_owned(),
        r#"{"role":"authenticated","agent_id":"a","sub":"a"}"#.to_owned(),
        r#"{"app_metadata":["a"]}"#.to_owned(),
        r#"{"app_metadata":{"agent_id":["a"]}}"#.to_owned(),
        r#"{"app_metadata":{"agent_id":null}}"#.to_owned(),
    ] {
        assert_eq!(try_as(&db, "authenticated", &claims, &good).await, DENIED, "{claims}");
    }
    for statement in [
        send("a", "'b'", ", status", ", 'processed'"),
        send("a", "'b'", ", status", ", 'delivered'"),
        send("a", "'b'", ", created_at", ", now() - interval '1 year'"),
        send("a", "'b'", ", processed_at", ", now()"),
        send("a", "null", "", ""),
        // A row that is allowed must not take a forbidden row with it.
        format!("{}, ('b', 'a', 'data', '1')", send("a", "'b'", "", "")),
    ] {
        assert_eq!(as_agent(&db, "a", &statement).await, DENIED, "{statement}");
    }
    assert_eq!(as_agent(&db, "off", &send("off", "'b'", "", "")).await, DENIED, "a disabled agent");
    assert_eq!(
        try_as(&db, "authenticated", "no json", &good).await,
        Err(SqlState::INVALID_TEXT_REPRESENTATION)
    );
    assert_eq!(db.ask::<i64>(count).await, before);
}

const PAYLOADS: &str = "select payload #>> '{}' from agent_messages order by 1";

#[tokio::test]
async fn an_agent_reads_what_is_its_own() {
    let db = closed().await;
    let reads = |agent: &'static str| as_agent(&db, agent, PAYLOADS);
    let of = |payloads: &[&str]| Ok(payloads.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
    assert_eq!(reads("a").await, of(&["a to all", "a to b", "b to a", "boss to all"]));
    assert_eq!(reads("boss").await, of(&["a to all", "b to boss", "boss to all"]));
    assert_eq!(reads("off").await, of(&[]));
    assert_eq!(try_as(&db, "authenticated", "", PAYLOADS).await, of(&[]));
    // A broadcast may be read by a recipient for as long as its delivery is there.
    db.sql()
        .await
        .batch_execute("delete from postbell.deliveries where inbox = 'b'")
        .await
        .expect("acknowledged");
    assert_eq!(reads("b").await, of(&["a to b", "b to a", "b to boss"]));
}

#[tokio::test]
async fn a_poller_marks_what_was_sent_to_it() {
    let db = closed().await;
    let mark = |which: &str| {
        format!(
            "update agent_messages set status = 'processed', processed_at = now() where payload = '\"{which}\"'"
        )
    };
    assert_eq!(as_agent(&db, "a", &mark("b to a")).await, one());
    let left = "select count(*) from postbell.deliveries d join agent_messages m using (message_id)
                where m.payload = '\"b to a\"'";
    assert_eq!(db.ask::<i64>(left).await, 0, "the old kind of poller settles its delivery");
    for other in ["a to b", "b to boss", "boss to all", "a to all"] {
        assert_eq!(as_agent(&db, "a", &mark(other)).await, none(), "{other}");
    }
    assert_eq!(try_as(&db, "authenticated", "", &mark("b to a")).await, none());
    assert_eq!(db.ask::<i64>("select count(*) from agent_messages where status = 'processed'").await, 1);
}

#[tokio::test]
async fn an_agent_writes_its_own_heartbeat() {
    let db = closed().await;
    let names = "select agent_id from agent_registry order by 1";
    assert_eq!(as_agent(&db, "a", names).await.map(|n| n.join(" ")), Ok("a b boss off".to_owned()));
    assert_eq!(try_as(&db, "authenticated", "", names).await, Ok(vec![]));
    let beat = |agent: &str| {
        format!(
            "update agent_registry set status = 'busy', last_heartbeat = now(), capabilities = '{{}}', metadata = '{{}}',
             updated_at = now() where agent_id = '{agent}'"
        )
    };
    assert_eq!(as_agent(&db, "a", &beat("a")).await, one());
    assert_eq!(as_agent(&db, "a", &beat("b")).await, none());
    assert_eq!(as_agent(&db, "off", &beat("off")).await, none(), "a disabled agent");
    assert_eq!(db.ask::<i64>("select count(*) from agent_registry where status = 'busy'").await, 1);
}

#[tokio::test]
async fn service_role_does_all_but_look_into_the_brokers_schema() {
    let db = closed().await;
    let service = |statement: &'static str| try_as(&db, "service_role", "", statement);
    assert_eq!(service(PAYLOADS).await.map(|rows| rows.len()), Ok(5));
    assert_eq!(service("update agent_registry set enabled = true where agent_id = 'off'").await, one());
    let forged = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                  values ('b', 'a', 'data', '1')";
    assert_eq!(service(forged).await, one());
    assert_eq!(service("delete from agent_messages where payload = '1'").await, one());
    for statement in [
        "select from postbell.deliveries",
        "select nextval('postbell.epochs')",
        "select postbell.api_agent()",
    ] {
        assert_eq!(service(statement).await, DENIED, "{statement}");
    }
}

#[tokio::test]
async fn a_topic_is_for_every_agent_to_send_to_and_an_environment_for_orchestrators() {
    let db = closed().await;
    let subscribe = "insert into postbell.subscriptions (pattern, agent_id) values ('news.*', 'b')";
    db.client().await.batch(subscribe).await.expect("subscribes");
    let to_topic = |from: &str| send(from, "null", ", topic", ", 'news.today'");
    let to_environment = |from: &str| send(from, "null", ", to_environment", ", 'pc'");
    assert_eq!(as_agent(&db, "a", &to_topic("a")).await, one());
    assert_eq!(as_agent(&db, "a", &to_topic("b")).await, DENIED);
    assert_eq!(as_agent(&db, "a", &to_environment("a")).await, DENIED);
    assert_eq!(as_agent(&db, "boss", &to_environment("boss")).await, one());
    let routed = "select count(*) from postbell.deliveries d join agent_messages m using (message_id)
                  where m.topic = 'news.today' and d.inbox = 'b'";
    assert_eq!(db.ask::<i64>(routed).await, 1);
    let read = "select topic from agent_messages where topic is not null";
    assert_eq!(as_agent(&db, "b", read).await, Ok(vec!["news.today".to_owned()]));
    for stranger in [
        subscribe,
        "select from postbell.subscriptions",
        "select postbell.recipients('a', 'news.today', null)",
    ] {
        assert_eq!(as_agent(&db, "boss", stranger).await, DENIED, "{stranger}");
    }
}
