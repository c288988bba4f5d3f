//! Transaction ids that do not go on as expected: another cluster's, restored from a dump, and beyond 32 bits.

use std::path::Path;
use std::process::Command;

use faults::proxy::{Proxy, address_of};
use faults::schedule::Net;
use postbell::devdb::{Data, DevPostgres, Options};
use postbell::store::migrate::migrate;
use postbell::store::{DatabaseUrl, Target};

use crate::harness::TestDb;
use crate::mesh::{Mesh, insert, next, sql_at};
use crate::require::missing;

fn options(data: Data) -> Options {
    let bin_dir = std::env::var_os("POSTBELL_TEST_PG").map(Into::into);
    Options { data, bin_dir, settings: Vec::new(), environment: Vec::new() }
}

async fn in_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.expect("does not panic")
}

/// A migrated server whose superuser has a known password.
async fn server() -> DevPostgres {
    let server = in_thread(|| DevPostgres::start(options(Data::Temporary)).expect("starts")).await;
    migrate(&Target::new(DatabaseUrl::parse(&server.url()).expect("url"), "public")).await.expect("migrates");
    sql_at(&server.url())
        .await
        .batch_execute("alter role postgres password 'secret'")
        .await
        .expect("password");
    server
}

fn known(url: &str) -> String {
    let (_, address) = url.split_once('@').expect("an address");
    format!("postgres://postgres:secret@{address}")
}

/// The broker's database is replaced by another cluster's, whose transactions are far behind and whose rows carry the
/// old cluster's ids. A restore looks like this to a broker.
#[tokio::test]
async fn a_database_that_was_restored_on_another_cluster_is_read_from_where_it_is() {
    let (old, new) = (server().await, server().await);
    let (old_url, new_url) = (known(&old.url()), known(&new.url()));
    let proxy = Proxy::in_turn(Vec::new()).await.expect("a port");
    let through = TestDb::at(old_url.clone()).through(&proxy);
    // Uses up ids that the new cluster will not reach for long.
    let burn = "create procedure burn() language plpgsql as $$ begin
                  for n in 1..5000 loop perform pg_current_xact_id(); commit; end loop; end $$";
    let sql = sql_at(&old_url).await;
    sql.batch_execute(burn).await.expect("procedure");
    sql.batch_execute("call burn()").await.expect("burnt");
    let mesh = Mesh::on(through, &[]).await;
    let token = mesh.db.agent("a").await;
    let (_client, mut deliveries) = mesh.builder("a", &token).window(2).connect().await.expect("connects");
    insert(&sql, "a", 5, "0").await;
    next(&mut deliveries).await.ack_confirmed().await.expect("acknowledged");

    let sql = sql_at(&new_url).await;
    let agent =
        "insert into agent_registry (agent_id, agent_name, agent_type, environment, status, token_hash)
                 values ('a', 'a', 'test', 'test', 'offline', sha256(convert_to($1, 'UTF8')))";
    sql.execute(agent, &[&token]).await.expect("the agent is restored too");
    for n in 1..=5 {
        insert(&sql, "a", 5, &n.to_string()).await;
    }
    sql.batch_execute("update postbell.deliveries set txid = '900000'").await.expect("as restored");
    proxy.lead_to(vec![address_of(&new_url).expect("host and port")]);
    proxy.inflict(Net::Cut);
    insert(&sql, "a", 5, "6").await;
    // With a window of two the others wait, and the tail must not bring any of them in every round.
    let mut held = vec![next(&mut deliveries).await, next(&mut deliveries).await];
    mesh.until_armed().await;
    let rows = mesh.metric("postbell_tail_rows_total").await;
    let canaries = "postbell_bell_roundtrip_seconds_count";
    let before = mesh.metric(canaries).await;
    mesh.until_metric(canaries, |now| now >= before + 2.0).await;
    assert_eq!(mesh.metric("postbell_tail_rows_total").await, rows);
    let mut left: Vec<String> = (1..=6).map(|n| n.to_string()).collect();
    while !left.is_empty() {
        let delivery = match held.pop() {
            Some(delivery) => delivery,
            None => next(&mut deliveries).await,
        };
        left.retain(|n| n != delivery.payload());
        delivery.ack().await;
    }
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
    mesh.stop().await;
}

/// The server's 32-bit ids wrap while messages flow; the 64-bit ids that the tail reads by go on.
#[tokio::test]
async fn transaction_ids_wrap_around_while_messages_flow() {
    let folder = tempfile::tempdir().expect("folder");
    open_to_all(folder.path());
    let data = folder.path().join("data");
    let kept = options(Data::Kept(data.clone()));
    let first = kept.clone();
    let server = in_thread(move || DevPostgres::start(first).expect("starts")).await;
    // Without this, rows of today's transactions would seem to be of the future.
    for database in ["postgres", "template1"] {
        sql_at(&server.url_for(database)).await.batch_execute("vacuum freeze").await.expect("frozen");
    }
    let bin_dir = server.bin_dir().to_owned();
    in_thread(move || server.stop().expect("stops")).await;
    if !bin_dir.join("pg_resetwal").exists() {
        return missing(&format!("{} has no pg_resetwal", bin_dir.display()));
    }
    move_to_the_brink(&bin_dir, &data);
    let server = in_thread(move || DevPostgres::start(kept).expect("starts")).await;
    migrate(&Target::new(DatabaseUrl::parse(&server.url()).expect("url"), "public")).await.expect("migrates");
    let mesh = Mesh::on(TestDb::at(server.url()), &[]).await;
    let before: i64 = mesh.db.ask("select pg_current_xact_id()::text::bigint").await;
    assert!(before < 1 << 32, "{before}");
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let sql = mesh.db.sql().await;
    for n in 0..2_000 {
        insert(&sql, "a", 5, &n.to_string()).await;
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload(), n.to_string());
        delivery.ack().await;
    }
    let after: i64 = mesh.db.ask("select pg_current_xact_id()::text::bigint").await;
    assert!(after > 1 << 32, "{after}");
    assert_eq!(mesh.metric("postbell_tail_late_total").await, 0.0);
    mesh.stop().await;
    in_thread(move || server.stop().expect("stops")).await;
}

#[cfg(unix)]
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("permissions");
}

/// Moves the next transaction id to a little below 2^32.
#[cfg(unix)]
fn move_to_the_brink(bin_dir: &Path, data: &Path) {
    use std::os::unix::fs::{MetadataExt, chown};
    use std::os::unix::process::CommandExt;
    const NEXT: u64 = (1 << 32) - 1_500;
    // The part of pg_xact that these ids live in: two bits each, 256 KiB a file.
    const IDS_PER_FILE: u64 = 1 << 20;
    let pgdata = find_pgdata(data);
    let owner = std::fs::metadata(&pgdata).expect("data");
    let file = pgdata.join("pg_xact").join(format!("{:04X}", NEXT / IDS_PER_FILE));
    std::fs::write(&file, vec![0; IDS_PER_FILE as usize / 4]).expect("pg_xact");
    chown(&file, Some(owner.uid()), Some(owner.gid())).expect("owner");
    let mut reset = Command::new(bin_dir.join("pg_resetwal"));
    reset.arg("-x").arg(NEXT.to_string()).arg("-e").arg("0").arg("-f").arg(&pgdata);
    let reset = reset.uid(owner.uid()).gid(owner.gid()).current_dir("/").output().expect("runs");
    assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
}

#[cfg(unix)]
fn find_pgdata(folder: &Path) -> std::path::PathBuf {
    if folder.join("PG_VERSION").exists() {
        return folder.to_owned();
    }
    let inside = std::fs::read_dir(folder).expect("folder").map(|e| e.expect("entry").path());
    inside.filter(|p| p.is_dir()).find(|p| p.join("PG_VERSION").exists()).expect("a data folder")
}
