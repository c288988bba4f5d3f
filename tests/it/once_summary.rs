//! `postbell once` in a job: its summary says what ran, how it ended, and who else was at it.

use crate::cli::{output, postbell};
use crate::family::Scene;
use crate::mesh::Mesh;

#[tokio::test]
async fn a_job_has_its_summary_however_the_task_went() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let other = mesh.db.agent("other").await;
    let scene = Scene::new();
    let run = async |agent: &str, token: &str, args: &[&str]| {
        let mut command = postbell(&mesh, agent, token, &[&["once"], args].concat());
        command.env("GITHUB_STEP_SUMMARY", scene.path("summary"));
        let code = output(command).await.0;
        (code, std::fs::read_to_string(scene.path("summary")).unwrap_or_default())
    };
    let (code, summary) = run("a", &token, &["night|ly", "--", "sh", "-c", "exit 3; secret"]).await;
    assert_eq!(code, Some(3));
    assert!(summary.contains("### postbell once: night&#124;ly\n"), "{summary}");
    assert!(summary.contains("| sh &#40;2 arguments&#41; | failed"), "{summary}");
    assert!(summary.contains(" | 3 | ") && !summary.contains("secret"), "{summary}");
    let (code, summary) = run("a", &token, &["night|ly", "--", "true"]).await;
    assert!(code == Some(0) && summary.contains("| true | done") && summary.contains(" | 0 | "), "{summary}");
    let (code, summary) = run("other", &other, &["night|ly", "--", "true"]).await;
    assert!(code == Some(0) && summary.contains("| done already, by a | 0 | not run |"), "{summary}");
    assert_eq!(summary.matches("### postbell once").count(), 3, "it is appended to: {summary}");

    let hold = "insert into postbell.locks (key, agent_id, until) values ('held', 'somebody', now() + interval '1 hour')";
    mesh.db.sql().await.batch_execute(hold).await.expect(hold);
    let (code, summary) = run("a", &token, &["held", "--", "true"]).await;
    assert!(
        code == Some(75) && summary.contains("is at it and has the lock") && summary.contains("| 75 |"),
        "{summary}"
    );
    let (code, summary) = run("a", &token, &["nope", "--", "./nope"]).await;
    assert!(code == Some(127) && summary.contains("| 127 |"), "{code:?} {summary}");
}
