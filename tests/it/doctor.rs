//! `postbell doctor`, on healthy and on sick databases.

use std::net::SocketAddr;

use postbell::store::doctor::{Check, EXAMINATION_WAIT, Level, examine};
use postbell::store::migrate::{migrate, plan};
use postbell::store::{DatabaseUrl, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::harness::{EXISTING_MESH, command, fresh, migrated, roles};
use crate::mesh::{Mesh, get};

/// The checks of that name: their levels, and their sentences as one text.
fn of(checks: &[Check], name: &str) -> (Vec<Level>, String) {
    let found: Vec<_> = checks.iter().filter(|c| c.check == name).collect();
    assert!(!found.is_empty(), "no check {name} in {checks:?}");
    let text = found.iter().map(|c| c.sentence.as_str()).collect::<Vec<_>>().join("\n");
    (found.iter().map(|c| c.level).collect(), text)
}

#[tokio::test]
async fn a_migrated_database_passes() {
    let db = migrated().await;
    let checks = examine(&db.target()).await;
    assert!(checks.iter().all(|c| c.level != Level::Fail), "{checks:?}");
    for name in [
        "reachable",
        "tls",
        "version",
        "notify queue",
        "listen",
        "clock",
        "schema",
        "triggers",
        "rights",
        "indexes",
        "policies",
        "api roles",
        "brokers",
        "recipients",
    ] {
        assert_eq!(of(&checks, name).0, [Level::Ok], "{name}");
    }
    assert!(of(&checks, "listen").1.contains(" ms, directly"));
    assert!(of(&checks, "agents").1.contains("postbell agent add NAME"));

    let said = command(&db, &["doctor"]).await;
    assert_eq!(said.status, 0, "{}", said.stderr);
    assert!(said.stdout.starts_with("✓ reachable        connected to "), "{}", said.stdout);
    assert!(!said.stdout.contains('\x1b'), "no colour where nobody looks");
}

#[tokio::test]
async fn an_empty_database_names_the_command() {
    let db = fresh().await;
    let said = command(&db, &["doctor", "--json"]).await;
    assert_eq!(said.status, 1);
    let checks: Vec<serde_json::Value> = serde_json::from_str(&said.stdout).expect("JSON");
    let schema = checks.iter().find(|c| c["check"] == "schema").expect("schema");
    assert_eq!(schema["level"], "fail");
    assert!(schema["sentence"].as_str().is_some_and(|s| s.contains("run `postbell migrate`")));
    assert_eq!(checks.iter().filter(|c| c["level"] == "fail").count(), 1, "{checks:?}");
}

#[tokio::test]
async fn an_adopted_mesh_is_told_what_makes_it_slow_and_open() {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    migrate(&db.target()).await.expect("migrate");
    client
        .batch(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
             values ('x', 'misspelt', 'data', '{}'), ('x', 'misspelt', 'data', '{}')",
        )
        .await
        .expect("send");
    let checks = examine(&db.target()).await;
    let (level, text) = of(&checks, "indexes");
    assert_eq!(level, [Level::Warn]);
    for index in ["to_agent_id_status_idx", "agent_messages_status_idx", "priority_created_at_idx"] {
        assert!(text.contains(index), "{text}");
    }
    assert!(!text.contains("agent_messages_created_at_idx"), "{text}");
    let (level, text) = of(&checks, "policies");
    // Two tables are open by a policy, the other two for want of row level security.
    assert_eq!(level, [Level::Warn; 4]);
    assert!(
        text.contains("policy \"service role\" lets authenticated read every row of agent_messages"),
        "{text}"
    );
    let (_, text) = of(&checks, "agents");
    assert!(text.contains("5 of 5 have no token") && text.contains("validation-agent"), "{text}");
    let (level, text) = of(&checks, "recipients");
    assert_eq!(level, [Level::Warn]);
    assert!(text.contains("misspelt (2)"), "{text}");

    client
        .batch(
            "alter policy \"service role\" on agent_messages to service_role;
             alter table agent_registry disable row level security;
             alter table agent_alerts enable row level security; alter table agent_metrics enable row level security",
        )
        .await
        .expect("one closed, one opened");
    let (level, text) = of(&examine(&db.target()).await, "policies");
    assert_eq!(level, [Level::Warn], "{text}");
    assert!(text.contains("authenticated may read every row of agent_registry, since row level"), "{text}");
}

#[tokio::test]
async fn a_disabled_trigger_fails() {
    let db = migrated().await;
    db.client()
        .await
        .batch("alter table agent_messages disable trigger postbell_route")
        .await
        .expect("disable");
    let (level, text) = of(&examine(&db.target()).await, "triggers");
    assert_eq!(level, [Level::Fail]);
    assert!(text.contains("postbell_route") && text.contains("`postbell migrate`"), "{text}");
}

#[tokio::test]
async fn a_role_without_rights_is_told_which() {
    let db = migrated().await;
    let client = db.client().await;
    client
        .batch(
            "create role weak login password 'secret' noinherit; grant select on agent_messages to weak;
             grant usage on schema postbell to weak; grant select on all tables in schema postbell to weak",
        )
        .await
        .expect("role");
    let url = db.url().replace(db.url().split('@').next().unwrap_or_default(), "postgres://weak:secret");
    let target = Target::new(DatabaseUrl::parse(&url).expect("url"), "public");
    let checks = examine(&target).await;
    let (level, text) = of(&checks, "rights");
    assert!(level.iter().all(|l| *l == Level::Fail));
    assert!(text.contains("weak lacks insert, update, delete on public.agent_messages"), "{text}");
    assert!(text.contains("weak lacks insert, update, delete on postbell.deliveries"), "{text}");
    assert!(text.contains("weak lacks select, update on sequence postbell.bell"), "{text}");
    assert!(text.contains("weak lacks usage on sequence postbell.epochs"), "{text}");
    assert!(text.contains("`grant execute on function postbell.arm(uuid,boolean) to weak`"), "{text}");

    // Row level security still hides all rows, whatever rights the role has.
    client
        .batch("grant all on agent_messages, agent_registry to weak; grant all on all tables in schema postbell to weak")
        .await
        .expect("grant");
    let (_, text) = of(&examine(&target).await, "rights");
    assert!(text.contains("row level security hides rows of public.agent_messages from weak"), "{text}");
}

#[tokio::test]
async fn an_unreachable_server_ends_the_checks_and_parameters_are_named() {
    // Port 1 is reserved: nothing listens there.
    let url = "postgres://me:s3cret@127.0.0.1:1/d?pgbouncer=true&supa=base-pooler.x";
    let checks = examine(&Target::new(DatabaseUrl::parse(url).expect("url"), "public")).await;
    assert_eq!(checks.len(), 2, "{checks:?}");
    assert!(of(&checks, "url").1.contains("pgbouncer, supa"), "{checks:?}");
    let (level, text) = of(&checks, "reachable");
    assert_eq!(level, [Level::Fail]);
    assert!(text.contains("127.0.0.1:1") && !text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn sessions_in_which_no_trigger_fires_fail() {
    let db = migrated().await;
    let name = db.url().rsplit('/').next().unwrap_or_default().to_owned();
    let set = format!("alter database {name} set session_replication_role = replica");
    db.client().await.batch(&set).await.expect("set");
    let (level, text) = of(&examine(&db.target()).await, "replication role");
    assert_eq!(level, [Level::Fail]);
    assert!(text.contains("triggers do not fire"), "{text}");
}

#[tokio::test]
async fn a_broker_that_stands_still_is_named_with_its_reason() {
    let db = migrated().await;
    assert_eq!(of(&examine(&db.target()).await, "brokers"), (vec![Level::Ok], "none is running".to_owned()));
    db.client()
        .await
        .batch(
            "insert into postbell.brokers (broker_id, name, address, version, lease_until, standstill) values
               (gen_random_uuid(), 'one', 'x', 'x', now() + interval '1 hour', null),
               (gen_random_uuid(), 'two', 'x', 'x', now() + interval '1 hour', 'Outcomes have not been written.'),
               (gen_random_uuid(), 'gone', 'x', 'x', now() - interval '1 hour', 'New messages have not been read.')",
        )
        .await
        .expect("brokers");
    let (levels, said) = of(&examine(&db.target()).await, "brokers");
    assert_eq!(levels, [Level::Fail]);
    assert_eq!(said, "two stands still: Outcomes have not been written.");
}

/// A server on this machine that passes requests on to a broker and says for whom, as proxies do. Returns its address.
async fn proxy_to(broker: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut caller, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(caller.read_u8().await.expect("a whole head"));
            }
            head.truncate(head.len() - 2);
            head.extend(b"x-forwarded-for: 203.0.113.7\r\n\r\n");
            let mut onward = TcpStream::connect(broker).await.expect("the broker is there");
            onward.write_all(&head).await.expect("passed on");
            tokio::io::copy(&mut onward, &mut caller).await.expect("passed back");
        }
    });
    address
}

#[tokio::test]
async fn a_proxy_on_the_same_machine_is_told_of_once_the_broker_has_seen_it() {
    for (mode, is_told) in [("local", true), ("token", false)] {
        let token = [("POSTBELL_STATUS", mode), ("POSTBELL_VIEWER_TOKEN", "a-viewer's-token-of-some-length")];
        let mesh = Mesh::with(&token).await;
        let doctor = async || {
            let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_postbell"));
            command.arg("doctor").env_clear().env("DATABASE_URL", mesh.db.url());
            let output = command.env("POSTBELL_HTTP", mesh.http.to_string()).output().await.expect("it runs");
            String::from_utf8(output.stdout).expect("UTF-8")
        };
        let before = doctor().await;
        assert!(!before.contains("status page"), "{before}");
        let (status, answer) = get(proxy_to(mesh.http).await, "/api/me").await;
        assert_eq!((status, answer.contains("\"may\":\"nothing\"")), (200, true), "{answer}");
        let after = doctor().await;
        assert_eq!(after.contains("! status page"), is_told, "{after}");
        assert_eq!(after.contains("Set POSTBELL_STATUS=token"), is_told, "{after}");
        mesh.stop().await;
    }
}

#[tokio::test]
async fn a_locked_table_keeps_only_some_checks_from_being_made() {
    let db = migrated().await;
    let holder = db.client().await;
    holder.batch("begin; lock table agent_alerts in access exclusive mode").await.expect("locked");
    let target = db.target();
    let checks = timeout(EXAMINATION_WAIT, examine(&target)).await.expect("the whole has a bound");
    let (level, text) = of(&checks, "schema");
    assert_eq!(level, [Level::Fail]);
    assert!(text.contains("this could not be checked"), "{text}");
    for name in ["rights", "indexes", "brokers", "recipients", "deliveries"] {
        assert_eq!(of(&checks, name).0, [Level::Ok], "{name}");
    }
    holder.batch("rollback").await.expect("free");
}

#[tokio::test]
async fn each_role_is_named_once() {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    migrate(&db.target()).await.expect("migrate");
    client.batch("grant select on agent_registry to authenticated").await.expect("granted");
    let text = of(&examine(&db.target()).await, "api roles").1;
    assert!(text.contains("authenticated may read token_hash"), "{text}");
    assert!(!text.contains("authenticated and authenticated"), "{text}");
}

#[tokio::test]
async fn a_table_that_a_crash_would_empty_is_named_before_and_after() {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    client.batch("alter table agent_messages set unlogged").await.expect("unlogged");
    let names = |warnings: &[String]| {
        let named = |w: &String| w.contains("`alter table public.agent_messages set logged`");
        warnings.iter().filter(|w| named(w)).count()
    };
    let planned = plan(&client).await.expect("can be done");
    assert_eq!(names(&planned.warnings), 1, "{:?}", planned.warnings);
    for _ in 0..2 {
        let done = migrate(&db.target()).await.expect("migrate");
        assert_eq!(names(&done.warnings), 1, "{:?}", done.warnings);
    }
    let (level, text) = of(&examine(&db.target()).await, "tables");
    assert_eq!(level, [Level::Warn]);
    assert!(text.contains("public.agent_messages is unlogged"), "{text}");
    client.batch("alter table agent_messages set logged").await.expect("logged");
    client.batch("alter table postbell.deliveries set unlogged").await.expect("unlogged");
    let (_, text) = of(&examine(&db.target()).await, "tables");
    assert!(text.starts_with("postbell.deliveries is unlogged"), "{text}");
}
