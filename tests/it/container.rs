//! The files that deploy the broker agree with the broker: Dockerfile, compose.yaml, railway.json,
//! .railway/railway.ts. Whether they are valid by their own schemas is checked by .ci/deploy-files, which needs tools
//! from package registries.

use std::fs;
use std::path::Path;

use futures_util::future::join_all;
use postbell::broker;
use postbell::broker::config::{DRAIN, HTTP, LISTEN, POOL_SIZE};
use postbell_client::Outgoing;
use postbell_client::message::MessageType;
use serde_json::Value;

use crate::harness::number;
use crate::mesh::{Mesh, get, next};

fn text(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file))
        .unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn exists(path: &str) -> bool {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists()
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap()
}

/// A build without a member's manifest fails, and only where somebody builds an image.
#[test]
fn the_dockerfile_knows_every_member_of_the_workspace() {
    let (manifest, dockerfile, ignore) = (text("Cargo.toml"), text("Dockerfile"), text(".dockerignore"));
    let members = manifest.lines().find_map(|l| l.strip_prefix("members = [")).unwrap();
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).filter(|m| *m != ".").collect();
    assert!(!members.is_empty());
    for member in members {
        assert!(dockerfile.contains(&format!("COPY {member}/Cargo.toml {member}/")), "{member}");
        assert!(ignore.contains(&format!("\n!{member}/Cargo.toml")), "{member}");
    }
}

/// Every source of the packages that become the command, and every file that one of them includes.
#[test]
fn the_dockerfile_copies_whatever_is_built_in() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().unwrap();
    let (dockerfile, ignore) = (text("Dockerfile"), text(".dockerignore"));
    let copied: Vec<&str> = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|from| !from.starts_with("--"))
        .collect();
    let is_there = |file: &Path| {
        copied.iter().any(|from| file.starts_with(from) && ignore.lines().any(|l| l == format!("!{from}")))
    };
    let mut missing = Vec::new();
    let mut included_files = 0;
    let mut left: Vec<_> =
        ["src", "sql", "triggers", "clients/rust/src", "crates/engine/src"].map(|f| root.join(f)).into();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let mut needed = vec![path.clone()];
        let source = fs::read_to_string(&path).unwrap_or_default();
        let words = ["include_str!(\"", "include_bytes!(\""];
        for included in words.iter().flat_map(|word| source.split(word).skip(1)) {
            let included = path.parent().unwrap().join(included.split('"').next().unwrap());
            needed.push(included.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", included.display())));
            included_files += 1;
        }
        missing.extend(needed.into_iter().filter(|file| !is_there(file.strip_prefix(&root).unwrap())));
    }
    assert!(included_files > 0, "sql is built in");
    assert!(missing.is_empty(), "not copied, or not in the context: {missing:?}");
}

#[test]
fn ports_are_the_brokers_own() {
    let dockerfile = text("Dockerfile");
    let (agents, http) = (port(LISTEN.default), port(HTTP.default));
    assert!(dockerfile.contains(&format!("EXPOSE {agents} {http}\n")));
    assert!(dockerfile.contains(&format!("ENV POSTBELL_LISTEN=[::]:{agents} POSTBELL_HTTP=[::]:{http}\n")));
    let railway = text(".railway/railway.ts");
    assert!(
        railway.contains(&format!("AGENTS_PORT = {agents};"))
            && railway.contains(&format!("HTTP_PORT = {http};"))
    );
    let compose = text("compose.yaml");
    assert!(compose.contains(&format!(":{agents}\"")) && compose.contains(&format!(":{http}\"")));
    assert!(text("compose/prometheus.yml").contains(&format!("[\"broker-a:{http}\", \"broker-b:{http}\"]")));
}

/// A broker that is killed before it has sent its agents away would leave them to time out.
#[test]
fn whoever_stops_a_broker_waits_for_its_drain() {
    let drain: u64 = DRAIN.default.parse().unwrap();
    let railway: Value = serde_json::from_str(&text("railway.json")).unwrap();
    let draining = railway["deploy"]["drainingSeconds"].as_u64().expect("a number: Railway takes no text");
    assert!(draining > drain, "railway.json");
    let of = |file: &str, before: &str| {
        let text = text(file);
        let rest = text.split(before).nth(1).unwrap_or_else(|| panic!("{file} has no {before}")).to_owned();
        rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect::<String>()
    };
    assert_eq!(of(".railway/railway.ts", "drainingSeconds:"), draining.to_string());
    assert_eq!(of(".railway/railway.ts", "POSTBELL_DRAIN_SECONDS:"), drain.to_string());
    assert!(of("compose.yaml", "stop_grace_period:").parse::<u64>().unwrap() > drain);
}

#[test]
fn both_files_for_railway_say_the_same_and_that_one_ends() {
    let legacy: Value = serde_json::from_str(&text("railway.json")).unwrap();
    let new = text(".railway/railway.ts");
    let deploy = &legacy["deploy"];
    for (said, key) in [
        (format!("healthcheck: {}", deploy["healthcheckPath"]), "healthcheck"),
        (format!("healthcheckTimeout: {}", deploy["healthcheckTimeout"]), "timeout"),
        (format!("preDeploy: {}", deploy["preDeployCommand"][0]), "pre-deploy"),
        (format!("restartPolicyType: {}", deploy["restartPolicyType"]), "restart"),
        (format!("overlapSeconds: {}", deploy["overlapSeconds"]), "overlap"),
        (format!("dockerfilePath: {}", legacy["build"]["dockerfilePath"]), "Dockerfile"),
    ] {
        assert!(new.contains(&said), "{key}: {said}");
    }
    for file in ["railway.json", ".railway/railway.ts", "docs/railway.md"] {
        assert!(text(file).contains("2026-12-01"), "{file} does not say until when railway.json is read");
    }
}

#[test]
fn what_compose_refers_to_exists() {
    let compose = text("compose.yaml");
    let mounts: Vec<(&str, &str)> = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ./"))
        .map(|mount| mount.trim_end_matches(":ro").split_once(':').unwrap())
        .collect();
    assert!(mounts.len() >= 4, "{mounts:?}");
    for (from, _) in &mounts {
        assert!(exists(from), "{from} is mounted and is not there");
    }
    // Files that the containers are told of, by the folders in which they see them.
    let inside = |path: &str| {
        mounts.iter().find_map(|(from, to)| path.strip_prefix(to).map(|rest| format!("{from}{rest}")))
    };
    let home =
        compose.lines().find_map(|l| l.trim().strip_prefix("GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH: "));
    let prometheus = text("compose/prometheus.yml");
    let rules = prometheus.lines().find_map(|l| l.trim().strip_prefix("- /").map(|rest| format!("/{rest}")));
    for told in [home.unwrap().to_owned(), rules.unwrap()] {
        let file = inside(&told).unwrap_or_else(|| panic!("{told} is in no mounted folder"));
        assert!(exists(&file), "{told} is {file}, which is not there");
    }
    let provider = text("compose/grafana/dashboards/postbell.yml");
    let folder = provider.lines().find_map(|l| l.trim().strip_prefix("path: ")).unwrap();
    assert!(inside(folder).is_some_and(|f| exists(&f)), "{folder}");
    // The stage that the tools are built from, and the settings that are given.
    assert!(text("Dockerfile").contains(" AS tools\n") && compose.contains("target: tools"));
}

const OPEN: &str = "select count(*) from pg_stat_activity where datname = current_database()
                    and application_name = 'postbell' and pid <> pg_backend_pid()";

/// docs/supabase.md counts the connections of a broker, because a session pooler has few.
#[tokio::test]
async fn a_broker_opens_no_more_connections_than_the_guide_says() {
    let pool: i64 = POOL_SIZE.default.parse().unwrap();
    let looks = i64::from(broker::LOOKING_ON_SIZE);
    let guide = text("docs/supabase.md");
    assert!(
        guide.contains(&format!(
            "That is **{}** by default, and **{}** while somebody looks",
            pool + 4,
            pool + 4 + looks
        )) && guide.contains(&format!("| {pool}, or "))
    );
    let mesh = Mesh::start().await;
    let sql = mesh.db.client().await;
    // Registered first, since that takes a connection of its own, which is not the broker's.
    let mut tokens = Vec::new();
    for n in 0..20 {
        tokens.push((format!("a{n}"), mesh.db.agent(&format!("a{n}")).await));
    }
    // The broker's connections, the one that counts, and none of the helpers' any more.
    let helpers_left = format!(
        "select count(*) <= {} from pg_stat_activity where application_name = 'postbell' and datname = current_database()",
        pool + 5
    );
    mesh.db.until(&helpers_left).await;
    // All users of the shared connections at once: hellos, sends, a scrape.
    let mut agents = Vec::new();
    for (name, token) in &tokens {
        agents.push(async { mesh.builder(name, token).connect().await.expect("connects") });
    }
    let mut agents = join_all(agents).await;
    let sends = agents
        .iter()
        .zip(&tokens)
        .map(|((client, _), (name, _))| client.send(Outgoing::new(name, MessageType::Data, &1).unwrap()));
    join_all(sends).await.into_iter().for_each(|sent| {
        sent.expect("sent");
    });
    for (_, deliveries) in &mut agents {
        next(deliveries).await.ack_confirmed().await.expect("settled");
    }
    let opened = number(&sql, OPEN).await;
    assert!((4..=pool + 4).contains(&opened), "{opened}");
    // Somebody looks.
    get(mesh.http, "/metrics").await;
    let opened = number(&sql, OPEN).await;
    assert!((5..=pool + 4 + looks).contains(&opened), "{opened}");
}
