//! A server that takes no writes is not the end of a message: another one will.

use std::process::Command;

use postbell::devdb::{Data, DevPostgres, Options};
use postbell::postgres::migrate::migrate;
use postbell::postgres::{Connection, DatabaseUrl, Pool, StoreError, Target};
use tokio::time::{sleep, timeout};

use super::{refused, to};
use crate::harness::TestDb;
use crate::mesh::{Mesh, PATIENCE, next, sql_at};

fn options(data: Data, port: Option<u16>) -> Options {
    let bin_dir = std::env::var_os("POSTBELL_TEST_PG").map(Into::into);
    let settings = port.map(|port| ("port".to_owned(), port.to_string())).into_iter().collect();
    Options { data, bin_dir, settings, environment: Vec::new() }
}

/// Copies a running server for a standby of it. `None`: there is no `pg_basebackup` here.
async fn copy(server: &DevPostgres, folder: &std::path::Path) -> Option<()> {
    let url = server.url();
    let (password, port) = (password_of(&url), port_of(&url));
    let data: String =
        sql_at(&url).await.query_one("select current_setting('data_directory')", &[]).await.unwrap().get(0);
    std::fs::write(folder.join("password"), password).unwrap();
    let copied = Command::new(server.bin_dir().join("pg_basebackup"))
        .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres", "-R", "-c", "fast", "-D"])
        .arg(folder.join("data"))
        .env("PGPASSWORD", password)
        .output();
    let copied = match copied {
        Ok(copied) => copied,
        Err(e) => {
            crate::require::missing(&format!("no pg_basebackup ({e})"));
            return None;
        }
    };
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    // As root the copy is root's, and the server another account's.
    let chown = Command::new("chown").args(["-R", &format!("--reference={data}")]).arg(folder).status();
    assert!(chown.unwrap().success());
    Some(())
}

fn password_of(url: &str) -> &str {
    url.split(['@', ':']).nth(2).unwrap()
}

fn port_of(url: &str) -> u16 {
    url.rsplit([':', '/']).nth(1).unwrap().parse().unwrap()
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.unwrap()
}

/// A failover as managed servers do it: the same address leads to what was the standby, which takes writes a little later.
#[tokio::test]
async fn a_failover_to_a_standby_refuses_nothing_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let primary = blocking(|| DevPostgres::start(options(Data::Temporary, None)).unwrap()).await;
    let url = primary.url();
    let db = TestDb::at(url.clone());
    migrate(&Target::new(DatabaseUrl::parse(&url).unwrap(), "public")).await.unwrap();
    let (a, r) = (db.agent("a").await, db.agent("r").await);
    let mesh = Mesh::on(db, &[]).await;
    let (sender, _) = mesh.builder("a", &a).connect().await.unwrap();
    let (_receiver, mut deliveries) = mesh.builder("r", &r).window(10).connect().await.unwrap();
    sender.send(to("r", &"before")).await.unwrap();
    next(&mut deliveries).await.ack_confirmed().await.unwrap();
    if copy(&primary, folder.path()).await.is_none() {
        return;
    }
    blocking(move || drop(primary)).await;
    let data = Data::Kept(folder.path().to_owned());
    let port = port_of(&url);
    let standby = blocking(move || DevPostgres::start(options(data, Some(port))).unwrap()).await;
    // Read only: to be sent again, and never rejected.
    for _ in 0..5 {
        let (code, sentence) =
            refused(timeout(PATIENCE, sender.send(to("r", &"during"))).await.expect("answered"));
        assert_eq!(code, "unavailable", "{sentence}");
    }
    let sql = sql_at(&url).await;
    assert!(sql.query_one("select pg_promote()", &[]).await.unwrap().get::<_, bool>(0));
    let stored = async {
        while let Err(error) = sender.send(to("r", &"after").dedupe_key("after")).await {
            let (code, _) = refused::<()>(Err(error));
            assert_eq!(code, "unavailable");
            sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, stored).await.expect("the new primary takes it");
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.payload(), "\"after\"");
    delivery.ack().await;
    mesh.until_ready(true).await;
    mesh.stop().await;
    blocking(move || drop(standby)).await;
}

/// A pooler keeps a connection while the server behind it changes.
#[tokio::test]
async fn a_connection_that_became_read_only_is_left() {
    let mesh = Mesh::start().await;
    mesh.db
        .sql()
        .await
        .batch_execute(
            "create function demoted() returns trigger language plpgsql as $$
             begin
               if new.to_agent_id = 'r' then raise read_only_sql_transaction; end if;
               return new;
             end $$;
             create trigger demoted before insert on agent_messages for each row execute function demoted()",
        )
        .await
        .unwrap();
    let (a, _) = mesh.connect("a", 0).await;
    let (code, sentence) = refused(a.send(to("r", &1)).await);
    assert_eq!(code, "unavailable", "{sentence}");
    assert!(sentence.contains("25006"), "{sentence}");
    a.send(to("other", &1)).await.unwrap();
    // The same of a pool's connections.
    let pool = Pool::new(mesh.db.target(), 1);
    const PID: &str = "select pg_backend_pid()";
    let pid = |row: tokio_postgres::Row| row.get::<_, i32>(0);
    let before = pid(pool.query_one(PID, &[]).await.unwrap());
    assert_eq!(pid(pool.query_one(PID, &[]).await.unwrap()), before);
    const READ_ONLY: &str = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values ('a', 'r', 'data', '1')";
    let error: StoreError = pool.execute(READ_ONLY, &[]).await.unwrap_err();
    assert!(error.is_retryable() && error.sqlstate() == Some("25006"), "{error}");
    assert_ne!(pid(pool.query_one(PID, &[]).await.unwrap()), before, "another connection");
    drop(Connection::open(&mesh.db.target()).await.unwrap());
}
