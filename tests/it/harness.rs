//! The ground of every test: a database of its own on the one server of this process.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use faults::proxy::{Proxy, address_of};
use postbell::devdb::{Data, DevPostgres, Options};
use postbell::store::migrate::migrate;
use postbell::store::{Connection, DatabaseUrl, Pool, Target};
use tokio::sync::{Mutex, OnceCell};

/// Bodies of somebody's trigger at a row that it hurts: one raises, one says that the disk is full, one is slow, one ends the process.
pub(crate) const TRIGGER_FAULTS: [&str; 4] = [
    "raise 'no'",
    "raise 'no' using errcode = '53100'",
    "perform pg_sleep(10)",
    "perform pg_terminate_backend(pg_backend_pid())",
];

/// The mesh that lives in people's databases today.
pub(crate) const EXISTING_MESH: &str = include_str!("fixtures/existing-mesh.sql");

/// The database that [`migrated`] copies.
const TEMPLATE: &str = "postbell_template";

/// Runs until the test process ends: its guard then stops the server and removes its data.
fn server() -> &'static DevPostgres {
    static SERVER: OnceLock<DevPostgres> = OnceLock::new();
    SERVER.get_or_init(|| {
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let options = Options {
            data: Data::Temporary,
            bin_dir: std::env::var_os("POSTBELL_TEST_PG").map(Into::into),
            // No data here needs to outlive a crash of the machine, and tests run side by side.
            settings: vec![
                setting("fsync", "off"),
                setting("full_page_writes", "off"),
                setting("max_connections", "400"),
                // The launcher would visit hundreds of databases a minute: a tenth of all that the tests cost.
                setting("autovacuum_naptime", "1h"),
            ],
            environment: Vec::new(),
        };
        DevPostgres::start(options).expect("a private Postgres")
    })
}

/// A database that belongs to one test.
#[derive(Clone)]
pub(crate) struct TestDb {
    url: String,
}

/// An empty database.
pub(crate) async fn fresh() -> TestDb {
    TestDb::named(&create("template0").await)
}

/// A database that `postbell migrate` made.
pub(crate) async fn migrated() -> TestDb {
    static MADE: OnceCell<()> = OnceCell::const_new();
    MADE.get_or_init(|| async {
        admin()
            .await
            .batch(&format!("create database {TEMPLATE} template template0"))
            .await
            .expect("template");
        migrate(&target(TEMPLATE)).await.expect("migrate the template");
        wait_until_unused(TEMPLATE).await;
    })
    .await;
    TestDb::named(&create(TEMPLATE).await)
}

impl TestDb {
    /// A database of a server of the test's own.
    pub(crate) fn at(url: String) -> Self {
        Self { url }
    }

    /// The same database through this proxy, which leads to its server from now on.
    pub(crate) fn through(&self, proxy: &Proxy) -> Self {
        proxy.lead_to(vec![address_of(&self.url).expect("host and port")]);
        Self::at(proxy.through(&self.url).expect("host and port"))
    }

    fn named(name: &str) -> Self {
        Self { url: server().url_for(name) }
    }

    /// The URL, as a user would write it.
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// Another database of the same server.
    pub(crate) fn url_of(&self, database: &str) -> String {
        server().url_for(database)
    }

    /// The target for the library, in schema `public`.
    pub(crate) fn target(&self) -> Target {
        Target::new(DatabaseUrl::parse(&self.url).expect("url"), "public")
    }

    /// The target for the library, in another schema.
    pub(crate) fn target_in(&self, schema: &str) -> Target {
        Target::new(DatabaseUrl::parse(&self.url()).expect("url"), schema)
    }

    /// A pool for the library's calls that take one.
    pub(crate) fn pool(&self) -> Pool {
        Pool::new(self.target(), 2)
    }

    /// An ordinary SQL client, as psql would be: nothing tells the triggers that it is a broker.
    pub(crate) async fn client(&self) -> Connection {
        ordinary(&self.target()).await
    }

    /// An ordinary SQL client of another role, which must have the password `secret`.
    pub(crate) async fn client_as(&self, role: &str) -> Connection {
        let (_, rest) = self.url().split_once('@').map(own).expect("url with a password");
        let url = DatabaseUrl::parse(&format!("postgres://{role}:secret@{rest}")).expect("url");
        ordinary(&Target::new(url, "public")).await
    }
}

fn own((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

async fn ordinary(target: &Target) -> Connection {
    let connection = Connection::open(target).await.expect("connect");
    let settings = "set postbell.broker = off; reset enable_seqscan; reset enable_hashjoin; \
                    reset enable_mergejoin; reset plan_cache_mode";
    connection.batch(settings).await.expect("settings");
    connection
}

fn target(database: &str) -> Target {
    Target::new(DatabaseUrl::parse(&server().url_for(database)).expect("url"), "public")
}

async fn admin() -> Connection {
    Connection::open(&target("postgres")).await.expect("connect")
}

async fn create(template: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // A template can be copied only while nobody uses it; on some versions even another copy is in the way.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let _turn = ONE_AT_A_TIME.lock().await;
    admin()
        .await
        .batch(&format!("create database {name} template {template}"))
        .await
        .expect("create database");
    name
}

/// Waits until no session uses a database: a session ends a moment after its socket was closed.
async fn wait_until_unused(database: &'static str) {
    let admin = admin().await;
    loop {
        let sql = "select count(*) from pg_stat_activity where datname = $1::text::name";
        if admin.query_one(sql, &[&database]).await.expect("sessions").get::<_, i64>(0) == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// Runs SQL that creates roles where they are missing: roles belong to the whole server, and two tests at once would
/// collide.
pub(crate) async fn roles(client: &Connection, sql: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let _turn = ONE_AT_A_TIME.lock().await;
    client.batch(sql).await.expect("roles and tables");
}

/// How a `postbell` process ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the command on this database, with nothing else in its environment.
pub(crate) async fn command(db: &TestDb, args: &[&str]) -> Ended {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_postbell"))
        .args(args)
        .env_clear()
        .env("DATABASE_URL", db.url())
        .output()
        .await
        .expect("the command runs");
    Ended {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Whether something that the test needs is missing here, which is then reported: a program, by its name, or a path.
#[track_caller]
pub(crate) fn lacks(needed: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &str| match name.starts_with('/') {
        true => std::path::Path::new(name).exists(),
        false => std::env::split_paths(&path).any(|folder| folder.join(name).is_file()),
    };
    let lacking = needed.iter().find(|name| !is_there(name));
    if let Some(name) = lacking {
        crate::require::missing(&format!("there is no {name} here"));
    }
    lacking.is_some()
}

/// The number that a query gives.
pub(crate) async fn number(client: &Connection, sql: &'static str) -> i64 {
    client.query_one(sql, &[]).await.expect(sql).get(0)
}

/// The text that a query gives; empty for null.
pub(crate) async fn text(client: &Connection, sql: &'static str) -> String {
    client.query_one(sql, &[]).await.expect(sql).get::<_, Option<String>>(0).unwrap_or_default()
}

/// The first column of every row.
pub(crate) async fn texts(client: &Connection, sql: &'static str) -> Vec<String> {
    client.query(sql, &[]).await.expect(sql).iter().map(|row| row.get(0)).collect()
}
