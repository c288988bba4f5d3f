//! A broker on a database and ports of its own, and its counterparts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use postbell::broker::config::Config;
use postbell::broker::{self, Stopped};
use postbell::store::agents::{self, NewAgent};
use postbell_client::{Builder, Client, Deliveries};
use prometheus::Registry;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;

use crate::harness::{TestDb, migrated};

/// No event takes this long unless it never comes. A slow machine must not fail a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

impl TestDb {
    /// A plain SQL client, as any producer has.
    pub(crate) async fn sql(&self) -> tokio_postgres::Client {
        sql_at(&self.url()).await
    }

    /// Registers an agent and gives its token.
    pub(crate) async fn agent(&self, name: &str) -> String {
        self.agent_as(name, None).await
    }

    /// The same, with a role.
    pub(crate) async fn agent_as(&self, name: &str, role: Option<&str>) -> String {
        let agent = NewAgent { agent_id: name, role, ..NewAgent::default() };
        agents::add(&self.pool(), &agent).await.expect("added").token.reveal().to_owned()
    }

    /// One value of one row.
    pub(crate) async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, query: &str) -> T {
        self.sql().await.query_one(query, &[]).await.expect(query).get(0)
    }

    /// Waits until a query says true.
    pub(crate) async fn until(&self, query: &str) {
        let sql = self.sql().await;
        let waiting = async {
            while !sql.query_one(query, &[]).await.expect(query).get::<_, Option<bool>>(0).unwrap_or(false) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never true: {query}"));
    }
}

/// A plain SQL client somewhere.
pub(crate) async fn sql_at(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

/// A broker on a database of its own.
pub(crate) struct Mesh {
    pub(crate) db: TestDb,
    pub(crate) agents: SocketAddr,
    pub(crate) http: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Stopped>,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A broker with some settings changed.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        Self::on(migrated().await, settings).await
    }

    pub(crate) async fn on(db: TestDb, settings: &[(&str, &str)]) -> Self {
        let mut all: HashMap<String, String> =
            settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        all.insert("DATABASE_URL".to_owned(), db.url());
        all.entry("POSTBELL_DRAIN_SECONDS".to_owned()).or_insert("5".to_owned());
        // Every test holds however messages are routed: `POSTBELL_TEST_ROUTING=always` runs them all the other way.
        if let Ok(routing) = std::env::var("POSTBELL_TEST_ROUTING") {
            all.entry("POSTBELL_ROUTING".to_owned()).or_insert(routing);
        }
        let config = Config::parse(|name| all.get(name).cloned()).expect("good settings");
        broker::check(&config).await.expect("the database serves");
        // Every statement keeps these invariants. They are checked here alone, because in production each insert
        // would pay for them.
        let guard = "alter table postbell.deliveries add check ((state = 'scheduled') = (due_at is not null)),
                         add check ((state = 'dead') = (dead_at is not null)), add check (priority between 0 and 10)";
        let sql = db.sql().await;
        sql.batch_execute("set default_transaction_read_only = off").await.expect("set");
        sql.batch_execute(guard).await.expect("the rows in it keep them");
        let agents_port = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let http_port = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let (agents, http) =
            (agents_port.local_addr().expect("bound"), http_port.local_addr().expect("bound"));
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let stop = async {
                let _ = stopped.await;
            };
            broker::run(config, agents_port, http_port, Registry::new(), stop).await.expect("metrics")
        });
        Self { db, agents, http, stop: Some(stop), running }
    }

    pub(crate) fn url(&self) -> String {
        format!("tcp://{}", self.agents)
    }

    /// Stops the broker in order.
    pub(crate) async fn stop(mut self) -> (TestDb, Stopped) {
        let _ = self.stop.take().expect("runs").send(());
        let stopped = timeout(PATIENCE, self.running).await.expect("stops").expect("without a panic");
        (self.db, stopped)
    }

    /// A registered agent, connected by the client.
    pub(crate) async fn connect(&self, agent: &str, window: u32) -> (Client, Deliveries) {
        let token = self.db.agent(agent).await;
        self.builder(agent, &token).window(window).connect().await.expect("connects")
    }

    pub(crate) fn builder(&self, agent: &str, token: &str) -> Builder {
        Builder::new(&self.url(), agent, token).reconnect_first(Duration::from_millis(20))
    }

    /// A registered agent, connected by hand, welcomed.
    pub(crate) async fn raw(&self, agent: &str, window: u32) -> Raw {
        let token = self.db.agent(agent).await;
        self.raw_with(agent, &token, window).await
    }

    pub(crate) async fn raw_with(&self, agent: &str, token: &str, window: u32) -> Raw {
        self.raw_on(Raw::open(self.agents).await, agent, token, window).await
    }

    /// The same on a connection that is there.
    pub(crate) async fn raw_on(&self, mut raw: Raw, agent: &str, token: &str, window: u32) -> Raw {
        raw.say(&format!(r#"{{"op":"hello","agent":"{agent}","token":"{token}","window":{window}}}"#)).await;
        raw.expect("welcome").await;
        raw
    }

    /// The value of a metric without labels, or with these.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = get(self.http, "/metrics").await.1;
        let line = text.lines().find(|l| l.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        let value = line.unwrap_or_else(|| panic!("no series {series}")).rsplit(' ').next();
        value.expect("a value").parse().expect("a number")
    }

    pub(crate) async fn until_metric(&self, series: &str, reached: impl Fn(f64) -> bool) {
        let waiting = async {
            while !reached(self.metric(series).await) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{series} never got there"));
    }

    /// Waits until the health check says this.
    pub(crate) async fn until_ready(&self, ready: bool) -> String {
        let waiting = async {
            loop {
                let (status, body) = get(self.http, "/health/ready").await;
                if (status == 200) == ready {
                    return body;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("the health never got there")
    }

    /// Waits until the health says these words.
    pub(crate) async fn until_told(&self, words: &str) {
        let waiting = async {
            while !get(self.http, "/health/ready").await.1.contains(words) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("the health never said {words:?}"));
    }

    /// Waits until producers are asked to ring and the broker sleeps.
    pub(crate) async fn until_armed(&self) {
        self.db.until("select coalesce(bool_and(armed), false) from postbell.brokers").await;
    }
}

/// `GET` by hand: the status and the body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await.expect("answers").expect("reads");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// A connection whose lines a test writes by hand, as a person at `nc` would.
pub(crate) struct Raw {
    lines: Lines<BufReader<OwnedReadHalf>>,
    pub(crate) write: OwnedWriteHalf,
}

impl Raw {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self::from(TcpStream::connect(address).await.expect("connects"))
    }

    /// A connection whose kernel holds some 4 KiB that nobody reads, and no more.
    pub(crate) async fn open_small(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4_096).expect("a buffer");
        Self::from(socket.connect(address).await.expect("connects"))
    }

    fn from(socket: TcpStream) -> Self {
        let (read, write) = socket.into_split();
        Self { lines: BufReader::new(read).lines(), write }
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.expect("writes");
    }

    /// The next line that is no ping; `None` at the end.
    pub(crate) async fn line(&mut self) -> Option<String> {
        loop {
            // A reset is an end as well: the broker closed while we wrote.
            let line = timeout(PATIENCE, self.lines.next_line())
                .await
                .expect("a line or the end")
                .unwrap_or(None)?;
            if line != r#"{"op":"ping"}"# {
                return Some(line);
            }
        }
    }

    /// The next line, which must have this op.
    pub(crate) async fn expect(&mut self, op: &str) -> Value {
        let line = self.line().await.unwrap_or_else(|| panic!("closed instead of {op}"));
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["op"], op, "{line}");
        value
    }

    /// The next line, which must be this error.
    pub(crate) async fn expect_error(&mut self, code: &str, fatal: bool) -> Value {
        let error = self.expect("error").await;
        assert_eq!((error["code"].as_str(), error["fatal"].as_bool()), (Some(code), Some(fatal)), "{error}");
        if fatal {
            assert_eq!(self.line().await, None, "a fatal error closes");
        }
        error
    }
}

/// Inserts a message by plain SQL.
pub(crate) async fn insert(sql: &tokio_postgres::Client, to: &str, priority: i32, payload: &str) {
    let insert = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority)
                  values ('sql', $1, 'data', $2::text::jsonb, $3)";
    sql.execute(insert, &[&to, &payload, &priority]).await.expect("inserts");
}

/// The next delivery.
pub(crate) async fn next(deliveries: &mut Deliveries) -> postbell_client::Delivery {
    timeout(PATIENCE, deliveries.next()).await.expect("a delivery").expect("an open client")
}
