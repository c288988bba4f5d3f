//! Presence: the registry, its history, the metrics, takeover.

use std::time::Duration;

use postbell_client::protocol::ErrorCode;
use postbell_client::{Builder, ClientError, State};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::client::fake::Fake;
use crate::harness::{TestDb, migrated};
use crate::mesh::{Mesh, PATIENCE, Raw, get, insert};
use crate::process::{Process, kept_port};

#[tokio::test]
async fn a_session_is_the_heartbeat() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let series = "postbell_agent_connected{agent=\"a\",environment=\"pc\"}";
    mesh.until_metric(series, |n| n == 0.0).await;
    let raw = mesh.raw_with("a", &token, 5).await;
    let second = mesh.raw_with("a", &token, 5).await;
    mesh.db.until("select status = 'online' and last_heartbeat is not null from agent_registry").await;
    mesh.until_metric(series, |n| n == 1.0).await;
    drop(raw);
    mesh.until_metric("postbell_sessions", |n| n == 1.0).await;
    assert_eq!(
        mesh.db.ask::<String>("select status from agent_registry").await,
        "online",
        "one session is left"
    );
    drop(second);
    mesh.db.until("select status = 'offline' from agent_registry").await;
    mesh.until_metric("postbell_closed_total{reason=\"disconnect\"}", |n| n == 2.0).await;
}

#[tokio::test]
async fn the_newest_session_of_an_instance_takes_over_and_the_old_one_is_told() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let hello = format!(r#"{{"op":"hello","agent":"a","token":"{token}","instance":"i"}}"#);
    let other = format!(r#"{{"op":"hello","agent":"a","token":"{token}","instance":"j","window":0}}"#);
    let mut old = Raw::open(mesh.agents).await;
    old.say(&hello).await;
    old.expect("welcome").await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    assert_eq!(old.expect("msg").await["attempt"], 1);
    let mut another = Raw::open(mesh.agents).await;
    another.say(&other).await;
    another.expect("welcome").await;
    let mut new = Raw::open(mesh.agents).await;
    new.say(&hello).await;
    new.expect("welcome").await;
    old.expect_error("taken_over", true).await;
    // The old session's delivery comes to the new one; the other instance is left alone.
    assert_eq!(new.expect("msg").await["attempt"], 2);
    another.say(r#"{"op":"ping"}"#).await;
    another.expect("pong").await;
}

#[tokio::test]
async fn a_silent_session_is_closed_and_a_pinging_one_is_not() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let hello = format!(r#"{{"op":"hello","agent":"a","token":"{token}","heartbeat_ms":1000}}"#);
    let mut silent = Raw::open(mesh.agents).await;
    silent.say(&hello).await;
    assert_eq!(silent.expect("welcome").await["heartbeat_ms"], 1000);
    let client =
        mesh.builder("a", &token).heartbeat(std::time::Duration::from_secs(1)).connect().await.unwrap().0;
    silent.expect_error("silent", true).await;
    let state = client.state().borrow().clone();
    assert!(matches!(state, postbell_client::State::Connected { session: 2, .. }), "{state:?}");
}

/// A hello with its agent's card.
fn hello(agent: &str, token: &str, more: &str) -> String {
    format!(r#"{{"op":"hello","agent":"{agent}","token":"{token}","window":0,{more}}}"#)
}

async fn greeted(mesh: &Mesh, hello: &str) -> Raw {
    let mut raw = Raw::open(mesh.agents).await;
    raw.say(hello).await;
    raw.expect("welcome").await;
    raw
}

#[tokio::test]
async fn what_a_hello_says_is_in_the_registry_and_what_it_leaves_out_stays() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let more = r#""environment":"railway","capabilities":["validate"],"version":"2.1""#;
    let first = greeted(&mesh, &hello("a", &token, more)).await;
    let is = "select status = 'online' and environment = 'railway' and capabilities = '[\"validate\"]'
                and agent_version = '2.1' from agent_registry";
    mesh.db.until(is).await;
    // A second session that knows more says so at once; the facts of the first one stay.
    let second = greeted(&mesh, &hello("a", &token, r#""version":"2.2""#)).await;
    mesh.db.until(&is.replace("2.1", "2.2")).await;
    drop((first, second));
    mesh.db.until("select status = 'offline' from agent_registry").await;
    // The same by the client, as an agent's author does it.
    let builder =
        mesh.builder("a", &token).environment("github").version("3").capabilities(&["report"]).unwrap();
    let _connected = builder.connect().await.unwrap();
    let is = "select environment = 'github' and capabilities = '[\"report\"]' and agent_version = '3' from agent_registry";
    mesh.db.until(is).await;
}

#[tokio::test]
async fn a_hello_that_the_registry_does_not_take_keeps_nobody_from_being_online() {
    let mesh = Mesh::start().await;
    let narrow = "alter table agent_registry add check (environment in ('pc', 'railway'))";
    mesh.db.sql().await.batch_execute(narrow).await.unwrap();
    let mut sessions = Vec::new();
    for (agent, environment) in [("a", "railway"), ("b", "mars"), ("c", "railway")] {
        let token = mesh.db.agent(agent).await;
        let more = format!(r#""environment":"{environment}""#);
        sessions.push(greeted(&mesh, &hello(agent, &token, &more)).await);
    }
    let found = "select string_agg(agent_id || ' ' || environment, ', ' order by agent_id) = 'a railway, b pc, c railway'
                   and bool_and(status = 'online') from agent_registry";
    mesh.db.until(found).await;
}

/// The spans of an agent's history, oldest first.
async fn spans(db: &TestDb, agent: &str) -> Vec<String> {
    let query = "select status || coalesce(' ' || reason, '') from postbell.presence_history
                 where agent_id = $1 order by span_id";
    let rows = db.sql().await.query(query, &[&agent]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn an_agent_on_two_brokers_is_offline_when_it_has_left_both() {
    let db = migrated().await;
    let (one, two) = (Mesh::on(db.clone(), &[]).await, Mesh::on(db.clone(), &[]).await);
    let token = db.agent("a").await;
    let mut near = one.raw_with("a", &token, 0).await;
    let mut far = two.raw_with("a", &token, 0).await;
    db.until("select cardinality(connected_to) = 2 from agent_registry").await;
    near.say(r#"{"op":"bye"}"#).await;
    db.until("select cardinality(connected_to) = 1 from agent_registry").await;
    assert_eq!(db.ask::<String>("select status from agent_registry").await, "online");
    assert_eq!(spans(&db, "a").await, ["offline", "online"], "it was never away");
    far.say(r#"{"op":"bye"}"#).await;
    db.until("select status = 'offline' and offline_reason = 'goodbye' from agent_registry").await;
    assert_eq!(spans(&db, "a").await, ["offline", "online", "offline goodbye"]);
}

#[tokio::test]
async fn the_agents_of_a_killed_broker_are_offline_unless_another_has_them() {
    let db = migrated().await;
    let port = kept_port();
    let address = port.address();
    let owner = Process::start(&db, &port);
    let two = Mesh::on(db.clone(), &[]).await;
    let (both, alone) = (db.agent("both").await, db.agent("alone").await);
    let mut sessions = Vec::new();
    for (agent, token) in [("both", &both), ("alone", &alone)] {
        let mut raw = Raw::open(address).await;
        raw.say(&hello(agent, token, r#""proto":1"#)).await;
        raw.expect("welcome").await;
        sessions.push(raw);
    }
    let _far = two.raw_with("both", &both, 0).await;
    db.until("select sum(cardinality(connected_to)) = 3 from agent_registry").await;
    drop(owner);
    // The broker seems to have been dead for a minute.
    let killed = "update postbell.brokers set lease_until = now() - interval '1 minute'
                  where broker_id = (select connected_to[1] from agent_registry where agent_id = 'alone')";
    db.sql().await.batch_execute(killed).await.unwrap();
    db.until("select status = 'offline' from agent_registry where agent_id = 'alone'").await;
    assert_eq!(spans(&db, "alone").await, ["offline", "online", "offline broker_gone"]);
    assert_eq!(spans(&db, "both").await, ["offline", "online"]);
    let left = "select cardinality(connected_to) from agent_registry where agent_id = 'both'";
    assert_eq!(db.ask::<i32>(left).await, 1);
}

#[tokio::test]
async fn whoever_changes_the_status_the_history_keeps_it() {
    let db = migrated().await;
    let sql = db.sql().await;
    let steps = [
        "insert into agent_registry (agent_id, agent_name, agent_type, environment, status) values ('a', 'a', 't', 'pc', 'starting')",
        "update agent_registry set status = 'online', last_heartbeat = now()",
        "update agent_registry set status = 'busy'",
        "update agent_registry set status = 'offline', offline_reason = 'silent'",
        "update agent_registry set status = 'offline'",
        "update agent_registry set status = 'error'",
        "delete from agent_registry",
    ];
    for step in steps {
        sql.batch_execute(step).await.expect(step);
    }
    // A change of an agent's own row is meant: it has no reason, so there is no alert.
    assert_eq!(spans(&db, "a").await, ["online", "offline", "online"]);
    let whole = "select count(*) from (select until = lead(since) over (order by span_id) as joined
                                       from postbell.presence_history) s where joined is false";
    assert_eq!(db.ask::<i64>(whole).await, 0, "one span begins where the last one ends");
    assert_eq!(
        db.ask::<i64>("select count(*) from postbell.presence_history where until = 'infinity'").await,
        0
    );
    // Online and offline again within one transaction.
    sql.batch_execute(&format!("begin; {}; {}; {}; commit", steps[0], steps[3], steps[5])).await.unwrap();
    assert_eq!(
        db.ask::<i64>("select count(*) from postbell.presence_history where until = 'infinity'").await,
        1
    );
}

/// An agent that was away for two hours and then here for one; one that is known only for the last minutes; one that
/// nobody may connect as.
const KNOWN: &str = "
    insert into agent_registry (agent_id, agent_name, agent_type, environment, status, last_heartbeat, enabled) values
      ('a', 'a', 't', 'pc', 'online', now(), true), ('new', 'n', 't', 'railway', 'offline', null, true),
      ('off', 'o', 't', 'pc', 'offline', null, false);
    update postbell.presence_history set since = now() - interval '1 hour' where agent_id = 'a';
    insert into postbell.presence_history (agent_id, status, since, until)
      values ('a', 'offline', now() - interval '3 hours', now() - interval '1 hour');
    update postbell.presence_history set since = now() - interval '6 minutes' where agent_id = 'new'";

#[tokio::test]
async fn uptime_is_the_share_of_the_time_that_an_agent_was_known() {
    let db = migrated().await;
    let sql = db.sql().await;
    sql.batch_execute(KNOWN).await.unwrap();
    for (period, of_a, online, offline) in [
        ("6 hours", 1.0 / 3.0, 3_600.0, 7_200.0),
        ("90 minutes", 2.0 / 3.0, 3_600.0, 1_800.0),
        ("10 minutes", 1.0, 600.0, 0.0),
    ] {
        let query = format!("select * from agent_uptime('{period}')");
        let rows = sql.query(&query, &[]).await.unwrap();
        let found: Vec<(String, String, f64, f64, f64)> =
            rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3), r.get(4))).collect();
        let [a, new] = &found[..] else { panic!("{found:?}") };
        assert_eq!((&*a.0, &*a.1), ("a", "pc"));
        // The test's own statements take a moment each.
        let near = |a: f64, b: f64, by: f64| (a - b).abs() < by;
        assert!(
            near(a.2, of_a, 0.01) && near(a.3, online, 30.0) && near(a.4, offline, 30.0),
            "{period}: {a:?}"
        );
        assert_eq!((&*new.0, &*new.1, new.2, new.3), ("new", "railway", 0.0, 0.0));
        assert!(near(new.4, 360.0, 30.0), "{new:?}");
    }
    assert_eq!(
        sql.query("select * from agent_uptime('0')", &[]).await.unwrap()[0].get::<_, Option<f64>>(2),
        None
    );
}

#[tokio::test]
async fn uptime_is_a_metric() {
    let db = migrated().await;
    db.sql().await.batch_execute(KNOWN).await.unwrap();
    let mesh = Mesh::on(db, &[]).await;
    // A scrape does not wait long for the database, so this asks until the series is there.
    let shown = async {
        while !get(mesh.http, "/metrics").await.1.contains("postbell_agent_uptime_ratio{") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, shown).await.expect("the family");
    let uptime = mesh.metric("postbell_agent_uptime_ratio{agent=\"a\",environment=\"pc\"}").await;
    assert!((uptime - 1.0 / 3.0).abs() < 0.01, "{uptime}");
    assert_eq!(mesh.metric("postbell_agent_uptime_ratio{agent=\"new\",environment=\"railway\"}").await, 0.0);
}

#[tokio::test]
async fn the_history_goes_back_so_far_and_no_further() {
    let db = migrated().await;
    let spans = "insert into postbell.presence_history (agent_id, status, since, until)
                 select 'a', 'online', now() - interval '1 year', now() - days * interval '1 day'
                 from unnest(array[89, 91]) days";
    db.sql().await.batch_execute(spans).await.unwrap();
    let mesh = Mesh::on(db, &[]).await;
    mesh.db.until("select count(*) = 1 from postbell.presence_history").await;
    assert!(
        mesh.db.ask::<bool>("select until > now() - interval '90 days' from postbell.presence_history").await
    );
}

/// A broker that welcomes everybody and then says that another took over. The channel tells of each client that came.
async fn one_that_takes_over() -> (String, mpsc::Receiver<()>) {
    let broker = Fake::start().await;
    let url = broker.url();
    let (came, comes) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let mut peer = broker.welcome().await;
            peer.say(r#"{"op":"error","code":"taken_over","message":"another","fatal":true}"#).await;
            if came.send(()).await.is_err() {
                return;
            }
        }
    });
    (url, comes)
}

#[tokio::test]
async fn who_is_taken_over_stays_away_unless_only_an_old_hello_of_its_own_can_have_done_it() {
    let builder = |url: &str| Builder::new(url, "a", "token").reconnect_first(Duration::from_millis(1));
    let (url, mut comes) = one_that_takes_over().await;
    let (_by_chance, _deliveries) = builder(&url).connect().await.expect("connects");
    for _ in 0..3 {
        timeout(PATIENCE, comes.recv()).await.expect("it comes again").expect("the broker lives");
    }
    let (url, _comes) = one_that_takes_over().await;
    let (by_name, _deliveries) = builder(&url).instance("main").connect().await.expect("connects");
    let mut state = by_name.state();
    let closed = state.wait_for(|state| matches!(state, State::Closed(_)));
    let closed = timeout(PATIENCE, closed).await.expect("it stays away").expect("a state").clone();
    let State::Closed(ClientError::Refused { code: ErrorCode::TakenOver, .. }) = closed else {
        panic!("{closed:?}")
    };
}
