//! A server that takes no writes must not lose a message: another server will take it.

use faults::proxy::{Proxy, address_of};
use postbell::devdb::{Data, DevPostgres, Options};
use postbell::store::migrate::migrate;
use postbell::store::{Connection, DatabaseUrl, Pool, StoreError, Target};
use tokio::time::{sleep, timeout};

use super::{refused, to};
use crate::harness::TestDb;
use crate::mesh::{Mesh, PATIENCE, next, sql_at};

fn options() -> Options {
    let bin_dir = std::env::var_os("POSTBELL_TEST_PG").map(Into::into);
    Options { data: Data::Temporary, bin_dir, settings: Vec::new(), environment: Vec::new() }
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(act).await.unwrap()
}

/// Waits until the standby has every commit.
async fn caught_up(primary: &DevPostgres) {
    let sql = sql_at(&primary.url()).await;
    let follows =
        "select exists (select from pg_stat_replication where replay_lsn >= pg_current_wal_flush_lsn())";
    let following = async {
        while !sql.query_one(follows, &[]).await.unwrap().get::<_, bool>(0) {
            sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, following).await.expect("the standby follows");
}

/// A failover as managed servers do it: the same address leads to the former standby, which takes writes a little
/// later.
#[tokio::test]
async fn a_failover_to_a_standby_refuses_nothing_for_good() {
    let primary = blocking(|| DevPostgres::start(options()).unwrap()).await;
    if !primary.bin_dir().join("pg_basebackup").exists() {
        return crate::require::missing("pg_basebackup is not beside the server's other programs");
    }
    let url = primary.url();
    migrate(&Target::new(DatabaseUrl::parse(&url).unwrap(), "public")).await.unwrap();
    let proxy = Proxy::in_turn(Vec::new()).await.unwrap();
    let db = TestDb::at(url).through(&proxy);
    let (a, r) = (db.agent("a").await, db.agent("r").await);
    let mesh = Mesh::on(db, &[]).await;
    let (sender, _) = mesh.builder("a", &a).connect().await.unwrap();
    let (_receiver, mut deliveries) = mesh.builder("r", &r).window(10).connect().await.unwrap();
    sender.send(to("r", &"before")).await.unwrap();
    next(&mut deliveries).await.ack_confirmed().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let of = folder.path().to_owned();
    let (primary, standby) = blocking(move || {
        let standby = primary.standby(&of).unwrap();
        (primary, standby)
    })
    .await;
    caught_up(&primary).await;
    proxy.lead_to(vec![address_of(&standby.url()).unwrap()]);
    blocking(move || drop(primary)).await;
    // Read only: the client is told to send again, and never that the message is rejected.
    for _ in 0..5 {
        let (code, sentence) =
            refused(timeout(PATIENCE, sender.send(to("r", &"during"))).await.expect("answered"));
        assert_eq!(code, "unavailable", "{sentence}");
    }
    let sql = sql_at(&standby.url()).await;
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
    // The same holds for a pool's connections.
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
