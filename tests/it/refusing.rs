//! Tables that refuse, keep out, remove or delay rows in any way, and everything that an agent does: whatever comes of it for `a`,
//! `u` is served within five seconds, and what stays unwritten is told.
//!
//! A failure names its seed; `POSTBELL_REFUSING=100` tries more.

use std::fmt;
use std::time::{Duration, Instant};

use postbell::store::doctor::{Level, examine};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use tokio::time::timeout;

use crate::mesh::{Mesh, Raw, get, insert};
use crate::settle::{SERVED, adopted};

/// No new case begins after this.
const TIME: Duration = Duration::from_secs(8);
/// As many as fit in the time on a machine with nothing else to do.
const CASES: u64 = 6;

/// Somebody's change of one of the tables, for rows of `a` alone.
#[derive(Clone, Debug)]
struct Obstacle {
    table: &'static str,
    event: &'static str,
    way: Way,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Raises,
    RaisesAtCommit,
    SlowAtCommit,
    Slow,
    GivesNull,
    RemovesTheRow,
    Rule,
    Check,
}

impl Obstacle {
    /// The condition: `a` is the sender or the recipient, or the row is its own.
    fn is_of_a(&self, row: &str) -> String {
        match self.table {
            "agent_messages" => format!("'a' in ({row}.from_agent_id, {row}.to_agent_id)"),
            _ => format!("{row}.agent_id = 'a'"),
        }
    }

    fn trigger(&self, n: usize, when: &str, body: &str) -> String {
        let (table, event) = (self.table, self.event);
        let (before, deferred) = when.split_once(' ').unwrap_or((when, ""));
        let kind = if deferred.is_empty() { "trigger" } else { "constraint trigger" };
        format!(
            "create function f{n}() returns trigger language plpgsql as $$ begin {body} return new; end $$;
             create {kind} t{n} {before} {event} on {table} {deferred} for each row when ({}) execute function f{n}()",
            self.is_of_a("new")
        )
    }

    fn sql(&self, n: usize) -> String {
        let (table, event) = (self.table, self.event);
        let key = if table == "agent_messages" { "message_id" } else { "agent_id" };
        let at_commit = "after deferrable initially deferred";
        match self.way {
            Way::Raises => self.trigger(n, "before", "raise exception 'no';"),
            Way::RaisesAtCommit => self.trigger(n, at_commit, "raise exception 'no';"),
            Way::SlowAtCommit => self.trigger(n, at_commit, "perform pg_sleep(8);"),
            Way::Slow => self.trigger(n, "before", "perform pg_sleep(8);"),
            Way::GivesNull => self.trigger(n, "before", "return null;"),
            Way::RemovesTheRow => {
                self.trigger(n, "after", &format!("delete from {table} where {key} = new.{key};"))
            }
            Way::Rule => format!(
                "create rule r{n} as on {event} to {table} where {} do instead nothing",
                self.is_of_a("new")
            ),
            Way::Check => format!(
                "alter table {table} add constraint c{n} check (not {}) not valid",
                self.is_of_a(table)
            ),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} on {} of {}", self.way, self.event, self.table)
    }
}

/// A step of `a`, with a message or of itself.
#[derive(Clone, Copy, Debug)]
enum Act {
    Ack,
    Fail,
    Dead,
    Send,
    ComesAgain,
}

fn obstacle() -> impl Strategy<Value = Obstacle> {
    use Way::{Check, GivesNull, Raises, RaisesAtCommit, RemovesTheRow, Rule, Slow, SlowAtCommit};
    let on = prop::sample::select(vec![
        ("agent_messages", "insert"),
        ("agent_messages", "update"),
        ("agent_messages", "update"),
        ("agent_messages", "insert"),
        ("agent_registry", "update"),
        ("agent_alerts", "insert"),
    ]);
    let way = prop::sample::select(vec![
        Raises,
        RaisesAtCommit,
        SlowAtCommit,
        Slow,
        GivesNull,
        RemovesTheRow,
        Rule,
        Check,
    ]);
    (on, way).prop_map(|((table, event), way)| Obstacle { table, event, way })
}

fn case() -> impl Strategy<Value = (Vec<Obstacle>, Vec<Act>)> {
    let act = prop::sample::select(vec![Act::Ack, Act::Fail, Act::Dead, Act::Send, Act::ComesAgain]);
    (prop::collection::vec(obstacle(), 1..3), prop::collection::vec(act, 3..6))
}

#[tokio::test]
async fn whatever_the_tables_do_to_one_agent_another_is_served() {
    let asked = std::env::var("POSTBELL_REFUSING").ok().and_then(|n| n.parse::<u64>().ok());
    let began = Instant::now();
    let rule = Obstacle { table: "agent_messages", event: "update", way: Way::Rule };
    let keeper = Obstacle { table: "agent_registry", event: "update", way: Way::GivesNull };
    tried(&[rule, keeper], &[Act::Ack, Act::Send, Act::ComesAgain], "the first case").await;
    for seed in 0..asked.unwrap_or(CASES) {
        if asked.is_none() && began.elapsed() > TIME {
            break;
        }
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let drawn = case().new_tree(&mut TestRunner::new_with_rng(Config::default(), rng)).expect("a case");
        let (obstacles, acts) = drawn.current();
        let names: Vec<String> = obstacles.iter().map(ToString::to_string).collect();
        let story = format!("seed {seed}: {}; {acts:?}", names.join(", "));
        println!("{story}, after {:?}", began.elapsed());
        tried(&obstacles, &acts, &story).await;
    }
}

/// A mesh that lived already; the obstacles are of `a`.
struct Pair {
    mesh: Mesh,
    token: String,
    a: Raw,
    u: Raw,
}

impl Pair {
    async fn start() -> Self {
        let db = adopted().await;
        let (token, of_u) = (db.agent("a").await, db.agent("u").await);
        let mesh = Mesh::on(db, &[("POSTBELL_OFFLINE_ALERT_SECONDS", "1")]).await;
        let a = mesh.raw_with("a", &token, 100).await;
        let u = mesh.raw_with("u", &of_u, 100).await;
        Self { mesh, token, a, u }
    }

    async fn acts(&mut self, act: Act, tag: &Value) {
        let line = match act {
            Act::Ack => format!(r#"{{"op":"ack","tag":{tag}}}"#),
            Act::Fail => {
                format!(r#"{{"op":"nack","tag":{tag},"outcome":"fail","reason":"no","delay_ms":60000}}"#)
            }
            Act::Dead => format!(r#"{{"op":"nack","tag":{tag},"outcome":"dead","reason":"no"}}"#),
            Act::Send => r#"{"op":"send","ref":"s","to":"nobody","type":"data","payload":1}"#.to_owned(),
            Act::ComesAgain => {
                // Another session of the agent's: its presence is written as it comes and goes.
                let mut other = Raw::open(self.mesh.agents).await;
                let token = &self.token;
                other
                    .say(&format!(
                        r#"{{"op":"hello","agent":"a","token":"{token}","window":0,"version":"2"}}"#
                    ))
                    .await;
                timeout(SERVED, other.line()).await.expect("a hello is answered");
                return;
            }
        };
        self.a.say(&line).await;
    }

    /// `u` sends to somebody, gets a message, and has its ack confirmed, in time.
    async fn u_is_served(&mut self, story: &str) {
        let round = async {
            insert(&self.mesh.db.sql().await, "u", 5, "1").await;
            self.u.say(r#"{"op":"send","ref":"s","to":"elsewhere","type":"data","payload":1}"#).await;
            let (mut is_sent, mut is_acked) = (false, false);
            while !(is_sent && is_acked) {
                let line = self.u.line().await.unwrap_or_else(|| panic!("u's session ended: {story}"));
                let value: Value = serde_json::from_str(&line).expect("JSON");
                match value["op"].as_str() {
                    Some("msg") => {
                        self.u.say(&format!(r#"{{"op":"ack","tag":{},"ref":"u"}}"#, value["tag"])).await;
                    }
                    Some("acked") => is_acked = true,
                    Some("sent") => is_sent = true,
                    _ => panic!("{line}: {story}"),
                }
            }
        };
        timeout(SERVED, round).await.unwrap_or_else(|_| panic!("u waits: {story}"));
    }
}

async fn tried(obstacles: &[Obstacle], acts: &[Act], story: &str) {
    let mut pair = Pair::start().await;
    let sql = pair.mesh.db.sql().await;
    // The deliveries that `a` has in hand were inserted before anything refused it.
    let mut tags = Vec::new();
    for n in 0..acts.len() {
        insert(&sql, "a", 5, &n.to_string()).await;
        tags.push(pair.a.expect("msg").await["tag"].clone());
    }
    for (n, obstacle) in obstacles.iter().enumerate() {
        sql.batch_execute(&obstacle.sql(n)).await.unwrap_or_else(|e| panic!("{e:?}: {story}"));
    }
    for (act, tag) in acts.iter().zip(&tags) {
        pair.acts(*act, tag).await;
        pair.u_is_served(story).await;
    }
    // Without a word, and an alert is raised.
    pair.a = Raw::open(pair.mesh.agents).await;
    for _ in 0..2 {
        pair.u_is_served(story).await;
    }
    assert_eq!(get(pair.mesh.http, "/health/live").await.0, 200, "{story}");
    pair.mesh.until_ready(true).await;
    is_told(&pair.mesh, obstacles, story).await;
    pair.mesh.stop().await;
}

/// Outcomes that are not written are set aside, and the doctor says so, as it does of every rule.
async fn is_told(mesh: &Mesh, obstacles: &[Obstacle], story: &str) {
    // Settled without a word, neither set aside nor removed by somebody's trigger.
    let lost = "select count(*) from agent_messages m
                where to_agent_id in ('a', 'u') and coalesce(status, 'pending') not in ('processed', 'failed')
                  and not exists (select from postbell.deliveries d where d.message_id = m.message_id)
                  and not exists (select from postbell.set_aside s where s.message_id = m.message_id)";
    println!("nothing is lost: {story}");
    mesh.db.until(&format!("select ({lost}) = 0")).await;
    let aside: i64 = mesh.db.ask("select count(*) from postbell.set_aside where dropped_at is null").await;
    let checks = examine(&mesh.db.target()).await;
    let warns = |check: &str| checks.iter().any(|c| c.check == check && c.level != Level::Ok);
    // An outcome whose row was only held may have been written meanwhile.
    let is_aside: i64 = mesh.db.ask("select count(*) from postbell.set_aside where dropped_at is null").await;
    assert!(aside == 0 || is_aside == 0 || warns("set aside"), "{checks:?}: {story}");
    let is_ruled = obstacles.iter().any(|o| matches!(o.way, Way::Rule));
    assert!(!is_ruled || warns("rehearsal"), "{checks:?}: {story}");
}
