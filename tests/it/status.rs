//! The status page's API, on a real broker: who may do what, the answers, and the cost of watching.

use std::net::SocketAddr;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use postbell::watch::flow::WATCHERS_MAX;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::command;
use crate::mesh::{Mesh, PATIENCE, insert, next};

pub(crate) const OPERATOR: (&str, &str) = ("authorization", "Bearer an operator's token of a test");
pub(crate) const VIEWER: (&str, &str) = ("authorization", "Bearer a viewer's token of a test");
pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");

/// A broker with both tokens.
pub(crate) async fn mesh(status: &str) -> Mesh {
    Mesh::with(&[
        ("POSTBELL_STATUS", status),
        ("POSTBELL_OPERATOR_TOKEN", "an operator's token of a test"),
        ("POSTBELL_VIEWER_TOKEN", "a viewer's token of a test"),
    ])
    .await
}

pub(crate) async fn ask(
    to: SocketAddr,
    line: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response<Incoming> {
    let socket = TcpStream::connect(to).await.expect("connects");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.expect("HTTP");
    tokio::spawn(async move { drop(connection.await) });
    let (method, path) = line.split_once(' ').expect("a method and a path");
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost:9440");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::from(body.to_owned())).expect("a request");
    timeout(PATIENCE, sender.send_request(request)).await.expect("answers").expect("HTTP")
}

async fn told(answer: Response<Incoming>) -> (u16, Value) {
    let status = answer.status().as_u16();
    let body =
        timeout(PATIENCE, answer.into_body().collect()).await.expect("ends").expect("a body").to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

pub(crate) async fn get(mesh: &Mesh, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    told(ask(mesh.http, &format!("GET {path}"), headers, "").await).await
}

pub(crate) async fn post(mesh: &Mesh, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    told(ask(mesh.http, &format!("POST {path}"), headers, &body.to_string()).await).await
}

/// The stream of events.
struct Stream {
    body: Incoming,
    text: String,
}

impl Stream {
    async fn open(mesh: &Mesh, headers: &[(&str, &str)]) -> Self {
        let answer = ask(mesh.http, "GET /api/events", headers, "").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { body: answer.into_body(), text: String::new() }
    }

    /// The next event of this name that is as wanted.
    async fn until(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let search = async {
            loop {
                while let Some((block, rest)) = self.text.split_once("\n\n") {
                    let found = block
                        .strip_prefix(&format!("event: {name}\ndata: "))
                        .map(|data| serde_json::from_str::<Value>(data).expect("JSON"));
                    self.text = rest.to_owned();
                    if let Some(value) = found.filter(&wanted) {
                        return value;
                    }
                }
                let frame = self.body.frame().await.expect("an open stream").expect("a frame");
                self.text.push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("UTF-8"));
            }
        };
        timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("no such {name}"))
    }

    /// Waits for its end.
    async fn end(mut self) {
        let ended = async { while self.body.frame().await.is_some_and(|frame| frame.is_ok()) {} };
        timeout(PATIENCE, ended).await.expect("an end");
    }
}

fn agent<'a>(mesh: &'a Value, name: &str) -> &'a Value {
    let agents = mesh["agents"].as_array().expect("agents");
    agents.iter().find(|agent| agent["agent"] == name).unwrap_or(&Value::Null)
}

pub(crate) async fn bury(mesh: &Mesh, inbox: &str, count: i32) {
    let bury = format!(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
         select 'x', '{inbox}', 'command', jsonb_build_object('secret', n) from generate_series(1, {count}) n;
         update postbell.deliveries set state = 'dead', dead_at = now(), attempt = 10, last_error = 'no such county'
         where inbox = '{inbox}' and state = 'ready'"
    );
    mesh.db.sql().await.batch_execute(&bury).await.expect("dead letters");
}

#[tokio::test]
async fn the_mesh_is_told_as_it_is() {
    let mesh = mesh("local").await;
    let sql = mesh.db.sql().await;
    let (_client, mut deliveries) = mesh.connect("worker", 1).await;
    mesh.db.agent("away").await;
    insert(&sql, "worker", 3, "1").await;
    let _in_flight = next(&mut deliveries).await;
    insert(&sql, "away", 7, "2").await;
    insert(&sql, "misspelled", 7, "3").await;
    bury(&mesh, "gone", 2).await;
    mesh.db.until("select status = 'online' from agent_registry where agent_id = 'worker'").await;

    let (status, told) = get(&mesh, "/api/mesh", &[]).await;
    assert_eq!(status, 200);
    let worker = agent(&told, "worker");
    assert_eq!(
        (&worker["standing"], &worker["waiting"], &worker["in_flight"]),
        (&json!("ok"), &json!(1), &json!(1))
    );
    let away = agent(&told, "away");
    assert_eq!((&away["standing"], &away["waiting"]), (&json!("stranded"), &json!(1)));
    assert_eq!(told["unknown"][0], json!({"inbox": "misspelled", "waiting": 1}));
    assert_eq!(
        (&told["dead"], &told["broker"]["sessions"], &told["broker"]["in_flight"]),
        (&json!(2), &json!(1), &json!(1))
    );
    assert_eq!((&told["depth"][2]["ready"], &told["depth"][6]["ready"]), (&json!(1), &json!(2)));
    assert_eq!((&told["delivery"]["count"], &told["delivery"]["within_target"]), (&json!(1), &json!(1)));
    let environment = &told["environments"][0];
    assert_eq!(
        (&environment["agents"], &environment["ok"], &environment["stranded"]),
        (&json!(2), &json!(1), &json!(1))
    );
    assert_eq!((&told["brokers"][0]["this"], &told["brokers"][0]["alive"]), (&json!(true), &json!(true)));
    let flow = told["flow"].as_array().expect("a flow");
    assert!(flow.contains(&json!({"from": "sql", "to": "worker", "messages": 1, "failed": 0})), "{flow:?}");
    assert_eq!(told["verdict"]["level"], "bad");
    // On a busy machine the broker's canary may be late at this moment, which is told as well.
    let findings = told["verdict"]["findings"].as_array().expect("findings");
    let stranded = "away is offline while a message waits for it.";
    assert!(findings.iter().any(|finding| finding["sentence"] == stranded), "{findings:?}");
}

#[tokio::test]
async fn what_passes_is_told_live_with_its_message_and_no_content() {
    let mesh = mesh("local").await;
    let sql = mesh.db.sql().await;
    let (_client, mut deliveries) = mesh.connect("worker", 5).await;
    let mut stream = Stream::open(&mesh, &[]).await;
    stream.until("mesh", |mesh| !agent(mesh, "worker").is_null()).await;
    insert(&sql, "worker", 3, r#"{"secret": 1}"#).await;
    let delivery = next(&mut deliveries).await;
    let is = |step: &'static str| {
        move |frame: &Value| {
            frame["events"].as_array().is_some_and(|events| events.iter().any(|e| e["step"] == step))
        }
    };
    let pushed = stream.until("flow", is("pushed")).await;
    let event = &pushed["events"][0];
    assert_eq!(
        (&event["from"], &event["to"], &event["type"]),
        (&json!("sql"), &json!("worker"), &json!("data"))
    );
    assert_eq!((&event["priority"], &event["attempt"]), (&json!(3), &json!(1)));
    assert_eq!(event["id"], delivery.id().to_string());
    assert!(!pushed.to_string().contains("secret"));
    delivery.fail("the secret county is locked", Some(std::time::Duration::ZERO)).await;
    let failed = stream.until("flow", is("failed")).await;
    assert!(!failed.to_string().contains("county"), "a reason may quote a payload");
    next(&mut deliveries).await.ack_confirmed().await.expect("acknowledged");
    let acked = stream.until("flow", is("acked")).await;
    let acked =
        acked["events"].as_array().and_then(|e| e.iter().find(|e| e["step"] == "acked")).expect("an ack");
    assert_eq!((&acked["from"], &acked["attempt"]), (&json!("sql"), &json!(2)));
    assert!(acked["ms"].is_number());
}

#[tokio::test]
async fn a_life_is_told_whole_and_its_content_to_those_who_may_read() {
    let mesh = mesh("local").await;
    let sql = mesh.db.sql().await;
    let (_client, mut deliveries) = mesh.connect("the worker/1", 5).await;
    insert(&sql, "the worker/1", 3, r#"{"secret": 1}"#).await;
    next(&mut deliveries).await.fail("county c12 is locked", Some(std::time::Duration::ZERO)).await;
    next(&mut deliveries).await.ack_confirmed().await.expect("acknowledged");
    insert(&sql, "the worker/1", 3, "2").await;
    let _held = next(&mut deliveries).await;

    let path = "/api/agents/the%20worker%2F1/messages";
    let (status, told) = get(&mesh, path, &[VIEWER]).await;
    assert_eq!((status, &told["agent"]), (200, &json!("the worker/1")));
    let [newest, oldest] = told["messages"].as_array().expect("messages").as_slice() else {
        panic!("{told}")
    };
    let steps = |message: &Value| -> Vec<(String, i64)> {
        let moments = message["moments"].as_array().expect("moments").iter();
        moments
            .map(|m| {
                (m["step"].as_str().expect("a step").to_owned(), m["attempt"].as_i64().expect("a number"))
            })
            .collect()
    };
    let step = |step: &str, attempt| (step.to_owned(), attempt);
    assert_eq!(steps(oldest), [step("pushed", 1), step("failed", 1), step("pushed", 2), step("acked", 2)]);
    assert_eq!((&oldest["status"], &oldest["payload"]), (&json!("processed"), &json!({"secret": 1})));
    assert_eq!(oldest["moments"][1]["reason"], "county c12 is locked");
    assert_eq!(steps(newest), [step("pushed", 1)]);
    assert_eq!((&newest["delivery"]["state"], &newest["delivery"]["open"]), (&json!("ready"), &json!(1)));

    let (_, stripped) = get(&mesh, path, &[]).await;
    assert_eq!(steps(&stripped["messages"][1]).len(), 4);
    let text = stripped.to_string();
    assert!(!text.contains("secret") && !text.contains("c12") && !text.contains("payload"), "{text}");
    assert_eq!(get(&mesh, "/api/agents/%ff/messages", &[VIEWER]).await.0, 400);
    assert_eq!(get(&mesh, "/api/agents/nobody/messages?limit=x", &[VIEWER]).await.0, 400);
}

#[tokio::test]
async fn watchers_are_bounded_and_leave_no_trace() {
    let mesh = mesh("local").await;
    mesh.until_ready(true).await;
    let mut all = Vec::new();
    for _ in 0..WATCHERS_MAX {
        all.push(Stream::open(&mesh, &[]).await);
    }
    let refused = ask(mesh.http, "GET /api/events", &[], "").await;
    assert_eq!(
        (refused.status(), refused.headers()["retry-after"].as_bytes()),
        (StatusCode::SERVICE_UNAVAILABLE, &b"2"[..])
    );
    assert_eq!(crate::mesh::get(mesh.http, "/health/ready").await.0, 200, "there is room for a health check");
    drop(all);
    // A client that left gives its place to another.
    let come = async {
        while ask(mesh.http, "GET /api/events", &[], "").await.status() != StatusCode::OK {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, come).await.expect("a place");
}

#[tokio::test]
async fn a_broker_that_stops_ends_its_streams() {
    let mesh = mesh("local").await;
    let mut stream = Stream::open(&mesh, &[]).await;
    stream.until("mesh", |_| true).await;
    let (_, stopped) = mesh.stop().await;
    assert!(!stopped.broken);
    stream.end().await;
}

#[tokio::test]
async fn each_of_several_brokers_tells_its_own_and_says_so() {
    let one = mesh("local").await;
    let other = Mesh::on(one.db.clone(), &[("POSTBELL_NAME", "other")]).await;
    let sql = one.db.sql().await;
    let (_client, mut deliveries) = one.connect("worker", 5).await;
    insert(&sql, "worker", 3, "1").await;
    let _in_flight = next(&mut deliveries).await;
    one.db.until("select status = 'online' from agent_registry where agent_id = 'worker'").await;
    let (here, there) = (get(&one, "/api/mesh", &[]).await.1, get(&other, "/api/mesh", &[]).await.1);
    for (told, name) in [(&here, "postbell"), (&there, "other")] {
        let brokers = told["brokers"].as_array().expect("brokers");
        assert_eq!(brokers.iter().filter(|broker| broker["alive"] == true).count(), 2, "{told}");
        let this: Vec<_> = brokers.iter().filter(|b| b["this"] == true).map(|b| b["name"].clone()).collect();
        assert_eq!(this, [name]);
        let worker = agent(told, "worker");
        assert_eq!(
            (&worker["standing"], &worker["waiting"], &worker["broker"]),
            (&json!("ok"), &json!(1), &json!("postbell"))
        );
    }
    assert_eq!((&agent(&here, "worker")["in_flight"], &here["delivery"]["count"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&agent(&there, "worker")["in_flight"], &there["delivery"]["count"]),
        (&Value::Null, &json!(0))
    );
}

#[tokio::test]
async fn the_page_is_served_under_a_policy_that_runs_nothing_else() {
    let mesh = mesh("local").await;
    let page = ask(mesh.http, "GET /", &[], "").await;
    let policy = page.headers()["content-security-policy"].to_str().expect("text").to_owned();
    for part in [
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let html = page.into_body().collect().await.expect("a body").to_bytes();
    let html = std::str::from_utf8(&html).expect("UTF-8");
    for path in html.split("=\"/page/").skip(1).map(|rest| rest.split('"').next().expect("a path")) {
        assert_eq!(ask(mesh.http, &format!("GET /page/{path}"), &[], "").await.status(), 200, "{path}");
    }
    assert_eq!(ask(mesh.http, "POST /", &[], "").await.status(), 405);
    assert_eq!(get(&mesh, "/api/nothing", &[]).await.0, 404);
    assert_eq!(post(&mesh, "/api/mesh", &[], &json!({})).await.0, 405);
}

#[tokio::test]
async fn tail_follows_and_filters_and_top_wants_a_terminal() {
    let mesh = mesh("token").await;
    let sql = mesh.db.sql().await;
    let (_a, mut a) = mesh.connect("alice", 5).await;
    let (_b, mut b) = mesh.connect("bob", 5).await;
    let mut tail = tokio::process::Command::new(env!("CARGO_BIN_EXE_postbell"))
        .args([
            "tail",
            "--json",
            "--agent",
            "bob",
            "--priority",
            "3",
            "--url",
            &format!("http://{}", mesh.http),
        ])
        .env_clear()
        .env("POSTBELL_VIEWER_TOKEN", "a viewer's token of a test")
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("tail runs");
    let mut lines = {
        use tokio::io::AsyncBufReadExt;
        tokio::io::BufReader::new(tail.stdout.take().expect("its lines")).lines()
    };
    // The stream has begun once something comes; until then each message is sent again.
    let first = async {
        loop {
            insert(&sql, "alice", 1, "1").await;
            insert(&sql, "bob", 9, "2").await;
            insert(&sql, "bob", 2, "3").await;
            next(&mut a).await.ack().await;
            next(&mut b).await.ack().await;
            next(&mut b).await.ack().await;
            let wait = std::time::Duration::from_millis(300);
            if let Ok(line) = timeout(wait, lines.next_line()).await {
                return line.expect("reads").expect("a line");
            }
        }
    };
    let line = timeout(PATIENCE, first).await.expect("a line");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&line["to"], &line["priority"]), (&json!("bob"), &json!(2)));
    assert!(line["at"].is_string() && line.get("ago_ms").is_none());

    let url = format!("http://{}", mesh.http);
    let refused = command(&mesh.db, &["tail", "--url", &url]).await;
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("POSTBELL_VIEWER_TOKEN"), "{}", refused.stderr);
    let wrong = command(&mesh.db, &["tail", "--url", "tcp://localhost:7440"]).await;
    assert_eq!(wrong.status, 64, "{}", wrong.stderr);
    let top = command(&mesh.db, &["top", "--url", &url]).await;
    assert!(top.status == 1 && top.stderr.contains("needs a terminal"), "{}", top.stderr);
}
