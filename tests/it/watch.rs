//! Every metric that dashboards/ asks Prometheus for is there, and says what it should. The tests use Debian's
//! `prometheus`; if that is missing, those that need it say so.

mod alerts;
mod dashboards;
mod prometheus;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use postbell::store::agents::{self, NewAgent};
use postbell_client::message::MessageType;
use postbell_client::{Client, Deliveries, Outgoing};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::harness::migrated;
use crate::mesh::{Mesh, PATIENCE, get};
use crate::require::missing;
use dashboards::{Dashboard, metrics_of};
use prometheus::Prometheus;

/// Exported and looked at nowhere, with the reason.
const UNUSED: &[(&str, &str)] =
    &[("process_virtual_memory_bytes", "what is resident counts against a container's limit")];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards")
}

/// Runs a tool in the folder; false, with a line about it, if the tool is not installed.
#[track_caller]
fn passes(tool: &str, args: &[&str]) -> bool {
    match Command::new(tool).args(args).current_dir(folder()).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].map(|o| String::from_utf8_lossy(&o).into_owned());
            assert!(output.status.success(), "{tool} {}:\n{}", args.join(" "), said.concat());
            true
        }
        Err(e) => {
            missing(&format!("{tool} is not installed here ({e})"));
            false
        }
    }
}

#[test]
fn the_dashboards_are_what_their_source_makes() {
    passes("python3", &["build.py", "--check"]);
}

/// Grafana's own types, by npm: `.ci/run` installs them.
#[test]
fn the_dashboards_are_of_grafanas_schema() {
    let check = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/grafana");
    if !check.join("node_modules/@grafana/schema").exists() {
        return missing("tests/grafana has no node_modules; npm install --prefix tests/grafana");
    }
    passes("node", &[check.join("check.mjs").to_str().unwrap()]);
}

#[test]
fn the_rules_are_good_and_each_alert_fires_and_stays_quiet_when_it_should() {
    if !passes("promtool", &["check", "rules", "alerts.yml"]) {
        return;
    }
    let files = alerts::test_files();
    let mut args = vec!["test", "rules"];
    args.extend(files.iter().map(|f| f.to_str().unwrap()));
    passes("promtool", &args);
}

/// A mesh of three environments on two brokers: messages that succeed, that fail, that wait, and that are dead.
async fn busy_mesh() -> (Mesh, Mesh, Vec<Client>, JoinSet<()>) {
    let db = migrated().await;
    let brokers = (Mesh::on(db.clone(), &[]).await, Mesh::on(db.clone(), &[]).await);
    let mut clients = Vec::new();
    let mut working = JoinSet::new();
    for (name, environment, broker) in
        [("planner", "pc", &brokers.0), ("worker", "railway", &brokers.1), ("reporter", "github", &brokers.0)]
    {
        let new = NewAgent { agent_id: name, environment: Some(environment), ..NewAgent::default() };
        let token = agents::add(&db.pool(), &new).await.expect("added").token.reveal().to_owned();
        let (client, deliveries) = broker.builder(name, &token).window(10).connect().await.expect("connects");
        working.spawn(work(deliveries));
        clients.push(client);
    }
    let written = "insert into agent_metrics (agent_id, metric_type, metric_name, metric_value) values ('worker', 'g', 'backlog', 7);
                   insert into agent_alerts (agent_id, alert_type, severity, message) values ('worker', 't', 'high', 'm')";
    db.sql().await.batch_execute(written).await.expect("what agents write");
    let away = NewAgent { agent_id: "away", ..NewAgent::default() };
    agents::add(&db.pool(), &away).await.expect("added");
    (brokers.0, brokers.1, clients, working)
}

/// Handles messages; of each ten, one fails and another is refused.
async fn work(mut deliveries: Deliveries) {
    let mut handled = 0;
    while let Some(delivery) = deliveries.next().await {
        handled += 1;
        match handled % 10 {
            0 => delivery.dead("no such county").await,
            5 => delivery.fail("the county is locked", Some(Duration::ZERO)).await,
            _ => delivery.ack().await,
        }
    }
}

/// Sends in rounds for as long as it lives.
async fn send(client: Client, to: &'static [&'static str]) {
    loop {
        for to in to {
            let message = Outgoing::new(to, MessageType::Data, &1).expect("JSON");
            // The mesh may be stopping.
            let _ = client.send(message).await;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn every_panel_shows_something_and_every_metric_is_looked_at() {
    let (one, two, clients, mut tasks) = busy_mesh().await;
    let Some(prometheus) = Prometheus::start(&[one.http, two.http], &folder().join("alerts.yml")).await
    else {
        return missing("prometheus is not installed here (Debian: apt-get install prometheus)");
    };
    tasks.spawn(send(clients[0].clone(), &["worker", "away"]));
    tasks.spawn(send(clients[1].clone(), &["planner", "reporter"]));
    let dashboards = ["postbell-broker", "postbell-mesh"].map(Dashboard::read);

    all_show(&prometheus, &dashboards).await;
    every_metric_is_looked_at(&prometheus, &dashboards, [one.http, two.http]).await;
    // A panel that shows something may still show it wrongly, so some values are compared.
    let value = async |query: &str| prometheus.query(query).await[0];
    assert_eq!(value("sum(postbell_broker_ready)").await, 2.0);
    assert_eq!(value("max(postbell_agents_known)").await, 4.0);
    assert!(value("max(postbell_agent_waiting{agent='away'})").await > 0.0);
    assert!(value("max(postbell_dead_letters{agent='worker'})").await > 0.0);
    assert!(value("max(postbell_flow_total{from_environment='pc',to_environment='railway'})").await > 0.0);
    assert_eq!(value("max(postbell_flow_total{from_environment='github',to_environment='pc'})").await, 0.0);
    assert_eq!(value("max(postbell_agents{environment='railway',status='online'})").await, 1.0);
    assert_eq!(value("max(postbell_alerts{severity='high',status='active'})").await, 1.0);
    assert_eq!(value("max(postbell_agent_metric{agent='worker',name='backlog'})").await, 7.0);
    tasks.shutdown().await;
}

/// Waits until every panel shows something; the slowest is read from the database every 15 s, and has to be read twice.
async fn all_show(prometheus: &Prometheus, dashboards: &[Dashboard]) {
    let mut empty: Vec<_> = dashboards.iter().flat_map(Dashboard::queries).collect();
    let all = async {
        while !empty.is_empty() {
            let mut still = Vec::new();
            for (panel, query) in &empty {
                if prometheus.query(query).await.is_empty() {
                    still.push((panel.clone(), query.clone()));
                }
            }
            empty = still;
            sleep(Duration::from_millis(500)).await;
        }
    };
    let _some_may_be_left = timeout(PATIENCE, all).await;
    assert!(empty.is_empty(), "these show nothing: {empty:#?}");
    for (name, values) in dashboards.iter().flat_map(Dashboard::variables) {
        assert!(
            !prometheus.label_values(&values).await.is_empty(),
            "nothing to choose for {name}: {values:?}"
        );
    }
}

/// Every metric that is asked for is exported, and every exported one is asked for.
async fn every_metric_is_looked_at(
    prometheus: &Prometheus,
    dashboards: &[Dashboard],
    brokers: [SocketAddr; 2],
) {
    let rules = prometheus.rules().await;
    alerts::check(&rules);
    let in_rules = rules.iter().map(|rule| rule["query"].as_str().expect("a query").to_owned());
    let asked: Vec<String> = dashboards.iter().flat_map(Dashboard::expressions).chain(in_rules).collect();
    let used: BTreeSet<String> = asked.iter().flat_map(|e| metrics_of(e)).collect();
    let recorded = rules.iter().filter(|rule| rule["type"] == "recording");
    let recorded: BTreeSet<&str> = recorded.map(|rule| rule["name"].as_str().expect("a name")).collect();
    let mut exported = BTreeSet::new();
    for broker in brokers {
        exported.extend(families(&get(broker, "/metrics").await.1));
    }
    let unknown: Vec<_> =
        used.iter().filter(|m| !exported.contains(*m) && !recorded.contains(&***m)).collect();
    assert!(unknown.is_empty(), "asked for, and exported by nobody: {unknown:?}");
    let listed: BTreeSet<_> = UNUSED.iter().map(|(name, _)| (*name).to_owned()).collect();
    let unused: Vec<_> = exported.difference(&used).filter(|m| !listed.contains(*m)).collect();
    assert!(unused.is_empty(), "exported and looked at nowhere: {unused:?}");
    let stale: Vec<_> = listed.iter().filter(|m| used.contains(*m) || !exported.contains(*m)).collect();
    assert!(stale.is_empty(), "listed as unused though it is used, or is no more: {stale:?}");
}

/// The families of an exposition.
fn families(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
}
