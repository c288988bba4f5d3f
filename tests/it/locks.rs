//! Locks: one of several that could do a task does it, once.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postbell_client::ClientError;
use postbell_client::lock::{Acquired, Lock};
use postbell_client::protocol::ErrorCode;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::harness::migrated;
use crate::mesh::{Mesh, PATIENCE};

const TTL: Duration = Duration::from_secs(30);

fn held(acquired: Result<Acquired, ClientError>) -> Lock {
    match acquired.expect("answered") {
        Acquired::Held(lock) => lock,
        other @ Acquired::Taken { .. } => panic!("{other:?}"),
    }
}

fn taken(acquired: Result<Acquired, ClientError>) -> (Option<String>, bool) {
    match acquired.expect("answered") {
        Acquired::Held(lock) => panic!("held: {lock:?}"),
        Acquired::Taken { holder, is_done, .. } => (holder, is_done),
    }
}

#[tokio::test]
async fn one_holds_a_lock_and_the_others_are_told_who() {
    let db = migrated().await;
    let (one, two) = (Mesh::on(db.clone(), &[]).await, Mesh::on(db, &[]).await);
    let (a, _) = one.connect("a", 0).await;
    let (b, _) = two.connect("b", 0).await;
    let first = held(a.lock("daily", TTL).await);
    assert_eq!(taken(b.lock("daily", TTL).await), (Some("a".to_owned()), false));
    assert_eq!(
        taken(a.lock("daily", TTL).await),
        (Some("a".to_owned()), false),
        "another process of the same agent"
    );
    let fence = first.fence();
    first.release().await.expect("given back");
    let second = held(b.lock("daily", TTL).await);
    assert!(second.fence() > fence);
    second.done().await.expect("done");
    assert_eq!(taken(a.lock("daily", TTL).await), (Some("b".to_owned()), true));
    held(a.lock("another", TTL).await);
}

/// Two ask for a key at the same moment. The one that waited for the other's commit has an older snapshot.
#[tokio::test]
async fn who_loses_a_race_is_told_who_won() {
    let mesh = Mesh::start().await;
    let (a, _) = mesh.connect("a", 0).await;
    let mut rival = mesh.db.sql().await;
    let winning = rival.transaction().await.expect("begins");
    let insert = "insert into postbell.locks (key, agent_id, until) values ('daily', 'rival', now() + interval '1 hour')";
    winning.execute(insert, &[]).await.expect("is first");
    let losing = tokio::spawn(async move { a.lock("daily", TTL).await });
    mesh.db.until("select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')").await;
    winning.commit().await.expect("wins");
    assert_eq!(taken(losing.await.expect("no panic")), (Some("rival".to_owned()), false));
}

/// The holder dies: its lock ends by its time, and its later words come too late.
#[tokio::test]
async fn a_lock_that_nobody_renews_goes_to_the_next_and_its_old_fence_is_void() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let mut raw = mesh.raw_with("a", &token, 0).await;
    raw.say(r#"{"op":"acquire","ref":"1","key":"k","ttl_ms":1000}"#).await;
    let old = raw.expect("lock").await;
    assert_eq!((&old["held"], &old["ref"]), (&true.into(), &"1".into()));
    let (b, _) = mesh.connect("b", 0).await;
    let next = async {
        loop {
            if let Acquired::Held(lock) = b.lock("k", TTL).await.expect("answered") {
                return lock;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let next = timeout(PATIENCE, next).await.expect("it ends by its time");
    let fence = &old["fence"];
    assert!(next.fence() > fence.as_i64().expect("a number"));
    raw.say(&format!(r#"{{"op":"acquire","key":"k","ttl_ms":1000,"fence":{fence}}}"#)).await;
    let late = raw.expect("lock").await;
    assert_eq!((&late["held"], &late["holder"]), (&false.into(), &"b".into()));
    raw.say(&format!(r#"{{"op":"release","ref":"2","key":"k","fence":{fence},"done":true}}"#)).await;
    raw.expect_error("rejected", false).await;
    next.done().await.expect("its successor's");
    for bad in [r#""key":"k","ttl_ms":999"#, r#""key":"","ttl_ms":1000"#, r#""key":"k""#] {
        raw.say(&format!(r#"{{"op":"acquire",{bad}}}"#)).await;
        raw.expect_error("bad_field", false).await;
    }
}

/// A lock is held far beyond its time by renewals, and lost when the database forgets it.
#[tokio::test]
async fn a_lock_is_renewed_while_it_is_held_and_says_when_it_is_lost() {
    let mesh = Mesh::start().await;
    let (a, _) = mesh.connect("a", 0).await;
    let lock = held(a.lock("k", Duration::from_secs(1)).await);
    let renewed = "select until > now() from postbell.locks";
    mesh.db.until("select clock_timestamp() > min(until) - interval '0.9 s' from postbell.locks").await;
    let first: std::time::SystemTime = mesh.db.ask("select until from postbell.locks").await;
    while mesh.db.ask::<std::time::SystemTime>("select until from postbell.locks").await
        < first + Duration::from_secs(2)
    {
        assert!(mesh.db.ask::<bool>(renewed).await, "never free");
    }
    mesh.db.sql().await.batch_execute("delete from postbell.locks").await.expect("forgotten");
    timeout(PATIENCE, lock.lost()).await.expect("told");
    match lock.done().await {
        Err(ClientError::Refused { code: ErrorCode::Rejected, .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// Three agents on two brokers race for a thousand tasks: each is done once.
#[tokio::test]
async fn of_three_that_race_for_a_thousand_tasks_each_task_is_done_by_one() {
    const TASKS: usize = 1_000;
    let db = migrated().await;
    let brokers = [Mesh::on(db.clone(), &[]).await, Mesh::on(db.clone(), &[]).await];
    let done: Arc<Mutex<HashMap<usize, Vec<usize>>>> = Arc::default();
    let mut racers = JoinSet::new();
    for racer in 0..3 {
        let (client, _) = brokers[racer % 2].connect(&format!("racer-{racer}"), 0).await;
        let done = done.clone();
        racers.spawn(async move {
            for task in 0..TASKS {
                if let Acquired::Held(lock) =
                    client.lock(&format!("task-{task}"), TTL).await.expect("answered")
                {
                    done.lock().expect("whole").entry(task).or_default().push(racer);
                    lock.done().await.expect("done");
                }
            }
        });
    }
    while let Some(ended) = racers.join_next().await {
        ended.expect("no panic");
    }
    let done = std::mem::take(&mut *done.lock().expect("whole"));
    assert_eq!(done.len(), TASKS);
    assert!(done.values().all(|by| by.len() == 1));
    let shares: Vec<usize> = (0..3).map(|r| done.values().filter(|by| by[0] == r).count()).collect();
    println!("shares of three racers: {shares:?}");
    assert_eq!(
        db.ask::<i64>("select count(*) from postbell.locks where done_at is not null").await,
        TASKS as i64
    );
}

#[tokio::test]
async fn once_runs_a_command_once_whoever_starts_it() {
    let mesh = Mesh::start().await;
    let folder = tempfile::tempdir().expect("folder");
    let log = folder.path().join("log");
    let once = |agent: &str, token: &str, script: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_postbell"));
        command.args(["once", "daily", "--", "sh", "-c", script]).env_clear().kill_on_drop(true);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LOG", &log);
        command.env("POSTBELL_URL", mesh.url()).env("POSTBELL_AGENT", agent).env("POSTBELL_TOKEN", token);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let (a, b) = (mesh.db.agent("a").await, mesh.db.agent("b").await);
    // The command fails: the lock is given back, and the exit status is the command's.
    let failed = once("a", &a, "exit 3").output().await.expect("runs");
    assert_eq!(failed.status.code(), Some(3));
    // Three at once: one runs the command, the others hear of that, and later ones find the task done.
    let work = "echo $POSTBELL_FENCE >> $LOG; while [ ! -e $LOG.go ]; do sleep 0.05; done";
    let mut first = once("a", &a, work).spawn().expect("spawns");
    mesh.db.until("select exists (select from postbell.locks)").await;
    let second = once("b", &b, work).output().await.expect("runs");
    assert_eq!(second.status.code(), Some(75), "{}", String::from_utf8_lossy(&second.stderr));
    std::fs::write(folder.path().join("log.go"), "").expect("go");
    assert!(timeout(PATIENCE, first.wait()).await.expect("ends").expect("waits").success());
    let third = once("b", &b, work).output().await.expect("runs");
    assert!(third.status.success());
    let ran = std::fs::read_to_string(&log).expect("log");
    assert_eq!(ran.lines().count(), 1, "{ran}");
    // A stopped `once` lets its command finish its work, and then gives the lock back.
    mesh.db.sql().await.batch_execute("delete from postbell.locks").await.expect("forgotten");
    let tidy = "trap 'echo tidy >> $LOG; exit 0' TERM; touch $LOG.up; while :; do sleep 0.05; done";
    let mut stopped = once("a", &a, tidy).spawn().expect("spawns");
    let is_up = async {
        while !folder.path().join("log.up").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, is_up).await.expect("it starts");
    let id = stopped.id().expect("lives").to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
    let status = timeout(PATIENCE, stopped.wait()).await.expect("ends").expect("waits");
    assert_eq!(status.code(), Some(1), "it is not known to be done");
    assert!(std::fs::read_to_string(&log).expect("log").ends_with("tidy\n"));
    let next = once("b", &b, "exit 0").output().await.expect("runs");
    assert!(next.status.success(), "{}", String::from_utf8_lossy(&next.stderr));
}
