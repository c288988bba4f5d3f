//! Agents that may connect, agents that may stay, and the log's account of both.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use postbell::agents::access::{Access, Ticket};
use postbell::store::agents::{self, authenticate, remove, rotate, set_enabled};
use postbell::store::listen::{Rope, listen};
use postbell_client::ClientError;
use postbell_client::protocol::ErrorCode;
use postbell_engine::inbox::SessionId;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::harness::{TestDb, command, migrated};
use crate::mesh::{Mesh, PATIENCE, Raw, get, insert};

const HOUR: Duration = Duration::from_secs(3_600);

/// Access as a broker has it, but without the heartbeats of presence: so only a notification can end a session here.
struct Listening {
    access: Access,
    rope: Arc<Rope>,
    db: TestDb,
    _connection: postbell::store::Connection,
}

impl Listening {
    async fn start(db: TestDb) -> Self {
        let rope = Arc::<Rope>::default();
        let connection = listen(&db.target(), Uuid::new_v4(), rope.clone()).await.expect("listens");
        let access = Access::new(rope.clone());
        tokio::spawn(access.clone().run(db.pool()));
        Self { access, rope, db, _connection: connection }
    }

    async fn enter(&self, session: u64, agent: &str, token: &str) -> Ticket {
        let heard = self.access.heard();
        let row = authenticate(&self.db.pool(), agent, token).await.expect("answer").expect("may");
        self.access.enter(SessionId(session), &row, agents::hash(token), None, heard).expect("room")
    }

    /// Waits until every notification so far has been followed by its look.
    async fn settled(&self) {
        let probe = self.db.agent(&format!("probe {}", Uuid::new_v4())).await;
        let name = "select agent_id from agent_registry where agent_id like 'probe%' and enabled";
        let name: String = self.db.ask(name).await;
        let ticket = self.enter(u64::MAX >> 1, &name, &probe).await;
        set_enabled(&self.db.pool(), &name, false).await.expect("disabled");
        ended(&ticket, ErrorCode::Disabled).await;
    }
}

async fn ended(ticket: &Ticket, code: ErrorCode) {
    assert_eq!(timeout(PATIENCE, ticket.ended()).await.expect("it ends"), code);
}

async fn stays(ticket: &Ticket) {
    // The ticket ended before, or does not end: nothing is under way.
    assert!(timeout(Duration::ZERO, ticket.ended()).await.is_err(), "it may stay");
}

#[tokio::test]
async fn whatever_takes_an_agents_access_away_ends_its_sessions_by_notification() {
    let house = Listening::start(migrated().await).await;
    let (pool, sql) = (house.db.pool(), house.db.sql().await);
    let mut tickets = Vec::new();
    for (n, name) in (0..).zip(["kept", "command", "psql", "removed", "rotated", "role", "no token"]) {
        let token = house.db.agent(name).await;
        tickets.push(house.enter(n, name, &token).await);
    }
    let presence = "update agent_registry set last_heartbeat = now(), updated_at = now(), status = 'online'";
    let heard = house.rope.access();
    sql.batch_execute(presence).await.unwrap();
    set_enabled(&pool, "command", false).await.expect("disabled");
    ended(&tickets[1], ErrorCode::Disabled).await;
    assert_eq!(house.rope.access(), heard + 1, "presence notifies nobody");
    sql.batch_execute("update agent_registry set enabled = false where agent_id = 'psql'").await.unwrap();
    ended(&tickets[2], ErrorCode::Disabled).await;
    remove(&pool, "removed", true).await.expect("removed");
    ended(&tickets[3], ErrorCode::Disabled).await;
    rotate(&pool, "rotated", Duration::ZERO).await.expect("rotated");
    ended(&tickets[4], ErrorCode::Disabled).await;
    sql.batch_execute("update agent_registry set role = 'orchestrator' where agent_id = 'role'")
        .await
        .unwrap();
    ended(&tickets[5], ErrorCode::RoleChanged).await;
    sql.batch_execute("update agent_registry set token_hash = null where agent_id = 'no token'")
        .await
        .unwrap();
    ended(&tickets[6], ErrorCode::Disabled).await;
    stays(&tickets[0]).await;
}

#[tokio::test]
async fn with_an_overlap_both_tokens_are_right_until_it_ends() {
    let house = Listening::start(migrated().await).await;
    let (pool, sql) = (house.db.pool(), house.db.sql().await);
    let first = house.db.agent("a").await;
    let by_first = house.enter(1, "a", &first).await;
    let second = rotate(&pool, "a", HOUR).await.expect("rotated");
    let (by_second, again) = (house.enter(2, "a", second.reveal()).await, house.enter(3, "a", &first).await);
    house.settled().await;
    stays(&by_first).await;
    stays(&again).await;
    let until = agents::list(&pool).await.expect("list")[0].token_previous_until;
    assert!(until.is_some(), "an overlap");
    // By the database's clock, which alone decides.
    let to_come = "select token_previous_until > now() from agent_registry where agent_id = 'a'";
    assert!(house.db.ask::<bool>(to_come).await);

    // A further rotation leaves room for one old token: the first is void, whatever its overlap was.
    let third = rotate(&pool, "a", HOUR).await.expect("rotated");
    ended(&by_first, ErrorCode::Disabled).await;
    ended(&again, ErrorCode::Disabled).await;
    let by_third = house.enter(4, "a", third.reveal()).await;
    house.settled().await;
    stays(&by_second).await;
    // The overlap ends.
    let over = "update agent_registry set token_previous_until = now() where agent_id = 'a'";
    sql.batch_execute(over).await.unwrap();
    ended(&by_second, ErrorCode::Disabled).await;
    assert!(authenticate(&pool, "a", second.reveal()).await.expect("answer").is_err());
    stays(&by_third).await;
    assert_eq!(agents::list(&pool).await.expect("list")[0].token_previous_until, None);
    // Without an overlap the one before it is void as well.
    rotate(&pool, "a", HOUR).await.expect("rotated");
    let last = rotate(&pool, "a", Duration::ZERO).await.expect("rotated");
    ended(&by_third, ErrorCode::Disabled).await;
    assert!(authenticate(&pool, "a", third.reveal()).await.expect("answer").is_err());
    assert!(authenticate(&pool, "a", last.reveal()).await.expect("answer").is_ok());
    rotate(&pool, "a", HOUR * 24 * 31).await.expect_err("too long");
}

#[tokio::test]
async fn an_agent_that_is_disabled_between_its_hello_and_its_welcome_does_not_stay() {
    let house = Listening::start(migrated().await).await;
    let token = house.db.agent("a").await;
    let heard = house.access.heard();
    let row = authenticate(&house.db.pool(), "a", &token).await.expect("answer").expect("may");
    set_enabled(&house.db.pool(), "a", false).await.expect("disabled");
    // The notification comes, and finds no session yet.
    house.settled().await;
    let ticket = house.access.enter(SessionId(1), &row, agents::hash(&token), None, heard).expect("room");
    ended(&ticket, ErrorCode::Disabled).await;
}

#[tokio::test]
async fn disabling_ends_sessions_on_every_broker_and_gives_back_what_they_had() {
    let mesh = Mesh::start().await;
    let other = Mesh::on(TestDb::at(mesh.db.url()), &[]).await;
    let token = mesh.db.agent("a").await;
    let mut here = mesh.raw_with("a", &token, 5).await;
    let sql = mesh.db.sql().await;
    insert(&sql, "a", 5, "1").await;
    here.expect("msg").await;
    let mut there = other.raw_with("a", &token, 5).await;
    let (client, _deliveries) = mesh.builder("a", &token).window(0).connect().await.expect("connects");
    sql.batch_execute("update agent_registry set enabled = false where agent_id = 'a'").await.unwrap();
    let error = here.expect_error("disabled", true).await;
    assert!(error["message"].as_str().unwrap().starts_with("this agent was disabled or removed"), "{error}");
    there.expect_error("disabled", true).await;
    // The client does not come again.
    let mut state = client.state();
    let closed = state.wait_for(|s| matches!(s, postbell_client::State::Closed(_)));
    let closed = timeout(PATIENCE, closed).await.expect("closed").expect("a state").clone();
    assert!(format!("{closed:?}").contains("Disabled"), "{closed:?}");
    // The message loses no attempt: this was not the agent's failure.
    mesh.db.until("select bool_and(state = 'ready' and attempt = 0) from postbell.deliveries").await;
    let mut refused = Raw::open(mesh.agents).await;
    refused.say(&format!(r#"{{"op":"hello","agent":"a","token":"{token}"}}"#)).await;
    refused.expect_error("unauthorized", true).await;

    sql.batch_execute("update agent_registry set enabled = true where agent_id = 'a'").await.unwrap();
    let mut back = other.raw_with("a", &token, 5).await;
    assert_eq!(back.expect("msg").await["attempt"], 1);
}

#[tokio::test]
async fn a_lost_notification_costs_seconds_and_not_for_ever() {
    let mesh = Mesh::start().await;
    let mut raw = mesh.raw("a", 5).await;
    mesh.db
        .sql()
        .await
        .batch_execute(
            "alter table agent_registry disable trigger postbell_access;
             update agent_registry set enabled = false",
        )
        .await
        .unwrap();
    raw.expect_error("disabled", true).await;
}

#[tokio::test]
async fn a_new_role_holds_after_connecting_again() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let everybody = r#"{"op":"send","to":"*","type":"alert","payload":1}"#;
    let mut raw = mesh.raw_with("a", &token, 5).await;
    raw.say(everybody).await;
    raw.expect_error("forbidden", false).await;
    let promote = "update agent_registry set role = 'orchestrator' where agent_id = 'a'";
    mesh.db.sql().await.batch_execute(promote).await.unwrap();
    raw.expect_error("role_changed", true).await;
    let mut raw = mesh.raw_with("a", &token, 5).await;
    raw.say(everybody).await;
    raw.expect("sent").await;
}

#[tokio::test]
async fn too_many_before_the_door_are_told_to_come_again() {
    let mesh = Mesh::with(&[("POSTBELL_UNAUTHENTICATED_PER_ADDRESS_MAX", "2")]).await;
    let token = mesh.db.agent("a").await;
    let (mut first, second) = (Raw::open(mesh.agents).await, Raw::open(mesh.agents).await);
    let error = Raw::open(mesh.agents).await.expect_error("busy", true).await;
    assert_eq!(error["retry_ms"], 500);
    // The hello that came with the connection is no reason to cut the answer off.
    let refused = mesh.builder("a", &token).connect().await.expect_err("busy");
    let wait = Some(Duration::from_millis(500));
    assert!(matches!(&refused, ClientError::Refused { code: ErrorCode::Busy, retry, .. } if *retry == wait));
    assert!(refused.is_retryable());
    mesh.until_metric("postbell_closed_total{reason=\"busy\"}", |n| n == 2.0).await;
    // An agent that was let in, or that is gone, takes no place at the door any more.
    first.say(&format!(r#"{{"op":"hello","agent":"a","token":"{token}"}}"#)).await;
    first.expect("welcome").await;
    drop(second);
    let free = async {
        while mesh.builder("a", &token).connect().await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, free).await.expect("a place is free again");
}

#[tokio::test]
async fn right_tokens_come_in_while_wrong_ones_crowd_the_same_address() {
    let mesh = Mesh::with(&[("POSTBELL_UNAUTHENTICATED_PER_ADDRESS_MAX", "8")]).await;
    let address = mesh.agents;
    let guessing: Vec<_> = (0..8)
        .map(|_| {
            tokio::spawn(async move {
                loop {
                    let mut raw = Raw::open(address).await;
                    raw.say(r#"{"op":"hello","agent":"a0","token":"pb_guess"}"#).await;
                    raw.line().await;
                }
            })
        })
        .collect();
    // Hellos that failed wait for their answers in places of their own, as many as there are.
    mesh.until_metric("postbell_closed_total{reason=\"unauthorized\"}", |n| n > 0.0).await;
    let (mut honest, pool) = (Vec::new(), mesh.db.pool());
    for n in 0..50 {
        let agent_id = &format!("a{n}");
        let added = agents::add(&pool, &agents::NewAgent { agent_id, ..Default::default() }).await;
        let builder = mesh.builder(agent_id, added.expect("added").token.reveal());
        honest.push(tokio::spawn(async move {
            loop {
                match builder.clone().connect().await {
                    Ok(connected) => return connected,
                    // To a client that is still writing, a close may look like a reset.
                    Err(e) if e.is_retryable() => sleep(Duration::from_millis(20)).await,
                    Err(e) => panic!("{e}"),
                }
            }
        }));
    }
    for agent in honest {
        timeout(PATIENCE, agent).await.expect("comes in").expect("connects");
    }
    guessing.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn all_agents_of_one_address_come_back_at_once_however_few_places_there_are() {
    const AGENTS: usize = 100;
    let mesh = Mesh::with(&[("POSTBELL_UNAUTHENTICATED_PER_ADDRESS_MAX", "2")]).await;
    let (mut clients, pool) = (Vec::new(), mesh.db.pool());
    for n in 0..AGENTS {
        let agent_id = &format!("a{n}");
        let added = agents::add(&pool, &agents::NewAgent { agent_id, ..Default::default() }).await;
        let builder = mesh.builder(agent_id, added.expect("added").token.reveal());
        clients.push(builder.connect().await.expect("connects"));
    }
    mesh.db.sql().await.batch_execute("update agent_registry set role = 'orchestrator'").await.unwrap();
    let closed = "postbell_closed_total{reason=\"role_changed\"}";
    mesh.until_metric(closed, |n| n == AGENTS as f64).await;
    mesh.until_metric("postbell_sessions", |n| n == AGENTS as f64).await;
    // There were not places for all.
    mesh.until_metric("postbell_closed_total{reason=\"busy\"}", |n| n > 0.0).await;
    for (client, _) in &clients {
        assert!(!matches!(*client.state().borrow(), postbell_client::State::Closed(_)));
    }
}

/// `postbell serve` with everything in its log.
struct Loud {
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Loud {
    fn start(db: &TestDb) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_postbell"))
            .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log", "trace"])
            .env_clear()
            .env("DATABASE_URL", db.url())
            .stderr(log.reopen().expect("the same file"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("starts");
        Self { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("UTF-8")
    }

    /// The first line with this text, once there is one.
    async fn line(&self, text: &str) -> String {
        let waiting = async {
            loop {
                if let Some(line) = self.said().lines().find(|line| line.contains(text)) {
                    return line.to_owned();
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {text:?} in\n{}", self.said()))
    }

    async fn addresses(&self) -> [std::net::SocketAddr; 2] {
        let line = self.line("the broker is up").await;
        ["agents=", "http="].map(|name| {
            let rest = line.split_once(name).expect("named").1;
            rest.split(' ').next().expect("a value").parse().expect("an address")
        })
    }
}

#[tokio::test]
async fn every_denial_has_the_same_answer_and_an_incident_that_the_log_explains_without_a_token() {
    let db = migrated().await;
    let mut tokens = Vec::new();
    for name in ["a", "off", "none"] {
        tokens.push(db.agent(name).await);
    }
    let [a, off, none] = [&tokens[0], &tokens[1], &tokens[2]];
    let sql = "update agent_registry set enabled = false where agent_id = 'off';
               update agent_registry set token_hash = null where agent_id = 'none'";
    db.sql().await.batch_execute(sql).await.unwrap();
    let broker = Loud::start(&db);
    let [agents, http] = broker.addresses().await;
    for (agent, token, why) in [
        ("nobody\nlevel=error", a, "unknown agent"),
        // A token in the place of a name, as it happens to people.
        (a.as_str(), a, "unknown agent"),
        ("a", off, "wrong token"),
        ("off", off, "the agent is disabled"),
        ("none", none, "the agent has no token"),
    ] {
        let mut raw = Raw::open(agents).await;
        let port = raw.write.local_addr().unwrap();
        raw.say(&serde_json::json!({"op": "hello", "agent": agent, "token": token}).to_string()).await;
        let error = raw.expect_error("unauthorized", true).await;
        let sentence = error["message"].as_str().unwrap();
        let incident = sentence.strip_prefix("unknown agent or wrong token (incident ").expect(sentence);
        let incident = incident.strip_suffix(')').expect(sentence);
        assert!(incident.len() == 8 && incident.chars().all(|c| c.is_ascii_hexdigit()), "{sentence}");
        let line = broker.line(&format!("incident=\"{incident}\"")).await;
        let peer = format!("peer={port}");
        assert!(line.contains(&format!("reason={why}")) && line.contains(&peer), "{line}");
    }
    // Fields that were mixed up are quoted in the refusal, before the welcome and after it.
    let mut raw = Raw::open(agents).await;
    raw.say(&format!(r#"{{"op":"hello","proto":"{a}","agent":"a","token":"{a}"}}"#)).await;
    raw.expect_error("bad_field", true).await;
    let mut raw = Raw::open(agents).await;
    raw.say(&format!(r#"{{"op":"hello","agent":"a","token":"{a}","instance":"x","client":"test"}}"#)).await;
    raw.expect("welcome").await;
    raw.say(&format!(r#"{{"op":"{a}"}}"#)).await;
    raw.expect_error("unknown_op", false).await;
    let rotated = command(&db, &["agent", "rotate", "a"]).await;
    raw.expect_error("disabled", true).await;
    tokens.push(rotated.stdout.trim().to_owned());

    // The agent's side, with everything in its log; and its command line as `ps` shows it.
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut listen = Command::new(env!("CARGO_BIN_EXE_postbell"));
    listen.args(["listen", "--agent", "a", "--log", "trace", "--url", &format!("tcp://{agents}")]);
    listen.env_clear().env("POSTBELL_TOKEN", &tokens[3]).stderr(log.reopen().unwrap()).stdin(Stdio::null());
    let listen = listen.kill_on_drop(true).spawn().unwrap();
    broker.line("an agent connected session=2").await;
    let mut seen =
        broker.said() + &std::fs::read_to_string(log.path()).unwrap() + &get(http, "/metrics").await.1;
    for process in [&broker.child, &listen] {
        if cfg!(target_os = "linux") {
            let shown = format!("/proc/{}/cmdline", process.id().unwrap());
            seen += &String::from_utf8_lossy(&std::fs::read(shown).unwrap());
        }
    }
    assert!(seen.contains("INFO") && seen.contains("listen\0--agent"), "it was loud: {seen}");
    for token in &tokens {
        assert!(token.len() == 46 && !seen.contains(&token[3..]), "{seen}");
    }
}

#[tokio::test]
async fn the_command_rotates_with_an_overlap_and_lists_it() {
    let db = migrated().await;
    let token = db.agent("a").await;
    let rotated = command(&db, &["agent", "rotate", "a", "--overlap", "1h"]).await;
    assert_eq!(rotated.status, 0, "{}", rotated.stderr);
    assert!(authenticate(&db.pool(), "a", &token).await.expect("answer").is_ok());
    assert!(authenticate(&db.pool(), "a", rotated.stdout.trim()).await.expect("answer").is_ok());
    let table = command(&db, &["agent", "list"]).await.stdout;
    assert!(table.contains("yes, the old token too for 59m"), "{table}");
    let json = command(&db, &["agent", "list", "--json"]).await.stdout;
    assert!(json.contains("\"token_previous_until\":\"20"), "{json}");
    let ended = command(&db, &["agent", "rotate", "a", "--overlap", "0s"]).await;
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert!(authenticate(&db.pool(), "a", &token).await.expect("answer").is_err());
    assert!(authenticate(&db.pool(), "a", rotated.stdout.trim()).await.expect("answer").is_err());
    let refused = command(&db, &["agent", "rotate", "a", "--overlap", "60days"]).await;
    assert!(refused.status == 1 && refused.stderr.contains("at most 30 days"), "{}", refused.stderr);
}
