//! Agents' own measurements, in Prometheus.

use crate::harness::migrated;
use crate::mesh::{Mesh, get};

const INSERT: &str =
    "insert into agent_metrics (agent_id, metric_type, metric_name, metric_value, recorded_at) values";

async fn series(mesh: &Mesh) -> Vec<String> {
    let text = get(mesh.http, "/metrics").await.1;
    let mut lines: Vec<_> =
        text.lines().filter(|l| l.starts_with("postbell_agent_metric{")).map(str::to_owned).collect();
    lines.sort();
    lines
}

async fn until_series(mesh: &Mesh, expected: &[&str]) {
    let waiting = async {
        while series(mesh).await != expected {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(crate::mesh::PATIENCE, waiting).await.is_err() {
        panic!("expected {expected:#?}, found {:#?}", series(mesh).await);
    }
}

#[tokio::test]
async fn the_latest_value_of_each_agent_and_name_is_exported() {
    let db = migrated().await;
    let sql = db.sql().await;
    let rows = format!(
        "{INSERT} ('a', 'gauge', 'records', 1, now() - interval '2 minutes'), ('a', 'gauge', 'records', 2.5, now() - interval '1 minute'),
                  ('a', 'gauge', 'records', 1, now() - interval '3 minutes'), ('b', 'gauge', 'records', 7, now()),
                  ('a', 'gauge', 'nothing', null, now()), ('a', 'gauge', 'large', 1e400, now()), ('a', 'gauge', 'odd', 'NaN', now()),
                  ('a', 'gauge', 'stale', 1, now() - interval '16 minutes'), ('a', 'gauge', 'ahead', 1, now() + interval '1 hour')"
    );
    sql.batch_execute(&rows).await.unwrap();
    let mesh = Mesh::on(db, &[]).await;
    let first = [
        "postbell_agent_metric{agent=\"a\",name=\"records\"} 2.5",
        "postbell_agent_metric{agent=\"b\",name=\"records\"} 7",
    ];
    until_series(&mesh, &first).await;
    // A later value replaces an earlier one; a value that was committed late does not.
    let later = format!(
        "{INSERT} ('a', 'gauge', 'records', 3, now()), ('a', 'gauge', 'records', 9, now() - interval '90 seconds'),
                  ('c', 'gauge', 'new', -1, now())"
    );
    sql.batch_execute(&later).await.unwrap();
    let second = [
        "postbell_agent_metric{agent=\"a\",name=\"records\"} 3",
        "postbell_agent_metric{agent=\"b\",name=\"records\"} 7",
        "postbell_agent_metric{agent=\"c\",name=\"new\"} -1",
    ];
    until_series(&mesh, &second).await;
}

#[tokio::test]
async fn what_is_too_much_is_not_exported_but_counted() {
    let db = migrated().await;
    let many = "insert into agent_metrics (agent_id, metric_type, metric_name, metric_value)
                select 'a', 'gauge', 'm' || i, i from generate_series(1, 1234) i";
    db.sql().await.batch_execute(many).await.unwrap();
    let mesh = Mesh::on(db, &[]).await;
    mesh.until_metric("postbell_agent_metrics_dropped", |n| n == 234.0).await;
    assert_eq!(series(&mesh).await.len(), 1_000);
}
