//! Random commands that misbehave in every way: no process of theirs lives when the lock is free, each message has
//! one outcome, and the exit status tells. POSTBELL_TEST_SEED runs a seed again.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::timeout;

use super::{Scene, code, signal};
use crate::harness::lacks;
use crate::mesh::{Mesh, PATIENCE, insert};

/// The programs that commands use in their mischief, and where processes are looked for.
const NEEDED: &[&str] = &["bash", "setsid", "nohup", "kill", "/proc/self/environ"];

const SEED: u64 = 20_261_129;
const COMMANDS: usize = 12;
const MESSAGES: usize = 16;
/// A variable that marks every process of a command, except those that clear their environment.
const COOKIE: &str = "POSTBELL_TEST_FAMILY";

fn seed() -> u64 {
    let seed = std::env::var("POSTBELL_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(SEED);
    eprintln!("POSTBELL_TEST_SEED={seed}");
    seed
}

/// The living processes with this cookie.
fn with_cookie(value: &str) -> Vec<String> {
    let cookie = format!("{COOKIE}={value}");
    let ids = std::fs::read_dir("/proc").expect("/proc").flatten().map(|e| e.file_name());
    let ids = ids.filter_map(|id| id.to_str()?.parse::<i32>().ok());
    let has = |id: &i32| {
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == cookie.as_bytes())
            && super::lives(*id)
    };
    let name = |id: i32| std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
    ids.filter(has).map(|id| format!("{id} {}", name(id).replace('\0', " "))).collect()
}

/// Something that a command does beside its work.
fn mischief(random: &mut StdRng) -> &'static str {
    const ALL: &[&str] = &[
        "sleep 61 &",
        "(sleep 61 &)",
        "setsid sleep 61 &",
        "(setsid sh -c 'sleep 61 & sleep 61' &)",
        "(trap '' TERM INT HUP QUIT; sleep 61; sleep 61) &",
        "nohup setsid sleep 61 >/dev/null 2>&1 &",
        "exec 0<&- 1>&-;",
        "exec 2>&-;",
        "trap '' TERM;",
        "trap '' INT HUP QUIT;",
        "trap 'exit 0' TERM INT;",
        "head -c 300000 /dev/zero;",
        "head -c 300000 /dev/zero >&2;",
        "printf '\\033[31mred\\000\\377' >&2;",
        "(kill -STOP $$ & sleep 0.1; kill -CONT $$);",
        "sh -c 'kill -9 $$';",
        "for n in 1 2 3 4 5; do (sleep 61 & ) ; done;",
        "(while :; do (sleep 0.05 &); sleep 0.01; done) &",
    ];
    ALL[random.random_range(0..ALL.len())]
}

/// How a command ends, and the status that a shell would give.
fn end(random: &mut StdRng) -> (&'static str, i32) {
    const ALL: &[(&str, i32)] = &[
        ("exit 0", 0),
        ("exit 0", 0),
        ("exit 1", 1),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -SEGV $$", 139),
        ("exec true", 0),
        ("exec ./nope", 127),
    ];
    ALL[random.random_range(0..ALL.len())]
}

fn script(random: &mut StdRng) -> String {
    let count = random.random_range(0..4);
    (0..count).map(|_| mischief(random)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn no_process_lives_when_the_lock_is_free() {
    if lacks(NEEDED) {
        return;
    }
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let mut random = StdRng::seed_from_u64(seed());
    for n in 0..COMMANDS {
        let scene = Scene::new();
        let (deeds, (end, status)) = (script(&mut random), end(&mut random));
        // The test stops the command while it waits, or lets it end by itself.
        let stops: &[&str] = match random.random_range(0..6) {
            0 => &["-TERM"],
            1 => &["-INT"],
            2 => &["-HUP", "-TERM"],
            3 => &["-KILL"],
            _ => &[],
        };
        let waits = if stops.is_empty() { "" } else { "touch up; sleep 61; sleep 61;" };
        let text = format!("{deeds}\n{waits} {end}");
        let key = format!("k{n}");
        let args = ["once", "--grace", "500ms", "--ttl", "20s", &key, "--", "bash", "-c", &text];
        let mut command = scene.command(&mesh, "a", &token, &args);
        command.env(COOKIE, &key).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        eprintln!("{stops:?} {text}");
        let child = command.spawn().expect("spawns");
        // A command's mischief may end it before it waits, or hit its whole group. In that case the test did not stop
        // it.
        if !stops.is_empty() {
            super::until(|| scene.path("up").exists() || with_cookie(&key).is_empty(), "it waits").await;
        }
        if stops == ["-KILL"] {
            signal(&child, "-KILL");
            super::until(|| with_cookie(&key).is_empty(), "they end with postbell").await;
            continue;
        }
        let was_up = scene.path("up").exists();
        if was_up {
            stops.iter().for_each(|stop| signal(&child, stop));
        }
        let free = format!("select count(*) = 0 from postbell.locks where key = '{key}' and done_at is null");
        // `once` itself has the cookie as well, so at the moment of the free lock only other processes are asked
        // about.
        let own = child.id().expect("lives").to_string();
        let begun = format!("select count(*) = 1 from postbell.locks where key = '{key}'");
        let watching = async {
            let mut was_held = was_up;
            loop {
                was_held |= mesh.db.ask::<bool>(&begun).await;
                let has_ended = super::has_ended(&own);
                if was_held && mesh.db.ask::<bool>(&free).await {
                    let left = with_cookie(&key).into_iter().filter(|p| !p.starts_with(&format!("{own} ")));
                    assert_eq!(left.collect::<Vec<_>>(), Vec::<String>::new(), "{text}: the lock is free");
                    return;
                }
                assert!(!has_ended, "{text}: it ended, and kept its lock");
            }
        };
        timeout(PATIENCE, watching).await.expect("it ends");
        let code = code(child).await;
        if stops.is_empty() {
            assert_eq!(code, Some(status), "{text}");
        } else if was_up {
            assert_ne!(code, Some(0), "{text}: it is not known to be done");
        }
    }
}

#[tokio::test]
async fn each_message_has_one_outcome_and_the_exit_status_tells() {
    if lacks(NEEDED) {
        return;
    }
    let mesh = Mesh::with(&[("POSTBELL_MAX_ATTEMPTS", "1")]).await;
    let token = mesh.db.agent("a").await;
    let scene = Scene::new();
    let mut random = StdRng::seed_from_u64(seed());
    let sql = mesh.db.sql().await;
    let mut good = 0;
    // The first command succeeds: a command that never ran and is not found could not be started at all.
    std::fs::write(scene.path("0.sh"), "exit 0").expect("written");
    insert(&sql, "a", 1, "0").await;
    for n in 1..MESSAGES {
        let (deeds, (end, status)) = (script(&mut random), end(&mut random));
        // For the same reason a status of 127 is replaced here.
        let (end, status) = if status == 127 { ("exit 1", 1) } else { (end, status) };
        good += i64::from(status == 0);
        std::fs::write(scene.path(&format!("{n}.sh")), format!("{deeds}\n{end}")).expect("written");
        insert(&sql, "a", 5, &n.to_string()).await;
    }
    good += 1;
    let args = [
        "listen",
        "--window",
        "4",
        "--grace",
        "500ms",
        "--until-idle",
        "1s",
        "--exec",
        "read n; exec bash ./$n.sh",
    ];
    let mut command = scene.command(&mesh, "a", &token, &args);
    command.env(COOKIE, "listen").stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("spawns");
    let ended = timeout(2 * PATIENCE, child.wait_with_output()).await.expect("ends").expect("waits");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(with_cookie("listen"), Vec::<String>::new());
    let count = |status: &str| format!("select count(*) from agent_messages where status = '{status}'");
    let processed: i64 = mesh.db.ask(&count("processed")).await;
    let failed: i64 = mesh.db.ask(&count("failed")).await;
    assert_eq!((processed, failed), (good, MESSAGES as i64 - good), "{said}");
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries where state <> 'dead'").await, 0);
    let told = format!("postbell: handled {good}, failed {failed}, retried 0, dead 0, given back 0");
    assert!(said.contains(&told), "{told}: {}", &said[said.len().saturating_sub(2_000)..]);
    assert_eq!(ended.status.code(), Some(i32::from(failed > 0)));
}
