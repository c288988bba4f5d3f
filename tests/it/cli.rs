//! The commands, as processes: what a person at a shell sees.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::mesh::{Mesh, PATIENCE, insert};
use crate::require::missing;

/// `postbell` as this agent, with nothing else in its environment.
pub(crate) fn postbell(mesh: &Mesh, agent: &str, token: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postbell"));
    command.args(args).env_clear().kill_on_drop(true);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("POSTBELL_URL", mesh.url()).env("POSTBELL_AGENT", agent).env("POSTBELL_TOKEN", token);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) struct Running {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("spawns");
        let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        Self { child, lines }
    }

    pub(crate) async fn line(&mut self) -> Option<String> {
        timeout(PATIENCE, self.lines.next_line()).await.expect("a line or the end").expect("UTF-8")
    }

    pub(crate) async fn json(&mut self) -> Value {
        let line = self.line().await.expect("a line");
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line}: {e}"))
    }

    /// The exit status, and standard error.
    pub(crate) async fn ended(self) -> (Option<i32>, String) {
        let output = timeout(PATIENCE, self.child.wait_with_output()).await.expect("ends").expect("waits");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

pub(crate) async fn output(mut command: Command) -> (Option<i32>, String, String) {
    let output = timeout(PATIENCE, command.output()).await.expect("ends").expect("runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn what_send_sends_listen_prints_to_the_digit() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let mut listen = Running::spawn(postbell(&mesh, "a", &token, &["listen", "--max", "4"]));
    mesh.db.until("select status = 'online' from agent_registry").await;
    let sender = mesh.db.agent("s").await;
    let big = r#"{"big": 12345678901234567890.123456789}"#;
    let send = ["send", "--to", "a", "--type", "command", "--priority", "1", big];
    let (code, id, said) = output(postbell(&mesh, "s", &sender, &send)).await;
    assert_eq!(code, Some(0), "{said}");
    let line = listen.json().await;
    assert_eq!((line["id"].as_str(), line["from"].as_str()), (Some(id.trim()), Some("s")));
    assert_eq!((line["type"].as_str(), line["priority"].as_u64()), (Some("command"), Some(1)));
    let kept: String = mesh.db.ask("select payload::text from agent_messages").await;
    assert_eq!(kept, big);

    let mut command = postbell(&mesh, "s", &sender, &["send", "--to", "a", "--lines", "--json"]);
    let mut lines = command.stdin(Stdio::piped()).spawn().expect("spawns");
    lines.stdin.take().unwrap().write_all(b"1\n\n2\n3\n").await.unwrap();
    let sent = timeout(PATIENCE, lines.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&sent.stdout).lines().count(), 3);
    for n in 1..=3 {
        assert_eq!(listen.json().await["payload"], n, "lines keep their order");
    }
    assert_eq!(listen.line().await, None, "--max");
    assert_eq!(listen.ended().await.0, Some(0));
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
}

#[tokio::test]
async fn a_shell_script_is_an_agent() {
    let mesh = Mesh::with(&[("POSTBELL_RETRY_BASE_MS", "1"), ("POSTBELL_MAX_ATTEMPTS", "2")]).await;
    let token = mesh.db.agent("a").await;
    let sql = mesh.db.sql().await;
    for payload in ["\"good\"", "\"bad\"", "\"slow\""] {
        insert(&sql, "a", 3, payload).await;
    }
    let script = r#"read p; echo "$POSTBELL_TYPE $POSTBELL_PRIORITY $POSTBELL_FROM $p ${POSTBELL_TOKEN:-none}"
                    case $p in *bad*) echo first >&2; echo "no such county" >&2; exit 3;; *slow*) sleep 60;; esac"#;
    let args = ["listen", "--exec", script, "--exec-timeout", "2s", "--until-idle", "3s"];
    let mut listen = Running::spawn(postbell(&mesh, "a", &token, &args));
    let mut seen = Vec::new();
    while let Some(line) = listen.line().await {
        seen.push(line);
    }
    let (code, said) = listen.ended().await;
    assert_eq!(code, Some(1), "two of three failed");
    assert!(said.contains("postbell: handled 1, failed 4, retried 2, dead 0, given back 0"), "{said}");
    seen.sort();
    let line = |payload| format!("data 3 sql {payload} none");
    let twice = |payload| [line(payload), line(payload)];
    let expected: Vec<String> =
        twice("\"bad\"").into_iter().chain([line("\"good\"")]).chain(twice("\"slow\"")).collect();
    assert_eq!(seen, expected, "the good one once, the others until their last attempt; no token in sight");
    mesh.db.until("select count(*) = 2 from postbell.deliveries where state = 'dead'").await;
    mesh.db
        .until("select count(*) = 1 from postbell.deliveries where last_error like 'no such county%'")
        .await;
    mesh.db
        .until("select count(*) = 1 from postbell.deliveries where last_error like '%longer than 2s%'")
        .await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages where status = 'processed'").await, 1);
}

#[tokio::test]
async fn wrong_input_is_answered_by_a_sentence() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    for (args, status, sentence) in [
        (vec!["send", "--to", "a", "no json"], 1, "the payload is not JSON"),
        (vec!["send", "--to", "a", "@/no/such/file"], 1, "/no/such/file cannot be read"),
        (vec!["send", "--to", "a", "--priority", "11", "1"], 64, "not between 1 (highest) and 10"),
        (vec!["listen", "--url", "http://x"], 1, "tcp://host:7440"),
        (vec!["listen", "--url", "tcp://127.0.0.1:1"], 1, "cannot be reached"),
        (vec!["listen", "--token", &token], 64, "unexpected argument"),
        (vec!["listen", "--token-file", "/no/such/token"], 1, "/no/such/token cannot be read"),
    ] {
        let (code, _, said) = output(postbell(&mesh, "a", &token, &args)).await;
        assert_eq!(code, Some(status), "{args:?}: {said}");
        assert!(said.contains(sentence), "{args:?}: {said}");
        assert!(!said.contains("panicked") && !said.contains("Err("), "{said}");
    }
    let (code, _, said) = output(postbell(&mesh, "a", "", &["listen"])).await;
    assert!(code == Some(64) && said.contains("there is no token for a: set POSTBELL_TOKEN"), "{said}");
    let (code, _, said) = output(postbell(&mesh, "a", "pb_wrong", &["listen"])).await;
    assert!(code == Some(1) && said.contains("unknown agent or wrong token (incident "), "{said}");
}

/// The README's transcript: psql inserts, `postbell listen` prints, and so does nc with a hello typed by hand.
#[tokio::test]
async fn psql_reaches_listen_and_nc() {
    let mesh = Mesh::start().await;
    let (listener, by_hand) = (mesh.db.agent("listener").await, mesh.db.agent("by-hand").await);
    let mut listen = Running::spawn(postbell(&mesh, "listener", &listener, &["listen", "--max", "1"]));
    let mut nc = Command::new("nc");
    nc.args(["127.0.0.1", &mesh.agents.port().to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut nc) = nc.kill_on_drop(true).spawn() else {
        return missing("nc is not installed");
    };
    let mut typed = nc.stdin.take().unwrap();
    let mut seen = BufReader::new(nc.stdout.take().unwrap()).lines();
    let hello = format!("{{\"op\":\"hello\",\"agent\":\"by-hand\",\"token\":\"{by_hand}\"}}\n");
    typed.write_all(hello.as_bytes()).await.unwrap();
    assert!(seen.next_line().await.unwrap().unwrap().starts_with(r#"{"op":"welcome""#));
    mesh.db.until("select bool_and(status = 'online') from agent_registry").await;
    let insert = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values
                  ('psql', 'listener', 'command', '{\"n\": 1}'), ('psql', 'by-hand', 'command', '{\"n\": 2}')";
    let psql = Command::new("psql").args([&mesh.db.url(), "-c", insert]).output().await;
    let Ok(psql) = psql else { return missing("psql is not installed") };
    assert!(psql.status.success(), "{}", String::from_utf8_lossy(&psql.stderr));
    assert_eq!(listen.json().await["payload"]["n"], 1);
    let line = timeout(PATIENCE, seen.next_line()).await.unwrap().unwrap().unwrap();
    assert!(
        line.starts_with(r#"{"op":"msg","tag":1,"attempt":1,"#) && line.ends_with(r#""payload":{"n": 2}}"#),
        "{line}"
    );
    typed.write_all(b"{\"op\":\"ack\",\"tag\":1}\n").await.unwrap();
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
}

/// The README's first command: everything starts, shows itself, and Ctrl-C ends it without a trace.
#[cfg(unix)]
#[tokio::test]
async fn dev_with_its_demo_starts_and_stops_cleanly() {
    let folder = tempfile::Builder::new().prefix("postbell-dev-").tempdir().unwrap();
    // The server's account must reach the data.
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let data = folder.path().join("data");
    let mut command = Command::new(env!("CARGO_BIN_EXE_postbell"));
    command
        .args(["dev", "--demo", "--fresh", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(&data)
        .env_remove("DATABASE_URL")
        .env_remove("PORT")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(bin) = std::env::var_os("POSTBELL_TEST_PG") {
        command.env("POSTBELL_PG_BIN", bin);
    }
    let mut dev = Running::spawn(command);
    let mut arrived = 0;
    let mut hints = String::new();
    loop {
        let Some(line) = dev.line().await else {
            panic!("ended early: {:?}", dev.ended().await);
        };
        assert!(!line.contains("::"), "a name of the code, and no word: {line}");
        arrived += usize::from(line.contains(" priority ") && line.contains(" ms "));
        if line.contains("Postbell is up") {
            break;
        }
    }
    assert_eq!(arrived, 12, "every message of the demo is shown");
    while !hints.contains("/health") {
        hints.push_str(&dev.line().await.expect("the hints"));
    }
    for hint in ["psql", "nc ", "postbell listen"] {
        assert!(hints.contains(hint), "{hints}");
    }
    let pid = dev.child.id().unwrap().to_string();
    let server = std::fs::read_to_string(data.join("data/postmaster.pid")).unwrap();
    let server = server.lines().next().unwrap().to_owned();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let (code, log) = dev.ended().await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped cleanly") && log.contains("the private Postgres has stopped"), "{log}");
    let alive = Command::new("kill").args(["-0", &server]).stderr(Stdio::null()).status().await.unwrap();
    assert!(!alive.success(), "the server outlived dev");
}
