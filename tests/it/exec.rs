//! `listen`, above all `listen --exec`: each message has one outcome, whatever its command does, and the process
//! tells the counts at its end.

use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use crate::cli::{output, postbell};
use crate::family::{Scene, code, lives, signal, until_gone};
use crate::harness::lacks;
use crate::mesh::{Mesh, PATIENCE, insert};

const WAITING: &str =
    "select count(*) = 1 and bool_and(attempt = 0 and state <> 'dead') from postbell.deliveries";

/// Runs `listen` with this command until no message comes any more.
async fn listens(mesh: &Mesh, more: &[&str], exec: &str) -> (Option<i32>, String) {
    let token = mesh.db.agent("a").await;
    let args = [&["listen", "--until-idle", "1s", "--exec", exec], more].concat();
    let (code, _, said) = output(postbell(mesh, "a", &token, &args)).await;
    (code, said)
}

#[tokio::test]
async fn a_job_in_which_something_failed_fails() {
    let mesh = Mesh::with(&[("POSTBELL_MAX_ATTEMPTS", "1")]).await;
    let scene = Scene::new();
    let token = mesh.db.agent("a").await;
    let sql = mesh.db.sql().await;
    for (more, expected) in [(&[][..], 1), (&["--failures-ok"][..], 0)] {
        insert(&sql, "a", 5, "1").await;
        let args = [&["listen", "--until-idle", "1s", "--exec", "echo '|no|' >&2; false"], more].concat();
        let mut command = postbell(&mesh, "a", &token, &args);
        command.env("GITHUB_STEP_SUMMARY", scene.path("summary"));
        let (code, _, said) = output(command).await;
        assert_eq!(code, Some(expected), "{said}");
        assert!(said.contains("postbell: handled 0, failed 1, retried 0, dead 0, given back 0"), "{said}");
    }
    let summary = std::fs::read_to_string(scene.path("summary")).expect("a summary");
    assert_eq!(summary.matches("### postbell listen: a\n").count(), 2, "it is appended to: {summary}");
    assert!(summary.contains("| 0 | 1 | 0 | 0 | 0 |") && summary.contains("&#124;no&#124;"), "{summary}");
    // A job passes if no message came, or all went well; it passes even if the summary's path is a folder.
    insert(&sql, "a", 5, "1").await;
    let mut command = postbell(&mesh, "a", &token, &["listen", "--until-idle", "1s", "--exec", "true"]);
    command.env("GITHUB_STEP_SUMMARY", scene.path(""));
    let (code, _, said) = output(command).await;
    assert!(code == Some(0) && said.contains("handled 1, failed 0") && said.contains("summary"), "{said}");
}

#[tokio::test]
async fn what_failed_first_and_was_handled_then_is_no_failure() {
    let mesh = Mesh::with(&[("POSTBELL_RETRY_BASE_MS", "1")]).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let token = mesh.db.agent("a").await;
    let args = ["listen", "--max", "2", "--exec", r#"test "$POSTBELL_ATTEMPT" = 2"#];
    let (code, _, said) = output(postbell(&mesh, "a", &token, &args)).await;
    assert!(code == Some(0) && said.contains("handled 1, failed 1, retried 1"), "{said}");
}

#[tokio::test]
async fn two_signals_end_a_command_that_ignores_them_and_its_message_is_given_back() {
    if lacks(&["setsid", "/proc/self/stat", "kill"]) {
        return;
    }
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let token = mesh.db.agent("a").await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let script =
        "trap '' TERM; setsid sleep 61 & echo $$ $! > ids.new; mv ids.new ids; while :; do sleep 1; done";
    let args = ["listen", "--grace", "1h", "--exec", script];
    let child = scene.command(&mesh, "a", &token, &args).spawn().expect("spawns");
    let ids = scene.processes("ids").await;
    signal(&child, "-TERM");
    assert!(lives(ids[0]));
    // Another signal than before: the same one twice could arrive as one.
    signal(&child, "-INT");
    assert_eq!(code(child).await, Some(0));
    assert!(!ids.iter().any(|id| lives(*id)));
    mesh.db.until(WAITING).await;
}

#[tokio::test]
async fn one_signal_ends_commands_and_what_they_started() {
    if lacks(&["/proc/self/stat", "kill"]) {
        return;
    }
    let mesh = Mesh::start().await;
    for (name, agent) in [("-TERM", "a"), ("-INT", "b"), ("-HUP", "c"), ("-QUIT", "d")] {
        let scene = Scene::new();
        let token = mesh.db.agent(agent).await;
        insert(&mesh.db.sql().await, agent, 5, "1").await;
        let script = "sleep 61 & echo $$ $! > ids.new; mv ids.new ids; wait";
        let args = ["listen", "--exec", script];
        let child = scene.command(&mesh, agent, &token, &args).spawn().expect("spawns");
        let ids = scene.processes("ids").await;
        signal(&child, name);
        assert_eq!(code(child).await, Some(0), "{name}");
        assert!(!ids.iter().any(|id| lives(*id)), "{name}");
        mesh.db.until(&format!("{WAITING} where inbox = '{agent}'")).await;
    }
}

/// A command that tidies up after the signal and exits with 0 has handled its message.
#[tokio::test]
async fn a_command_may_finish_its_message_within_the_grace() {
    if lacks(&["kill"]) {
        return;
    }
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let token = mesh.db.agent("a").await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let script = "trap 'is_told=1' TERM; touch up; while [ -z $is_told ]; do sleep 0.05; done; sleep 0.3; echo done > done";
    let args = ["listen", "--exec", script];
    let child = scene.command(&mesh, "a", &token, &args).spawn().expect("spawns");
    scene.file("up").await;
    signal(&child, "-TERM");
    assert_eq!(code(child).await, Some(0));
    assert_eq!(scene.file("done").await, "done\n");
    mesh.db.until("select status = 'processed' from agent_messages").await;
}

#[tokio::test]
async fn when_listen_is_killed_so_are_its_commands() {
    if lacks(&["setsid", "/proc/self/stat", "kill"]) {
        return;
    }
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let token = mesh.db.agent("a").await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let script =
        "trap '' TERM INT; setsid sleep 61 & echo $$ $! > ids.new; mv ids.new ids; while :; do sleep 1; done";
    let child = scene.command(&mesh, "a", &token, &["listen", "--exec", script]).spawn().expect("spawns");
    let ids = scene.processes("ids").await;
    signal(&child, "-KILL");
    until_gone(&ids).await;
}

#[tokio::test]
async fn a_command_that_is_not_there_costs_no_message() {
    let mesh = Mesh::start().await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let (code, said) = listens(&mesh, &[], "./nope --fast").await;
    assert!(code == Some(127) && said.contains("./nope is not there"), "{said}");
    assert!(mesh.db.ask::<bool>(WAITING).await);
}

/// If a command turns out unable to start only when it runs, that costs one attempt in all, and not ten of each
/// message.
#[tokio::test]
async fn a_command_that_cannot_be_started_stops_listening() {
    let mesh = Mesh::with(&[("POSTBELL_RETRY_BASE_MS", "1")]).await;
    let sql = mesh.db.sql().await;
    for _ in 0..20 {
        insert(&sql, "a", 5, "1").await;
    }
    let (code, said) = listens(&mesh, &["--window", "1"], "cd /; ./nope").await;
    assert!(code == Some(127) && said.contains("failed 1, retried 0"), "{said}");
    // A message that was pushed as this process left may count an attempt as well: its session ended with it.
    let untouched = "select count(*) >= 18 from postbell.deliveries where attempt = 0 and last_error is null";
    mesh.db.until(untouched).await;
}

/// A command that has worked before is another matter: it fails its message.
#[tokio::test]
async fn a_command_that_worked_before_and_is_not_found_now_fails_its_message() {
    let mesh = Mesh::with(&[("POSTBELL_MAX_ATTEMPTS", "1")]).await;
    let sql = mesh.db.sql().await;
    for n in ["0", "1", "0"] {
        insert(&sql, "a", 5, n).await;
    }
    let (code, said) = listens(&mesh, &["--window", "1"], "read n; [ $n = 0 ] || exec ./nope").await;
    assert!(code == Some(1) && said.contains("handled 2, failed 1"), "{said}");
}

/// Pipes that are full, closed or never read; any bytes; megabytes.
#[tokio::test]
async fn whatever_a_command_does_with_its_pipes_its_status_decides() {
    let mesh = Mesh::with(&[("POSTBELL_MAX_ATTEMPTS", "1")]).await;
    let token = mesh.db.agent("a").await;
    let sql = mesh.db.sql().await;
    let large = format!("\"{}\"", "x".repeat(900_000));
    for (n, (exec, expected, reason)) in [
        ("true", 0, ""),
        ("sleep 0.3", 0, ""),
        ("exec <&-; sleep 0.1", 0, ""),
        ("head -c 1 > /dev/null", 0, ""),
        ("test $(wc -c) = 900002", 0, ""),
        ("head -c 5000000 /dev/zero", 0, ""),
        ("head -c 5000000 /dev/zero >&2", 0, ""),
        ("head -c 5000000 /dev/zero >&2; false", 1, "%"),
        (
            r"printf '\377\n\033[31mno \033]0;title\007such\033[0m county\000\n' >&2; exit 9",
            1,
            "no such county",
        ),
        ("exec 2>&-; exit 4", 1, "the command ended with status 4"),
        ("kill -SEGV $$", 1, "%signal 11%"),
        ("sleep 61 & sleep 61 > /dev/null 2>&1 < /dev/null & exit 5", 1, "the command ended with status 5"),
    ]
    .into_iter()
    .enumerate()
    {
        insert(&sql, "a", 5, &large).await;
        let mut command = postbell(&mesh, "a", &token, &["listen", "--max", "1", "--exec", exec]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let status = timeout(PATIENCE, command.status()).await.expect("ends").expect("runs");
        assert_eq!(status.code(), Some(expected), "{exec}");
        let outcomes = if expected == 0 {
            "select count(*) = 0 from postbell.deliveries".to_owned()
        } else {
            format!(
                "select count(*) = 1 and bool_and(state = 'dead' and last_error like '{reason}%') from postbell.deliveries"
            )
        };
        mesh.db.until(&outcomes).await;
        let clear = "delete from postbell.deliveries";
        sql.batch_execute(clear).await.expect("cleared");
        assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages").await, n as i64 + 1);
    }
}

/// Numbers and depths that Python cannot hold are JSON all the same: the payload arrives as it was sent, to the
/// digit.
#[tokio::test]
async fn a_payload_of_any_cost_arrives_as_it_was_sent() {
    let mesh = Mesh::start().await;
    let scene = Scene::new();
    let token = mesh.db.agent("a").await;
    let sql = mesh.db.sql().await;
    let digits = "7".repeat(5_000);
    let nested = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
    let exponent = format!("1{}", "0".repeat(9_999));
    for payload in [&digits, &nested, &exponent, "\"\\u0001\\\\\"", "0.10000000000000000000000000000001"] {
        insert(&sql, "a", 5, payload).await;
        let args = ["listen", "--max", "1", "--exec", "cat > payload.new; mv payload.new payload"];
        let (code, _, said) = output(scene.command(&mesh, "a", &token, &args)).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(scene.file("payload").await == *payload, "{}", &payload[..40.min(payload.len())]);
        std::fs::remove_file(scene.path("payload")).expect("read");
        insert(&sql, "a", 5, payload).await;
        let (code, line, said) = output(postbell(&mesh, "a", &token, &["listen", "--max", "1"])).await;
        assert!(code == Some(0) && line.ends_with(&format!("\"payload\":{payload}}}\n")), "{said}");
    }
}

#[tokio::test]
async fn messages_of_other_types_are_left_or_dead_with_a_line_a_type() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let sql = mesh.db.sql().await;
    let send = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                select 's', 'a', kind, '1' from unnest(array['data', 'alert', 'alert', 'command', 'query', 'alert']) as kind";
    sql.batch_execute(send).await.expect("sent");
    let args = ["listen", "--types", "command,query", "--until-idle", "1s"];
    let (code, lines, said) = output(postbell(&mesh, "a", &token, &args)).await;
    assert_eq!((code, lines.lines().count()), (Some(0), 2), "{said}");
    assert!(said.contains("handled 2, failed 0, retried 0, dead 0, given back 4"), "{said}");
    assert_eq!(said.matches("are not handled here").count(), 2, "{said}");
    let left =
        "select count(*) = 4 and bool_and(attempt = 0 and state = 'scheduled') from postbell.deliveries";
    mesh.db.until(left).await;
    sql.batch_execute("delete from postbell.deliveries").await.expect("cleared");
    sql.batch_execute(send).await.expect("sent");
    let args = ["listen", "--types", "command,query", "--others", "dead", "--until-idle", "1s"];
    let (code, _, said) = output(postbell(&mesh, "a", &token, &args)).await;
    assert!(
        code == Some(0) && said.contains("handled 2, failed 0, retried 0, dead 4, given back 0"),
        "{said}"
    );
    mesh.db.until("select count(*) = 4 and bool_and(state = 'dead' and last_error like '%type%') from postbell.deliveries").await;
    let (code, _, said) = output(postbell(&mesh, "a", &token, &["listen", "--others", "dead"])).await;
    assert!(code == Some(64) && said.contains("--types"), "{said}");
}

/// A line that is no JSON ends the command; the lines before it are reported.
#[tokio::test]
async fn send_tells_of_every_line_that_it_sent() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("s").await;
    mesh.db.agent("a").await;
    let mut command: Command = postbell(&mesh, "s", &token, &["send", "--to", "a", "--lines"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("spawns");
    let mut stdin = child.stdin.take().expect("stdin");
    tokio::io::AsyncWriteExt::write_all(&mut stdin, b"1\n2\n{\"a\":\n4\n").await.expect("written");
    drop(stdin);
    let sent = timeout(PATIENCE, child.wait_with_output()).await.expect("ends").expect("waits");
    let said = String::from_utf8_lossy(&sent.stderr);
    assert_eq!(sent.status.code(), Some(1));
    assert!(said.contains("line 3: the payload is not JSON: it goes wrong at line 1, column 5"), "{said}");
    assert_eq!(String::from_utf8_lossy(&sent.stdout).lines().count(), 2);
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages").await, 2);
}
