//! What every test stands on: one private server a process, a fresh database a test, a broker on ports of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postbell::broker::{self, Stopped};
use postbell::client::{Builder, Client, Deliveries};
use postbell::config::Config;
use postbell::devdb::{Data, DevPostgres, Options};
use postbell::postgres::migrate::migrate;
use postbell::postgres::{DatabaseUrl, Pool, Target, agents};
use prometheus::Registry;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;

/// No event takes so long unless it never comes; a slow machine must not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The server of this process. The guard of `devdb` ends it when the process ends.
pub fn server() -> &'static DevPostgres {
    static SERVER: OnceLock<DevPostgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        let bin_dir = std::env::var_os("POSTBELL_TEST_PG").map(PathBuf::from);
        let settings = vec![("max_connections".to_owned(), "600".to_owned())];
        DevPostgres::start(Options { data: Data::Temporary, bin_dir, settings }).expect("a private server")
    })
}

/// A database of a test's own.
pub struct TestDb {
    pub url: String,
}

impl TestDb {
    /// Empty, as a new user's.
    pub async fn fresh() -> Self {
        Self::create("template0").await
    }

    /// Migrated.
    pub async fn migrated() -> Self {
        static TEMPLATE: OnceCell<()> = OnceCell::const_new();
        TEMPLATE
            .get_or_init(|| async {
                sql_at(&server().url())
                    .await
                    .batch_execute("create database migrated")
                    .await
                    .expect("create");
                let url = DatabaseUrl::parse(&server().url_for("migrated")).expect("url");
                migrate(&Target::new(url, "public"), false).await.expect("migrates");
            })
            .await;
        Self::create("migrated").await
    }

    async fn create(template: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let admin = sql_at(&server().url()).await;
        let create = format!("create database {name} template {template}");
        // The connection that migrated the template may still be on its way out.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while let Err(e) = admin.batch_execute(&create).await {
            assert!(tokio::time::Instant::now() < deadline, "{e}");
            sleep(Duration::from_millis(20)).await;
        }
        Self { url: server().url_for(&name) }
    }

    pub fn target(&self) -> Target {
        Target::new(DatabaseUrl::parse(&self.url).expect("url"), "public")
    }

    pub fn pool(&self) -> Pool {
        Pool::new(self.target(), 2)
    }

    /// A plain SQL client, as any producer's.
    pub async fn sql(&self) -> tokio_postgres::Client {
        sql_at(&self.url).await
    }

    /// Registers an agent and gives its token.
    pub async fn agent(&self, name: &str) -> String {
        agents::add(&self.pool(), name, "pc", "agent").await.expect("added").token.reveal().to_owned()
    }

    /// One value of one row.
    pub async fn ask<T: for<'a> tokio_postgres::types::FromSql<'a>>(&self, query: &str) -> T {
        self.sql().await.query_one(query, &[]).await.expect(query).get(0)
    }

    /// Waits until a query says true.
    pub async fn until(&self, query: &str) {
        let sql = self.sql().await;
        let waiting = async {
            while !sql.query_one(query, &[]).await.expect(query).get::<_, bool>(0) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never true: {query}"));
    }
}

async fn sql_at(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("connects");
    tokio::spawn(connection);
    client
}

/// A broker on a database of its own.
pub struct Mesh {
    pub db: TestDb,
    pub agents: SocketAddr,
    pub http: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Stopped>,
}

impl Mesh {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With some settings changed.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        Self::on(TestDb::migrated().await, settings).await
    }

    pub async fn on(db: TestDb, settings: &[(&str, &str)]) -> Self {
        let mut all: HashMap<String, String> =
            settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        all.insert("DATABASE_URL".to_owned(), db.url.clone());
        all.entry("POSTBELL_DRAIN_SECONDS".to_owned()).or_insert("5".to_owned());
        let config = Config::parse(|name| all.get(name).cloned()).expect("good settings");
        broker::check(&config).await.expect("the database serves");
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

    pub fn url(&self) -> String {
        format!("tcp://{}", self.agents)
    }

    /// Stops it in order.
    pub async fn stop(mut self) -> (TestDb, Stopped) {
        let _ = self.stop.take().expect("runs").send(());
        let stopped = timeout(PATIENCE, self.running).await.expect("stops").expect("without a panic");
        (self.db, stopped)
    }

    /// A registered agent, connected by the client.
    pub async fn connect(&self, agent: &str, window: u32) -> (Client, Deliveries) {
        let token = self.db.agent(agent).await;
        self.builder(agent, &token).window(window).connect().await.expect("connects")
    }

    pub fn builder(&self, agent: &str, token: &str) -> Builder {
        Builder::new(&self.url(), agent, token).reconnect_first(Duration::from_millis(20))
    }

    /// A registered agent, connected by hand, welcomed.
    pub async fn raw(&self, agent: &str, window: u32) -> Raw {
        let token = self.db.agent(agent).await;
        self.raw_with(agent, &token, window).await
    }

    pub async fn raw_with(&self, agent: &str, token: &str, window: u32) -> Raw {
        let mut raw = Raw::open(self.agents).await;
        raw.say(&format!(r#"{{"op":"hello","agent":"{agent}","token":"{token}","window":{window}}}"#)).await;
        raw.expect("welcome").await;
        raw
    }

    /// The value of a metric without labels, or with these.
    pub async fn metric(&self, series: &str) -> f64 {
        let text = get(self.http, "/metrics").await.1;
        let line = text.lines().find(|l| l.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        let value = line.unwrap_or_else(|| panic!("no series {series}")).rsplit(' ').next();
        value.expect("a value").parse().expect("a number")
    }

    pub async fn until_metric(&self, series: &str, reached: impl Fn(f64) -> bool) {
        let waiting = async {
            while !reached(self.metric(series).await) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{series} never got there"));
    }

    /// Waits until the health says so.
    pub async fn until_ready(&self, ready: bool) -> String {
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

    /// Waits until producers are asked to ring and the broker sleeps.
    pub async fn until_armed(&self) {
        self.db.until("select coalesce(bool_and(armed), false) from postbell.brokers").await;
    }
}

/// `GET` by hand: the status and the body.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("writes");
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await.expect("answers").expect("reads");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// A connection that says what it is told, as a person at `nc` would.
pub struct Raw {
    lines: Lines<BufReader<OwnedReadHalf>>,
    pub write: OwnedWriteHalf,
}

impl Raw {
    pub async fn open(address: SocketAddr) -> Self {
        let (read, write) = TcpStream::connect(address).await.expect("connects").into_split();
        Self { lines: BufReader::new(read).lines(), write }
    }

    pub async fn say(&mut self, line: &str) {
        self.write.write_all(format!("{line}\n").as_bytes()).await.expect("writes");
    }

    /// The next line that is no ping; `None` at the end.
    pub async fn line(&mut self) -> Option<String> {
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
    pub async fn expect(&mut self, op: &str) -> Value {
        let line = self.line().await.unwrap_or_else(|| panic!("closed instead of {op}"));
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["op"], op, "{line}");
        value
    }

    /// The next line, which must be this error.
    pub async fn expect_error(&mut self, code: &str, fatal: bool) -> Value {
        let error = self.expect("error").await;
        assert_eq!((error["code"].as_str(), error["fatal"].as_bool()), (Some(code), Some(fatal)), "{error}");
        if fatal {
            assert_eq!(self.line().await, None, "a fatal error closes");
        }
        error
    }
}

/// Inserts a message by plain SQL.
pub async fn insert(sql: &tokio_postgres::Client, to: &str, priority: i32, payload: &str) {
    let insert = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority)
                  values ('sql', $1, 'data', $2::text::jsonb, $3)";
    sql.execute(insert, &[&to, &payload, &priority]).await.expect("inserts");
}

/// The next delivery.
pub async fn next(deliveries: &mut Deliveries) -> postbell::client::Delivery {
    timeout(PATIENCE, deliveries.next()).await.expect("a delivery").expect("an open client")
}
