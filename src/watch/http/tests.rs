//! Over real sockets, with a client that knows no HTTP: each test shows the bytes that are sent and that come back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::*;
use crate::watch::metrics::{AGENTS_MAX, Metrics};

/// Longer than any test may take: whatever ends within it ended for another reason.
const LONG: Duration = Duration::from_secs(600);

/// A server on a port of its own.
struct Server {
    addr: SocketAddr,
    health: Health,
    metrics: Metrics,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(change: impl FnOnce(&mut HttpState)) -> Self {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).expect("register");
        let health = Health::new();
        let mut state = HttpState::new(registry, health.clone());
        change(&mut state);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("address");
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, state, async { drop(stopped.await) }));
        Self { addr, health, metrics, stop: Some(stop), task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.expect("connect")
    }

    /// Sends the request as it is, and reads until the server ends the connection.
    async fn exchange(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.expect("write");
        read_all(&mut stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.exchange(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await
    }
}

/// Reads until a close or a reset. The guard measures nothing: it makes a test fail whose connection nobody ends.
async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes));
    let _reset_is_an_end_too = read.await.expect("the server ends the connection");
    String::from_utf8(bytes).expect("utf-8")
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").expect("a head").1
}

#[track_caller]
fn starts(response: &str, with: &str) {
    assert!(response.starts_with(with), "{response}");
}

mod hostile;

#[tokio::test]
async fn metrics_are_an_exposition() {
    let server = Server::start(|_| ()).await;
    // Far more text than the connection's buffer holds, and than a socket does.
    let name = "a".repeat(5_000);
    let agents = (0..AGENTS_MAX).map(|i| (format!("{name}{i}"), "pc", true));
    server.metrics.set_agents(agents).expect("agents");
    let response = server.get("/metrics").await;
    starts(&response, "HTTP/1.1 200 OK\r\n");
    assert!(response.contains("content-type: text/plain; version=0.0.4"), "{response}");
    // Each family is explained and typed, in this order, before its samples.
    let mut family = String::new();
    let mut lines = body(&response).lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty());
            let kind = lines.next().and_then(|l| l.strip_prefix(&format!("# TYPE {name} "))).expect("a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
            family = name.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a sample");
            assert!(!family.is_empty() && series.starts_with(&family), "{line} is not of {family}");
            value.parse::<f64>().expect("a number");
        }
    }
    assert!(body(&response).contains("postbell_database_up 0\n"));
    assert!(body(&response).len() > 5_000_000);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = Server::start(|_| ()).await;
    for path in ["/metrics", "/health/live", "/health/ready"] {
        let response = server.exchange(&format!("HEAD {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        assert!(
            response.contains("content-length: ") && !response.contains("content-length: 0"),
            "{response}"
        );
        assert_eq!(body(&response), "");
    }
}

#[tokio::test]
async fn what_is_not_served_is_said() {
    let server = Server::start(|_| ()).await;
    let missing = server.get("/metric").await;
    starts(&missing, "HTTP/1.1 404 ");
    assert!(body(&missing).contains("/metrics"), "{missing}");
    let post = server.exchange("POST /metrics HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\n{}").await;
    starts(&post, "HTTP/1.1 405 ");
    assert!(post.contains("allow: GET, HEAD"), "{post}");
    assert!(body(&post).contains("Only GET"), "{post}");
    starts(&server.exchange("what?\r\n\r\n").await, "HTTP/1.1 400 ");
    starts(&server.get("/health/live?probe=1").await, "HTTP/1.1 200 ");
}

#[tokio::test]
async fn ready_flips_and_says_why() {
    let server = Server::start(|_| ()).await;
    assert_eq!(body(&server.get("/health/live").await), "ok\n");
    let starting = server.get("/health/ready").await;
    starts(&starting, "HTTP/1.1 503 ");
    let json: serde_json::Value = serde_json::from_str(body(&starting)).expect("json");
    assert_eq!(json["ready"], false);
    assert_eq!(json["conditions"][0]["name"], "database");
    assert_eq!(json["conditions"][0]["ok"], false);
    assert!(json["conditions"][0]["message"].as_str().expect("a sentence").ends_with('.'));

    server.health.set_database_up(true);
    server.health.set_listening(true);
    // Ahead of the clock, so that a busy machine cannot make the canary stale.
    server.health.bell_seen(Instant::now() + LONG);
    for path in ["/health", "/health/ready"] {
        let response = server.get(path).await;
        starts(&response, "HTTP/1.1 200 ");
        assert!(response.contains("content-type: application/json"), "{response}");
        assert!(body(&response).starts_with("{\"ready\":true,"), "{response}");
    }
    server.health.set_draining(true);
    starts(&server.get("/health").await, "HTTP/1.1 503 ");
    starts(&server.get("/health/live").await, "HTTP/1.1 200 ");
}

#[tokio::test]
async fn a_slow_client_is_cut() {
    let server = Server::start(|state| {
        state.limits.header_wait = Duration::from_millis(20);
        state.limits.connection_wait = LONG;
    })
    .await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /metrics HTT").await.expect("write");
    // The read ends although the client neither closed nor finished.
    assert!(!read_all(&mut stream).await.contains("200 OK"));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_cut() {
    let server = Server::start(|state| {
        state.limits.connection_wait = Duration::from_millis(20);
        state.limits.header_wait = LONG;
    })
    .await;
    assert_eq!(read_all(&mut server.connect().await).await, "");
}

#[tokio::test]
async fn a_connection_takes_one_request() {
    let server = Server::start(|_| ()).await;
    let one = "GET /health/live HTTP/1.1\r\nhost: test\r\nconnection: keep-alive\r\n\r\n";
    let response = server.exchange(&one.repeat(3)).await;
    assert_eq!(response.matches("HTTP/1.1 ").count(), 1, "{response}");
    assert!(response.contains("connection: close"), "{response}");
}

#[tokio::test]
async fn too_much_head_is_refused() {
    let server = Server::start(|_| ()).await;
    let many = "a: b\r\n".repeat(200);
    starts(&server.exchange(&format!("GET /metrics HTTP/1.1\r\n{many}\r\n")).await, "HTTP/1.1 431 ");
    // More than the buffer holds: the refusal may be lost in the reset, but 200 must not come.
    let mut stream = server.connect().await;
    let long = format!("GET /metrics HTTP/1.1\r\na: {}\r\n\r\n", "b".repeat(1 << 20));
    let _cut_while_writing = stream.write_all(long.as_bytes()).await;
    assert!(!read_all(&mut stream).await.contains("200 OK"));
    starts(&server.get("/health/live").await, "HTTP/1.1 200 ");
}

#[tokio::test]
async fn a_scrape_refreshes_first_one_at_a_time() {
    let runs = Arc::new(AtomicUsize::new(0));
    let at_once = Arc::new(AtomicUsize::new(0));
    let (counted, running) = (runs.clone(), at_once.clone());
    let refresh: Refresh = Arc::new(move || {
        let (counted, running) = (counted.clone(), running.clone());
        Box::pin(async move {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two refreshes at once");
            tokio::task::yield_now().await;
            counted.fetch_add(1, Ordering::SeqCst);
            running.fetch_sub(1, Ordering::SeqCst);
        })
    });
    let server = Server::start(|state| state.refresh = Some(refresh)).await;
    let (a, b) = tokio::join!(server.get("/metrics"), server.get("/metrics"));
    starts(&a, "HTTP/1.1 200 ");
    starts(&b, "HTTP/1.1 200 ");
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    // Only a scrape asks the database.
    server.get("/health").await;
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

/// Sixteen scrapes that come while one refreshes share the next refresh.
#[tokio::test]
async fn scrapes_that_waited_share_a_refresh() {
    let (runs, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (counted, waiting) = (runs.clone(), go_on.clone());
    let refresh: Refresh = Arc::new(move || {
        let (counted, waiting) = (counted.clone(), waiting.clone());
        Box::pin(async move {
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                waiting.notified().await;
            }
        })
    });
    let server = Server::start(|state| {
        state.refresh = Some(refresh);
        state.limits.refresh_wait = LONG;
        state.limits.connection_wait = LONG;
    })
    .await;
    let first = server.get("/metrics");
    let others = async {
        while runs.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let scrapes = futures_util::future::join_all((1..SCRAPES_MAX).map(|_| server.get("/metrics")));
        let (all, ()) = tokio::join!(scrapes, async {
            sleep(Duration::from_millis(100)).await;
            go_on.notify_one();
        });
        all
    };
    let (first, others) = tokio::join!(first, others);
    starts(&first, "HTTP/1.1 200 ");
    others.iter().for_each(|answer| starts(answer, "HTTP/1.1 200 "));
    // Scrapes that came only after the shared refresh had begun may have refreshed once more.
    assert!((2..=3).contains(&runs.load(Ordering::SeqCst)), "{runs:?}");
}

#[tokio::test]
async fn a_refresh_that_hangs_costs_only_its_wait() {
    let refresh: Refresh = Arc::new(|| Box::pin(std::future::pending()));
    let server = Server::start(|state| {
        state.refresh = Some(refresh);
        state.limits.refresh_wait = Duration::from_millis(20);
    })
    .await;
    let response = server.get("/metrics").await;
    starts(&response, "HTTP/1.1 200 ");
    assert!(response.contains("postbell_sessions 0\n"), "{response}");
}

#[tokio::test]
async fn a_stop_finishes_the_request_in_progress() {
    let (started, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (starting, waiting) = (started.clone(), go_on.clone());
    let refresh: Refresh = Arc::new(move || {
        let (starting, waiting) = (starting.clone(), waiting.clone());
        Box::pin(async move {
            starting.notify_one();
            waiting.notified().await;
        })
    });
    let mut server = Server::start(|state| {
        state.refresh = Some(refresh);
        state.limits.header_wait = LONG;
        state.limits.connection_wait = LONG;
        state.limits.refresh_wait = LONG;
        state.limits.grace = LONG;
    })
    .await;
    // Connected first, so it is accepted before the busy one.
    let mut idle = server.connect().await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("write");
    started.notified().await;
    server.stop.take().expect("a stop").send(()).expect("a server");
    // The server does not wait for a client that asked nothing.
    assert_eq!(read_all(&mut idle).await, "");
    go_on.notify_one();
    starts(&read_all(&mut busy).await, "HTTP/1.1 200 ");
    server.task.await.expect("a clean end");
    assert!(TcpStream::connect(server.addr).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let started = Arc::new(Notify::new());
    let starting = started.clone();
    let refresh: Refresh = Arc::new(move || {
        starting.notify_one();
        Box::pin(std::future::pending())
    });
    let mut server = Server::start(|state| {
        state.refresh = Some(refresh);
        state.limits.refresh_wait = LONG;
        state.limits.connection_wait = LONG;
        state.limits.grace = Duration::from_millis(20);
    })
    .await;
    let mut stuck = server.connect().await;
    stuck.write_all(b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("write");
    started.notified().await;
    server.stop.take().expect("a stop").send(()).expect("a server");
    assert_eq!(read_all(&mut stuck).await, "");
    server.task.await.expect("an end");
}
