//! `postbell ping` and `postbell health`: the questions of an operator and a container, and the answers when
//! something is wrong.

use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use crate::mesh::{Mesh, PATIENCE, insert};
use crate::process::kept_port;

struct Said {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

/// The command with nothing else in its environment.
async fn postbell(args: &[&str], environment: &[(&str, &str)]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postbell"));
    command.args(args).env_clear().envs(environment.iter().copied()).kill_on_drop(true).stdin(Stdio::null());
    let output = timeout(PATIENCE, command.output()).await.expect("ends").expect("runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Said { status: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

async fn ping(mesh: &Mesh, token: &str, args: &[&str]) -> Said {
    let all: Vec<&str> = ["ping"].iter().chain(args).copied().collect();
    let url = mesh.url();
    postbell(&all, &[("POSTBELL_URL", &url), ("POSTBELL_AGENT", "probe"), ("POSTBELL_TOKEN", token)]).await
}

#[tokio::test]
async fn a_ping_goes_through_the_mesh_and_leaves_nothing() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("probe").await;
    let said = ping(&mesh, &token, &["--count", "3", "--within", "30s"]).await;
    assert_eq!(said.status, Some(0), "{}", said.stderr);
    assert!(said.stdout.starts_with("welcomed by tcp://"), "{}", said.stdout);
    assert_eq!(said.stdout.matches("acknowledged in ").count(), 3, "{}", said.stdout);
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries").await, 0);
    let marked = "select count(*) from agent_messages where status = 'processed' and message_type = 'heartbeat' and priority = 1";
    assert_eq!(mesh.db.ask::<i64>(marked).await, 3, "each was stored, delivered and acknowledged");

    let said = ping(&mesh, &token, &["--json", "--within", "30s"]).await;
    let lines: Vec<serde_json::Value> =
        said.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines[0]["connected_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{lines:?}");
    for hop in ["stored_ms", "delivered_ms", "acked_ms"] {
        assert!(lines[1][hop].as_f64().is_some_and(|ms| ms > 0.0), "{lines:?}");
    }
}

#[tokio::test]
async fn a_ping_says_which_hop_failed() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("probe").await;
    // The message is stored, but its delivery does not come: a trigger of the user's puts every message off.
    mesh.db
        .sql()
        .await
        .batch_execute(
            "create function put_off() returns trigger language plpgsql as $$
               begin new.deliver_at := now() + interval '1 day'; return new; end $$;
             create trigger put_off before insert on agent_messages for each row execute function put_off()",
        )
        .await
        .unwrap();
    let said = ping(&mesh, &token, &["--within", "5s"]).await;
    assert_eq!(said.status, Some(1));
    assert!(said.stderr.contains("it was stored (COMMIT), but not delivered"), "{}", said.stderr);
    mesh.db.sql().await.batch_execute("drop trigger put_off on agent_messages").await.unwrap();

    // Another's message is not taken from the inbox.
    insert(&mesh.db.sql().await, "probe", 1, "\"for another\"").await;
    let said = ping(&mesh, &token, &["--within", "30s"]).await;
    assert_eq!(said.status, Some(1));
    assert!(said.stderr.contains("ping with an agent of its own"), "{}", said.stderr);
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages where payload = '\"for another\"' and status = 'processed'").await, 0);

    let said = ping(&mesh, "pb_wrong", &[]).await;
    assert!(
        said.status == Some(1) && said.stderr.contains("unknown agent or wrong token"),
        "{}",
        said.stderr
    );
}

#[tokio::test]
async fn health_is_that_of_the_broker_in_the_same_container() {
    let mesh = Mesh::start().await;
    let port = mesh.http.port().to_string();
    // The broker is ready once its first canary is back.
    let answer = async {
        loop {
            let said = postbell(&["health"], &[("PORT", &port)]).await;
            if said.status == Some(0) {
                return said;
            }
        }
    };
    let said = timeout(PATIENCE, answer).await.expect("becomes ready");
    for condition in ["✓ database", "✓ bell", "✓ draining"] {
        assert!(said.stdout.contains(condition), "{}", said.stdout);
    }
    let http = format!("0.0.0.0:{port}");
    assert_eq!(postbell(&["health", "--http", &http, "--live"], &[]).await.status, Some(0));

    // The agents' port by mistake, nobody at all, a setting that is none.
    let agents = mesh.agents.to_string();
    let said = postbell(&["health"], &[("POSTBELL_HTTP", &agents)]).await;
    assert!(said.status == Some(1) && said.stderr.contains("is it the agents' port?"), "{}", said.stderr);
    let nobody = kept_port();
    let said = postbell(&["health"], &[("POSTBELL_HTTP", &nobody.address().to_string())]).await;
    assert!(said.status == Some(1) && said.stderr.contains("no broker answers at"), "{}", said.stderr);
    assert_eq!(postbell(&["health", "--http", "here"], &[]).await.status, Some(64));
}
