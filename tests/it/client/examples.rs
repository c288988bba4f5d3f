//! The library's examples do what their first lines say, against a real broker.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::within;
use crate::mesh::{Mesh, insert};

/// Builds the examples where these tests were built. `cargo test --workspace` has done that; `-p postbell` has not.
async fn built() -> PathBuf {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    BUILT
        .get_or_init(|| async {
            let folder =
                Path::new(env!("CARGO_BIN_EXE_postbell")).parent().expect("a folder").join("examples");
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "-p", "postbell-client", "--examples"]);
            cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
            let ended = spawn_blocking(move || cargo.status()).await.expect("joins").expect("cargo runs");
            assert!(ended.success(), "the examples build");
            folder
        })
        .await
        .clone()
}

async fn example(mesh: &Mesh, name: &str, agent: &str, arguments: &[&str]) -> tokio::process::Command {
    let token = mesh.db.agent(agent).await;
    let mut command = tokio::process::Command::new(built().await.join(name));
    command.arg(agent).args(arguments).env("POSTBELL_URL", mesh.url()).env("POSTBELL_TOKEN", token);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn the_worker_works_and_answers_who_asks() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    for payload in [r#"{"county": "Kent"}"#, r#"{"county": ""}"#, "1"] {
        insert(&sql, "worker", 5, payload).await;
    }
    let mut worker = example(&mesh, "worker", "worker", &[]).await.spawn().expect("starts");
    let mut lines = BufReader::new(worker.stdout.take().expect("its output")).lines();
    assert_eq!(within(lines.next_line()).await.expect("a line").as_deref(), Some("did Kent"));
    mesh.db.until("select count(*) = 1 from postbell.deliveries where state = 'scheduled' and last_error = 'no county yet'").await;
    mesh.db.until("select count(*) = 1 from postbell.deliveries where state = 'dead'").await;
    let asked = example(&mesh, "ask", "asker", &["worker", "how are you?"]).await.output();
    let answer = within(asked).await.expect("ends");
    assert!(answer.status.success());
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "\"working\"\n");
    worker.kill().await.expect("ended");
    mesh.stop().await;
}

#[tokio::test]
async fn the_scheduled_job_handles_what_waits_and_ends() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    for n in 1..=3 {
        insert(&sql, "nightly", 5, &n.to_string()).await;
    }
    let output = within(example(&mesh, "nightly", "nightly", &[]).await.output()).await.expect("ends");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n2\n3\nhandled 3\n");
    mesh.stop().await;
}
