//! Agents that misuse every op of the protocol, at random but by a seed, beside one that is not concerned.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use postbell_client::Deliveries;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::mesh::{Mesh, get, insert};

/// The longest that the uninvolved agent may wait.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
const HOSTILE: usize = 4;
/// Lines of each hostile agent.
const LINES: usize = 400;
/// How many bytes the process, with its tests, may grow meanwhile.
const GROWTH_MAX: usize = 400 * 1024 * 1024;

/// A line of an agent that means no good.
fn line(rng: &mut SmallRng) -> String {
    let tag = if rng.random_bool(0.7) { rng.random_range(0..40) } else { rng.random::<u64>() };
    let ms = *[0, 1, 1_000, 604_800_000, u64::MAX].choose(rng).expect("one");
    let key = format!("k{}", rng.random_range(0..20_000));
    let names = ["u", "h0", "h1", "*", "nobody", "group:g", "", "\\u0000", "\\u001b[2J"];
    let to = *names.choose(rng).expect("one");
    let address = match rng.random_range(0..5) {
        0 => format!(r#""to":"{to}""#),
        1 => format!(r#""to":"h1","to_instance":"{to}""#),
        2 => r#""group":"g""#.to_owned(),
        3 => format!(r#""topic":"a.{}""#, rng.random_range(0..9)),
        _ => r#""environment":"pc""#.to_owned(),
    };
    let priority = rng.random_range(0..12);
    let payload = match rng.random_range(0..6) {
        0 => format!("\"{}\"", "x".repeat(rng.random_range(0..100_000))),
        1 => "[".repeat(rng.random_range(1..200)),
        2 => "1E99999".to_owned(),
        _ => tag.to_string(),
    };
    match rng.random_range(0..24) {
        0 => format!(r#"{{"op":"ack","tags":[{tag},{tag},7]}}"#),
        1 => format!(r#"{{"op":"nack","tag":{tag},"outcome":"fail","delay_ms":{ms}}}"#),
        2 => format!(r#"{{"op":"nack","tag":{tag},"outcome":"dead","reason":"{}"}}"#, "r".repeat(3_000)),
        3 => format!(r#"{{"op":"nack","tag":{tag},"outcome":"release"}}"#),
        4 => format!(r#"{{"op":"extend","tag":{tag},"ms":{ms}}}"#),
        5 => format!(r#"{{"op":"window","n":{}}}"#, rng.random::<u32>()),
        6 => format!(r#"{{"op":"begun","tags":[{tag},1,2,3]}}"#),
        7 | 8 => format!(r#"{{"op":"subscribe","topic":"a.{}"}}"#, rng.random_range(0..400)),
        9 => format!(r#"{{"op":"unsubscribe","topic":"a.{}"}}"#, rng.random_range(0..400)),
        10 | 11 => format!(r#"{{"op":"acquire","key":"{key}","ttl_ms":3600000}}"#),
        12 => format!(r#"{{"op":"release","key":"{key}","fence":{tag},"done":true}}"#),
        13 => r#"{"op":"dead","inbox":"u"}"#.to_owned(),
        14 => r#"{"op":"purge","inbox":"u"}"#.to_owned(),
        15 => "{\"op\":\"ack\"".to_owned(),
        16 => r#"{"op":"hello","agent":"u","token":"pb_guess"}"#.to_owned(),
        17 => "\u{1b}]0;x\u{7}".to_owned(),
        _ => format!(
            r#"{{"op":"send",{address},"type":"data","priority":{priority},"ordering_key":"{}","payload":{payload}}}"#,
            rng.random_range(0..5)
        ),
    }
}

/// Connects again and again, writes random lines, reads some or no answers, and leaves in the middle of a line.
async fn misuse(mesh: Arc<Mesh>, name: String, token: String, seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut left = LINES;
    while left > 0 {
        let Ok(mut socket) = TcpStream::connect(mesh.agents).await else { continue };
        let window = *[0_u32, 1, 32, 10_000, u32::MAX].choose(&mut rng).expect("one");
        let group = if rng.random_bool(0.3) { r#","group":"g""# } else { "" };
        let token = if rng.random_bool(0.1) { "pb_wrong" } else { &token };
        let hello = format!(
            r#"{{"op":"hello","agent":"{name}","token":"{token}","instance":"{}","window":{window}{group}}}"#,
            rng.random_range(0..9)
        );
        let mut out = hello + "\n";
        let lines = rng.random_range(1..80).min(left);
        for _ in 0..lines {
            out.push_str(&line(&mut rng));
            out.push('\n');
        }
        if rng.random_bool(0.3) {
            out.truncate(out.floor_char_boundary(out.len() - 3));
        }
        left -= lines;
        // The broker may have closed the connection, which is an answer too.
        let _ = timeout(SERVED_WITHIN, socket.write_all(out.as_bytes())).await;
        if rng.random_bool(0.7) {
            let mut answers = vec![0; 64 * 1024];
            let _ = timeout(Duration::from_millis(50), socket.read(&mut answers)).await;
        }
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4_096
}

/// Sends to the uninvolved agent for as long as the others misbehave. Returns the longest wait.
async fn uninvolved(mesh: &Mesh, deliveries: &mut Deliveries, over: &AtomicBool) -> Duration {
    let sql = mesh.db.sql().await;
    let mut longest = Duration::ZERO;
    let mut n = 0;
    while !over.load(Ordering::Relaxed) {
        n += 1;
        let since = Instant::now();
        insert(&sql, "u", 5, &format!("\"mine {n}\"")).await;
        loop {
            let next = timeout(SERVED_WITHIN * 4, deliveries.next()).await;
            let delivery = next.unwrap_or_else(|_| panic!("u waits for {n}")).expect("u is connected");
            let is_mine = delivery.payload() == format!("\"mine {n}\"");
            delivery.ack().await;
            if is_mine {
                break;
            }
        }
        longest = longest.max(since.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    longest
}

async fn one_mesh(seed: u64) {
    let mesh = Arc::new(Mesh::start().await);
    let (_client, mut deliveries) = mesh.connect("u", 32).await;
    let before = resident_bytes();
    let mut hostile = JoinSet::new();
    for n in 0..HOSTILE {
        let name = format!("h{n}");
        let token = mesh.db.agent(&name).await;
        hostile.spawn(misuse(mesh.clone(), name, token, seed * 100 + n as u64));
    }
    let over = AtomicBool::new(false);
    let all = async {
        while let Some(done) = hostile.join_next().await {
            done.expect("a hostile agent does not panic");
        }
        over.store(true, Ordering::Relaxed);
    };
    let ((), longest) = tokio::join!(all, uninvolved(&mesh, &mut deliveries, &over));
    assert!(longest < SERVED_WITHIN, "seed {seed}: u waited {longest:?}");
    assert_eq!(get(mesh.http, "/health/live").await.0, 200, "seed {seed}");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "seed {seed}: {} MB more", grown / 1_000_000);
    let held = "select coalesce(max(n), 0) from (select count(*) n from postbell.locks where done_at is null group by agent_id) l";
    assert!(mesh.db.ask::<i64>(held).await <= 1_000);
    let subscribed =
        "select coalesce(max(n), 0) from (select count(*) n from postbell.subscriptions group by agent_id) s";
    assert!(mesh.db.ask::<i64>(subscribed).await <= 100);
    let theirs = "select count(*) from postbell.deliveries where inbox = 'group:g' and message_id in
                  (select message_id from agent_messages where to_agent_id is not null)";
    assert_eq!(mesh.db.ask::<i64>(theirs).await, 0, "seed {seed}");
}

#[tokio::test]
async fn whatever_agents_do_one_that_is_not_concerned_is_served() {
    for seed in 1..=3 {
        one_mesh(seed).await;
    }
}
