//! Text from outside that is printed: no terminal obeys any of it, and none of it turns letters round.

use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::harness::Ended;
use crate::mesh::{Mesh, PATIENCE};

/// Every character of these kinds but zero, which no text in Postgres holds.
fn hostile() -> String {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    let is = |c: &char| {
        matches!(c.general_category(), Control | Format | LineSeparator | ParagraphSeparator) && *c != '\0'
    };
    ('\0'..='\u{10ffff}').filter(is).collect()
}

/// All hostile characters in pieces, since a name may have at most 200 bytes: each is in some name.
fn pieces() -> Vec<String> {
    let all: Vec<char> = hostile().chars().collect();
    all.chunks(30).enumerate().map(|(n, piece)| format!("n{n}{}", piece.iter().collect::<String>())).collect()
}

async fn run(mesh: &Mesh, args: &[&str], more: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postbell"));
    command.args(args).env_clear().kill_on_drop(true).stdin(Stdio::null());
    command.env("DATABASE_URL", mesh.db.url()).env("POSTBELL_URL", mesh.url());
    command.env("POSTBELL_HTTP", mesh.http.to_string());
    command.env("POSTBELL_HTTP_URL", format!("http://{}", mesh.http));
    command.envs(more.iter().copied());
    let output = timeout(PATIENCE, command.output()).await.expect("ends").expect("runs");
    Ended {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

#[track_caller]
pub(crate) fn is_harmless(said: &Ended, args: &[&str]) {
    let hostile = hostile();
    for (stream, text) in [("stdout", &said.stdout), ("stderr", &said.stderr)] {
        let found = text.chars().find(|c| !matches!(c, '\n' | '\t') && hostile.contains(*c));
        assert!(found.is_none(), "{args:?}: {stream} has {:04x?}: {text:?}", found.map(u32::from));
        // A line that a name made would look like one of ours.
        assert!(!text.lines().any(|line| line.starts_with("FORGED")), "{args:?}: {stream}: {text}");
    }
}

/// Agents, messages, dead letters, brokers and alerts with these characters in every text that somebody may set.
async fn poison(mesh: &Mesh, pieces: &[String]) {
    let sql = mesh.db.sql().await;
    let all = format!("{}\nFORGED line\rFORGED", hostile());
    for piece in pieces {
        sql.execute(
            "insert into agent_registry (agent_id, agent_name, agent_type, environment, status, endpoint_url, agent_version, offline_reason)
             values ($1, $2, $1, $1, 'offline', $2, $1, $1)",
            &[&format!("{piece}\nFORGED"), &all],
        )
        .await
        .unwrap();
        sql.execute(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, correlation_id, dedupe_key, headers)
             values ($1, $1, 'data', to_jsonb($2::text), $1, $1, jsonb_build_object('a', $2::text))",
            &[&format!("{piece}\nFORGED"), &all],
        )
        .await
        .unwrap();
    }
    sql.execute("update postbell.deliveries set state = 'dead', dead_at = now(), last_error = $1", &[&all])
        .await
        .unwrap();
    sql.execute("insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values ($1, 'x' || $1, 'data', '1')", &[&pieces[0]])
        .await
        .unwrap();
    sql.execute(
        "insert into postbell.set_aside (message_id, inbox, kind, status, error_message, reason, next_try)
         select message_id, $1, $1, $1, $1, $1, now() + interval '1 hour' from agent_messages limit 1",
        &[&all],
    )
    .await
    .unwrap();
    for piece in pieces {
        sql.execute(
            "insert into postbell.grants (kind, name, agent_id) values ('group', $1, $1), ('lock', $1, $1)",
            &[&format!("{piece}\nFORGED")],
        )
        .await
        .unwrap();
    }
    sql.execute(
        "insert into postbell.brokers (broker_id, name, address, version, lease_until)
         values (gen_random_uuid(), $1, $1, $1, now() + interval '1 hour')",
        &[&all],
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn no_command_prints_what_a_terminal_obeys() {
    let mesh = Mesh::start().await;
    let pieces = pieces();
    poison(&mesh, &pieces).await;
    let first = format!("{}\nFORGED", pieces[1]);
    let letter = mesh
        .db
        .ask::<i64>("select max(delivery_id) from postbell.deliveries where state = 'dead'")
        .await
        .to_string();
    let commands: Vec<Vec<&str>> = vec![
        vec!["agent", "list"],
        vec!["agent", "list", "--json"],
        vec!["agent", "add", &first],
        vec!["agent", "rotate", &first],
        vec!["agent", "disable", &first, "--json"],
        vec!["agent", "enable", &first],
        vec!["agent", "remove", &first],
        vec!["agent", "remove", &first, "--force"],
        vec!["agent", "rotate", "nobody\u{1b}[2J\u{202e}\nFORGED"],
        vec!["dead", "list"],
        vec!["dead", "list", "--json"],
        vec!["dead", "show", &letter],
        vec!["dead", "show", &letter, "--json"],
        vec!["dead", "show", "nothing\u{1b}[2J\nFORGED"],
        vec!["dead", "redrive", "--inbox", "nobody\u{1b}[2J"],
        vec!["aside", "list"],
        vec!["aside", "list", "--json"],
        vec!["group", "list"],
        vec!["group", "list", "--json"],
        vec!["group", "allow", "g\u{1b}[2J\u{202e}\nFORGED", &first],
        vec!["group", "revoke", "g\u{1b}[2J\u{202e}\nFORGED"],
        vec!["lock", "list"],
        vec!["lock", "list", "--json"],
        vec!["lock", "allow", "k\u{1b}[2J\u{202e}\nFORGED", &first],
        vec!["lock", "revoke", "k\u{1b}[2J\u{202e}\nFORGED"],
        vec!["doctor"],
        vec!["doctor", "--json"],
        vec!["migrate", "--status"],
        vec!["migrate", "--dry-run"],
        vec!["health"],
        vec!["policies", "show"],
    ];
    for args in &commands {
        is_harmless(&run(&mesh, args, &[]).await, args);
    }
    for list in ["aside", "group", "lock"] {
        let listed = run(&mesh, &[list, "list"], &[]).await;
        assert!(listed.status == 0 && listed.stdout.contains('\u{fffd}'), "{list}: {listed:?}");
    }
    let shown = run(&mesh, &["dead", "show", &letter], &[]).await;
    assert!(shown.stdout.contains('\u{fffd}') && shown.stdout.contains("\\u202e"), "{}", shown.stdout);
}

#[tokio::test]
async fn nor_does_one_that_talks_to_a_broker() {
    let mesh = Mesh::start().await;
    // A name that we register may hold no control characters.
    let name = "a\u{202e}\u{2028}\u{200b}".to_owned();
    let token = mesh.db.agent_as(&name, Some("orchestrator")).await;
    let me = [("POSTBELL_AGENT", name.as_str()), ("POSTBELL_TOKEN", token.as_str())];
    let payload = serde_json::to_string(&hostile()).unwrap();
    let commands: Vec<Vec<&str>> = vec![
        vec!["ping"],
        vec!["send", "--to", &name, "--type", "data", &payload],
        vec!["send", "--to", &name, "--type", "data", "no \u{1b}[2J json\nFORGED"],
        vec!["listen", "--max", "1"],
        vec!["once", "key\u{1b}[2J\u{202e}", "--", "true"],
        vec!["once", "key\u{1b}[2J\u{202e}", "--", "./nope\u{1b}[2J"],
        vec!["listen", "--until-idle", "1ms", "--log-format", "json"],
        vec!["send", "--to", &name, "--type", "data", "--url", "http://\u{1b}[2J\u{202e}", "1"],
        vec!["health", "--http", "127.0.0.1:\u{1b}[2J"],
        vec!["tail", "--url", "http://\u{1b}[2J\u{202e}\nFORGED"],
    ];
    for args in &commands {
        is_harmless(&run(&mesh, args, &me).await, args);
    }
    // A wrong token, for a log line about the refusal; and `tail`, which never ends by itself.
    let wrong = [("POSTBELL_AGENT", name.as_str()), ("POSTBELL_TOKEN", "wrong\u{202e}")];
    is_harmless(&run(&mesh, &["ping", "--within", "2s"], &wrong).await, &["ping"]);
    let mut tail = Command::new(env!("CARGO_BIN_EXE_postbell"))
        .args(["tail", "--url", &format!("http://{}", mesh.http)])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(tail.stdout.take().unwrap()));
    let seen = async {
        let (first, ()) = tokio::join!(lines.next_line(), async {
            // Messages are sent until `tail` follows: it does not tell of earlier ones.
            for _ in 0..5 {
                let sent = run(&mesh, &["send", "--to", &name, "--type", "data", "1"], &me).await;
                assert_eq!(sent.status, 0, "{}", sent.stderr);
                let listened = run(&mesh, &["listen", "--max", "1"], &me).await;
                assert_eq!(listened.status, 0, "{}", listened.stderr);
            }
        });
        first.unwrap().expect("a line")
    };
    let line = timeout(PATIENCE, seen).await.expect("a line");
    assert!(line.contains("a\u{fffd}\u{fffd}\u{fffd}"), "{line}");
    is_harmless(&Ended { status: 0, stdout: line, stderr: String::new() }, &["tail"]);
}
