//! The programs of the scheduled jobs in .github, run as those jobs do: against a real broker, with `gh` played by a
//! script.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;
use tokio::time::timeout;

use crate::mesh::{Mesh, PATIENCE};
use crate::require::missing;

/// A machine that a job runs on.
struct Runner {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

struct Said {
    status: Option<i32>,
    text: String,
}

impl Runner {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_postbell"), bin.join("postbell")).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut this = Self { folder, environment: Vec::new() };
        this.set("PATH", &path);
        this.set("RUNNER_TEMP", &this.folder.path().display().to_string());
        this
    }

    /// A runner with the URL of a mesh and the token of this agent.
    async fn on(mesh: &Mesh, agent: &str) -> Self {
        let token = mesh.db.agent(agent).await;
        let mut this = Self::new();
        for (name, value) in [
            ("POSTBELL_URL", mesh.url()),
            ("POSTBELL_AGENT", agent.to_owned()),
            ("POSTBELL_TOKEN", token),
            ("DATABASE_URL", mesh.db.url()),
        ] {
            this.set(name, &value);
        }
        this
    }

    fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.folder.path().join("bin").join(name);
        std::fs::write(&path, format!("#!/usr/bin/env bash\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    async fn run(&self, script: &str, args: &[&str]) -> Said {
        let mut command = Command::new("bash");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script)).args(args);
        command.env_clear().envs(self.environment.iter().cloned()).kill_on_drop(true).stdin(Stdio::null());
        command.current_dir(self.folder.path());
        let output = timeout(PATIENCE, command.output()).await.expect("ends").expect("runs");
        let text = [output.stdout, output.stderr].concat();
        Said { status: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
    }
}

#[tokio::test]
async fn an_agent_runs_once_a_day_however_often_it_is_started() {
    let mesh = Mesh::start().await;
    let mut runner = Runner::on(&mesh, "validation-agent").await;
    // The program finds its token in a file and not in its environment, and notes that it ran.
    runner.program(
        "postbell-validation",
        r#"case " $* " in *" --once "*) test -z "${POSTBELL_TOKEN:-}" && test -s "$POSTBELL_TOKEN_FILE" || exit 1 ;; esac
           echo "$@" >> "$RUNNER_TEMP/ran""#,
    );
    let script = ".github/scripts/once-a-day";
    for _ in 0..2 {
        let said = runner.run(script, &["validation"]).await;
        assert_eq!(said.status, Some(0), "{}", said.text);
    }
    assert_eq!(
        runner.file("ran"),
        "--config agents/examples/validation.toml --once\n",
        "the second found it done"
    );
    assert_eq!(runner.file("token-validation"), "", "the token does not stay");

    runner.set("AGAIN", "42");
    assert_eq!(runner.run(script, &["validation"]).await.status, Some(0));
    assert_eq!(runner.file("ran").lines().count(), 2, "asked for again");
    runner.set("CHECK", "1");
    assert_eq!(runner.run(script, &["validation"]).await.status, Some(0));
    assert!(
        runner.file("ran").ends_with("--config agents/examples/validation.toml --check\n"),
        "{}",
        runner.file("ran")
    );
    runner.set("AGENTS", "reporting collecting");
    let said = runner.run(script, &["validation"]).await;
    assert!(said.status == Some(0) && said.text.contains("was not asked for"), "{}", said.text);
}

#[tokio::test]
async fn a_failed_agent_fails_the_job_and_may_run_again_and_one_without_a_token_does_not_run() {
    let mesh = Mesh::start().await;
    let mut runner = Runner::on(&mesh, "validation-agent").await;
    runner.program("postbell-validation", "exit 3");
    let script = ".github/scripts/once-a-day";
    for _ in 0..2 {
        assert_eq!(runner.run(script, &["validation"]).await.status, Some(3), "it gave the day back");
    }
    runner.set("POSTBELL_TOKEN", "");
    std::fs::remove_file(runner.folder.path().join("agents-run")).unwrap();
    let said = runner.run(script, &["validation"]).await;
    assert!(
        said.status == Some(0) && said.text.contains("::notice::validation has no token here"),
        "{}",
        said.text
    );
    assert_eq!(runner.file("agents-run"), "", "by this the job knows that none ran");
}

#[tokio::test]
async fn the_round_trip_leaves_no_agent_behind() {
    let mesh = Mesh::start().await;
    let mut runner = Runner::on(&mesh, "somebody").await;
    runner.set("WITHIN", "30s");
    // An agent that an earlier run left, killed before it could clean up.
    mesh.db.agent("postbell-round-trip").await;
    let said = runner.run("docs/checks/round-trip.sh", &[]).await;
    assert_eq!(said.status, Some(0), "{}", said.text);
    assert_eq!(said.text.matches("acknowledged in").count(), 5, "{}", said.text);
    let left = "select count(*) from agent_registry where agent_id = 'postbell-round-trip'";
    assert_eq!(mesh.db.ask::<i64>(left).await, 0);

    runner.set("POSTBELL_URL", "tcp://127.0.0.1:1");
    let said = runner.run("docs/checks/round-trip.sh", &[]).await;
    assert!(said.status == Some(1) && said.text.contains("cannot be reached"), "{}", said.text);
    assert_eq!(mesh.db.ask::<i64>(left).await, 0, "also where it failed");
}

/// docs/testing-the-mesh.md tests that the checklist passes where the mesh is well.
#[tokio::test]
async fn the_checklist_fails_where_the_mesh_does() {
    let mesh = Mesh::start().await;
    let mut runner = Runner::on(&mesh, "somebody").await;
    if std::process::Command::new("psql").arg("--version").output().is_err() {
        return missing("psql is not installed");
    }
    runner.set("POSTBELL_URL", "tcp://127.0.0.1:1");
    runner.set("HEALTH_URL", &format!("http://{}", mesh.http));
    let said = runner.run("docs/checks/mesh.sh", &[]).await;
    assert_eq!(said.status, Some(1), "{}", said.text);
    for line in [
        "pass  the database is as the broker needs it",
        "FAIL  a message goes through the mesh and back in 5 s",
        "FAIL  plain SQL reaches an agent",
        "FAIL  of two that start the same task, one does it",
        "pass  no notification was lost",
    ] {
        assert!(said.text.contains(line), "{line}: {}", said.text);
    }
    let left = "select count(*) from agent_registry where agent_id like 'check-%'";
    assert_eq!(mesh.db.ask::<i64>(left).await, 0, "its agents are removed");
}

#[tokio::test]
async fn one_issue_is_open_while_the_health_check_fails() {
    let mut runner = Runner::new();
    // A `gh` that remembers one issue, as GitHub would.
    runner.program(
        "gh",
        r#"echo "$1 $2" >> calls
           case "$1 $2" in
             "issue list") if [ -e issue ]; then echo 7; fi ;;
             "issue create") printf '%s\n' "$@" > issue ;;
             "issue close") test "$3" = 7 && rm issue ;;
           esac"#,
    );
    runner.set("GITHUB_REPOSITORY", "a/b");
    runner.set("RUN_URL", "https://example.com/run/1");
    let script = ".github/scripts/health-issue";
    runner.set("RESULT", "success");
    assert_eq!(runner.run(script, &[]).await.status, Some(0));
    runner.set("RESULT", "failure");
    for _ in 0..2 {
        let said = runner.run(script, &[]).await;
        assert_eq!(said.status, Some(0), "{}", said.text);
    }
    assert!(runner.file("issue").contains("https://example.com/run/1"), "{}", runner.file("issue"));
    runner.set("RESULT", "success");
    assert_eq!(runner.run(script, &[]).await.status, Some(0));
    assert_eq!(runner.file("issue"), "");
    let calls = runner.file("calls");
    assert_eq!(
        (calls.matches("issue create").count(), calls.matches("issue close").count()),
        (1, 1),
        "{calls}"
    );
    runner.set("RESULT", "cancelled");
    assert_eq!(runner.run(script, &[]).await.status, Some(64));
}

#[tokio::test]
async fn a_tag_must_be_the_version_of_all_that_is_released() {
    let runner = Runner::new();
    let tag = concat!("v", env!("CARGO_PKG_VERSION"));
    let said = runner.run(".github/scripts/same-version", &[tag]).await;
    assert_eq!(said.status, Some(0), "{}", said.text);
    assert_eq!(runner.run(".github/scripts/same-version", &["v99.0.0"]).await.status, Some(1));
}
