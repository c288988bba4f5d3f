//! Commands with all the processes that they start: `once` and `listen --exec` hold on until none of them is left.

mod generated;
mod terminal;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::cli::{output, postbell};
use crate::harness::lacks;
use crate::mesh::{Mesh, PATIENCE};

/// A folder in which commands write their ids, and wait for a sign to go on.
pub(crate) struct Scene {
    folder: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `postbell`, run in this folder, so that its scripts write there.
    pub(crate) fn command(&self, mesh: &Mesh, agent: &str, token: &str, args: &[&str]) -> Command {
        let mut command = postbell(mesh, agent, token, args);
        command.current_dir(self.folder.path());
        command
    }

    /// Waits for a file that a script writes by `mv`, whole.
    pub(crate) async fn file(&self, name: &str) -> String {
        until(|| self.path(name).exists(), name).await;
        std::fs::read_to_string(self.path(name)).expect("text")
    }

    /// The processes whose ids a script wrote.
    pub(crate) async fn processes(&self, name: &str) -> Vec<i32> {
        self.file(name).await.split_whitespace().map(|id| id.parse().expect("an id")).collect()
    }
}

pub(crate) async fn until(is_so: impl Fn() -> bool, what: &str) {
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Whether a process runs. A process that has ended and was not waited for does not run.
pub(crate) fn lives(id: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Whether a child of this process has ended, waited for or not.
fn has_ended(id: &str) -> bool {
    !lives(id.parse().expect("an id"))
}

pub(crate) async fn until_gone(ids: &[i32]) {
    until(|| !ids.iter().any(|id| lives(*id)), "they end").await;
}

/// Sends a signal to this one process and no other.
pub(crate) fn signal(child: &Child, name: &str) {
    let id = child.id().expect("lives").to_string();
    assert!(std::process::Command::new("kill").args([name, &id]).status().expect("kill").success());
}

pub(crate) async fn code(mut child: Child) -> Option<i32> {
    timeout(PATIENCE, child.wait()).await.expect("ends").expect("waits").code()
}

const NO_LOCK: &str = "select count(*) = 0 from postbell.locks";
const A_LOCK: &str = "select count(*) = 1 from postbell.locks where done_at is null and until > now()";

async fn once(mesh: &Mesh, scene: &Scene, args: &[&str]) -> (Child, String) {
    let token = match mesh.db.ask::<i64>("select count(*) from agent_registry").await {
        0 => mesh.db.agent("a").await,
        _ => std::fs::read_to_string(scene.path("token")).expect("the token"),
    };
    std::fs::write(scene.path("token"), &token).expect("kept");
    let args = [&["once", "--ttl", "20s"], args].concat();
    (scene.command(mesh, "a", &token, &args).spawn().expect("spawns"), token)
}

/// A shell that waits for the process that it started.
const WAITS: &str = "sleep 61 & echo $! $$ > ids.new; mv ids.new ids & wait";

#[tokio::test]
async fn a_signal_ends_all_of_it_before_the_lock_is_free() {
    if lacks(&["bash", "/proc/self/stat", "kill"]) {
        return;
    }
    let mesh = Mesh::start().await;
    // A bash ignores QUIT, so it is killed after the grace.
    for (name, number) in [("-TERM", 15), ("-INT", 2), ("-HUP", 1), ("-QUIT", 9)] {
        let scene = Scene::new();
        let token = mesh.db.agent(&format!("a{number}")).await;
        let args = ["once", "--grace", "1s", "k", "--", "bash", "-c", WAITS];
        let child = scene.command(&mesh, &format!("a{number}"), &token, &args).spawn().expect("spawns");
        let ids = scene.processes("ids").await;
        assert!(ids.iter().all(|id| lives(*id)));
        signal(&child, name);
        // Once the lock is free, another process may have it: by then nothing may be left.
        mesh.db.until(NO_LOCK).await;
        assert!(!ids.iter().any(|id| lives(*id)), "{name}: {ids:?}");
        assert_eq!(code(child).await, Some(128 + number), "{name}");
    }
}

#[tokio::test]
async fn what_ignores_signals_keeps_the_lock_until_a_second_signal_kills_it() {
    if lacks(&["bash", "setsid", "/proc/self/stat", "kill"]) {
        return;
    }
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let script = "trap '' TERM; (trap '' TERM; setsid sleep 61) & sleep 61 & echo $$ $! > ids.new; mv ids.new ids; wait";
    let (child, token) = once(&mesh, &scene, &["--grace", "1h", "k", "--", "bash", "-c", script]).await;
    let ids = scene.processes("ids").await;
    signal(&child, "-TERM");
    let (other, _, said) = output(scene.command(&mesh, "a", &token, &["once", "k", "--", "true"])).await;
    assert_eq!(other, Some(75), "{said}");
    assert!(lives(ids[0]) && mesh.db.ask::<bool>(A_LOCK).await);
    signal(&child, "-TERM");
    assert_eq!(code(child).await, Some(137));
    assert!(!ids.iter().any(|id| lives(*id)));
    let (other, _, said) = output(scene.command(&mesh, "a", &token, &["once", "k", "--", "true"])).await;
    assert_eq!(other, Some(0), "{said}");
}

#[tokio::test]
async fn what_goes_on_after_the_grace_is_killed() {
    if lacks(&["bash", "/proc/self/stat", "kill"]) {
        return;
    }
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let script = "trap '' TERM INT HUP QUIT; echo $$ > ids.new; mv ids.new ids; while :; do sleep 1; done";
    let (child, _) = once(&mesh, &scene, &["--grace", "300ms", "k", "--", "bash", "-c", script]).await;
    let ids = scene.processes("ids").await;
    signal(&child, "-INT");
    assert_eq!(code(child).await, Some(137));
    assert!(!lives(ids[0]) && mesh.db.ask::<bool>(NO_LOCK).await);
}

/// A process that leaves the group, the session and its parent is followed all the same.
#[tokio::test]
async fn what_flees_is_ended_with_the_command() {
    if lacks(&["bash", "setsid", "/proc/self/stat"]) {
        return;
    }
    let mesh = Mesh::start().await;
    let flee = "env -i setsid sh -c '(sleep 61 & echo $! > ids.new; mv ids.new ids) &' & while [ ! -e ids ]; do :; done";
    for (then, expected) in [("exit 3", 3), ("kill -9 $$", 137)] {
        let scene = Scene::new();
        let token = mesh.db.agent(&format!("a{expected}")).await;
        let script = format!("{flee}; {then}");
        let args = ["once", "k", "--", "bash", "-c", &script];
        let command = scene.command(&mesh, &format!("a{expected}"), &token, &args);
        let (code, _, said) = output(command).await;
        assert_eq!(code, Some(expected), "{said}");
        let ids = scene.processes("ids").await;
        assert!(!lives(ids[0]), "it outlived the lock");
        assert!(mesh.db.ask::<bool>(NO_LOCK).await);
    }
}

/// A task is done when all of its processes are: a `tee` that still writes is waited for.
#[tokio::test]
async fn what_the_command_leaves_behind_may_end_by_itself() {
    if lacks(&["bash"]) {
        return;
    }
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let (child, _) =
        once(&mesh, &scene, &["k", "--", "bash", "-c", "(sleep 0.2; echo whole > last) & exit 0"]).await;
    assert_eq!(code(child).await, Some(0));
    assert_eq!(scene.file("last").await, "whole\n");
    assert!(mesh.db.ask::<bool>("select count(*) = 1 from postbell.locks where done_at is not null").await);
}

#[tokio::test]
async fn when_postbell_is_killed_so_is_the_command() {
    if lacks(&["bash", "setsid", "/proc/self/stat", "kill"]) {
        return;
    }
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let script = "trap '' TERM; setsid sleep 61 & echo $! $$ > ids.new; mv ids.new ids; wait; sleep 61";
    let (child, _) = once(&mesh, &scene, &["k", "--", "bash", "-c", script]).await;
    let ids = scene.processes("ids").await;
    signal(&child, "-KILL");
    until_gone(&ids).await;
    assert!(mesh.db.ask::<bool>(A_LOCK).await, "gone before another could begin");
}

#[tokio::test]
async fn a_command_that_cannot_be_started_gives_the_lock_back_at_once() {
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    std::fs::write(scene.path("text"), "no program").expect("a file");
    for (program, expected) in [("./nope", 127), ("no-such-program", 127), ("./text", 126), ("/", 126)] {
        let (child, token) = once(&mesh, &scene, &["k", "--", program]).await;
        let ended = timeout(PATIENCE, child.wait_with_output()).await.expect("ends").expect("waits");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(expected), "{program}: {said}");
        assert!(said.contains(&format!("postbell: {program} cannot be started: ")), "{said}");
        assert!(!said.contains("os error"), "{said}");
        assert!(mesh.db.ask::<bool>(NO_LOCK).await, "{program}");
        assert_eq!(
            output(scene.command(&mesh, "a", &token, &["once", program, "--", "true"])).await.0,
            Some(0)
        );
        mesh.db.sql().await.batch_execute("delete from postbell.locks").await.expect("forgotten");
    }
}

/// The broker is away for longer than the lock lasts. By the database's own clock, the lock still holds when the
/// command is gone.
#[tokio::test]
async fn a_command_is_ended_before_its_lock_could_be_anothers() {
    if lacks(&["bash", "/proc/self/stat"]) {
        return;
    }
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let token = mesh.db.agent("a").await;
    let script = "trap 'touch told' TERM; echo $$ > ids.new; mv ids.new ids; while :; do sleep 0.1; done";
    let args = ["once", "--ttl", "24s", "k", "--", "bash", "-c", script];
    let child = scene.command(&mesh, "a", &token, &args).spawn().expect("spawns");
    let ids = scene.processes("ids").await;
    let (db, _) = mesh.stop().await;
    until_gone(&ids).await;
    assert!(db.ask::<bool>(A_LOCK).await, "it could have been another's before");
    assert!(scene.path("told").exists(), "it was asked before it was killed");
    let ended = timeout(PATIENCE, child.wait_with_output()).await.expect("ends").expect("waits");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("the lock k could not be held"), "{said}");
}

/// `nohup` says that hangups should be ignored, and they are.
#[tokio::test]
async fn a_hangup_that_was_ignored_is_ignored() {
    if lacks(&["kill"]) {
        return;
    }
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let token = mesh.db.agent("a").await;
    let mut command = Command::new("sh");
    let own = env!("CARGO_BIN_EXE_postbell");
    command.args([
        "-c",
        r#"trap '' HUP; exec "$0" once k -- sh -c 'touch up; while [ ! -e go ]; do sleep 0.02; done'"#,
        own,
    ]);
    command.current_dir(scene.path("")).kill_on_drop(true).stdin(Stdio::null());
    command.env("POSTBELL_URL", mesh.url()).env("POSTBELL_AGENT", "a").env("POSTBELL_TOKEN", &token);
    let child = command.spawn().expect("spawns");
    scene.file("up").await;
    signal(&child, "-HUP");
    std::fs::write(scene.path("go"), "").expect("go");
    assert_eq!(code(child).await, Some(0));
}

/// The terminal is gone, or the reader of the output: the process still does all that it has to do.
#[tokio::test]
async fn nobody_needs_to_hear_what_it_says() {
    if lacks(&["bash", "/proc/self/stat", "kill"]) {
        return;
    }
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let (mut child, _) = once(&mesh, &scene, &["k", "--", "bash", "-c", WAITS]).await;
    let ids = scene.processes("ids").await;
    drop((child.stderr.take(), child.stdout.take()));
    signal(&child, "-HUP");
    assert_eq!(code(child).await, Some(129));
    assert!(!ids.iter().any(|id| lives(*id)) && mesh.db.ask::<bool>(NO_LOCK).await);
}
