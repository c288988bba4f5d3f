//! One statement renews a broker's lease and does what else has that beat (`sql/queries/broker_renew.sql`): each part of it.

use std::sync::Arc;

use postbell::store::Connection;
use postbell::store::agents::Token;
use postbell::store::lease::{BrokerRow, LeaseSum, Renewed, held, renew};
use uuid::Uuid;

use crate::harness::{migrated, number};
use crate::mesh::Mesh;

fn broker() -> BrokerRow {
    let (name, address) = ("one".to_owned(), "127.0.0.1:1".to_owned());
    BrokerRow { id: Uuid::now_v7(), name, address, token: Token::random(), certificate: None }
}

async fn renewed(connection: &Connection, broker: &BrokerRow, canary: u64, is_known_alive: bool) -> Renewed {
    renew(connection, broker, canary, is_known_alive, None, true).await.expect("renews")
}

#[tokio::test]
async fn a_renewal_says_what_each_of_its_parts_found() {
    let db = migrated().await;
    let (one, client, broker) =
        (Connection::open(&db.target()).await.expect("connects"), db.client().await, broker());
    let first = renewed(&one, &broker, 1, false).await;
    assert!(first.lapsed, "no row was there");
    assert!(first.canary_sent, "the canary flies, and the listener must miss it if it does not come back");
    assert!(first.is_known_alive && first.wanted.is_empty() && first.queue_usage < 0.75, "{first:?}");
    let bell = "select coalesce(pg_sequence_last_value('postbell.bell'), 0)";
    let quiet = number(&client, bell).await;

    let id = broker.id;
    client
        .batch(&format!(
            "update postbell.brokers set armed = true;
             insert into postbell.leases (inbox, broker_id, wanted_until)
             values ('asked for', '{id}', now() + interval '1 minute'), ('not any more', '{id}', now() - interval '1 minute'),
                    ('kept', '{id}', null)"
        ))
        .await
        .expect("armed, and asked");
    let second = renewed(&one, &broker, 2, true).await;
    assert!(!second.lapsed && second.canary_sent && second.is_known_alive, "{second:?}");
    assert_eq!(second.wanted, [Arc::from("asked for")]);
    // The sum is the broker's own sum of the same leases, so that a missing one shows.
    let leases = held(&one, broker.id).await.expect("read");
    assert_eq!(second.held, LeaseSum::of(leases.iter().map(|(inbox, epoch)| (&**inbox, *epoch))));
    assert_ne!(second.held, LeaseSum::of(leases[1..].iter().map(|(inbox, epoch)| (&**inbox, *epoch))));
    client.batch("update postbell.leases set epoch = 9223372036854775807").await.expect("false epochs");
    let false_ones = renewed(&one, &broker, 2, true).await.held;
    let leases = held(&one, broker.id).await.expect("read");
    assert_eq!(false_ones, LeaseSum::of(leases.iter().map(|(inbox, epoch)| (&**inbox, *epoch))));
    assert!(number(&client, bell).await > quiet, "producers ring until the lease ends");

    // The lock of the living is held by the first connection, and another process asks for it in vain.
    let other = Connection::open(&db.target()).await.expect("connects");
    assert!(!renewed(&other, &broker, 3, false).await.is_known_alive);
    client
        .batch("update postbell.brokers set lease_until = now() - interval '1 second'")
        .await
        .expect("silent");
    assert!(renewed(&one, &broker, 4, true).await.lapsed, "the lease had ended");
}

#[tokio::test]
async fn a_renewal_brings_a_sign_of_whatever_a_sweep_has_to_do_with() {
    let db = migrated().await;
    let (one, client, broker) =
        (Connection::open(&db.target()).await.expect("connects"), db.client().await, broker());
    let signs = async || renewed(&one, &broker, 1, true).await.signs.expect("asked for");
    let message = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values ('x', 'a', 'data', '1')";
    let mut last = signs().await;
    assert_eq!(signs().await.seen, last.seen, "nothing happened");
    for happens in [
        message,
        &format!("set session_replication_role = replica; {message}; reset session_replication_role"),
        "alter table agent_messages disable trigger postbell_route",
        "alter table agent_messages enable trigger postbell_route",
        "insert into postbell.set_aside (message_id, inbox, kind, status, reason, next_try)
         values (gen_random_uuid(), 'a', 'ack', 'processed', 'r', now())",
        "insert into agent_registry (agent_id, agent_name, agent_type, environment, status) values ('a', 'a', 'x', 'pc', 'offline')",
    ] {
        client.batch(happens).await.expect(happens);
        let now = signs().await;
        assert_ne!(now.seen, last.seen, "{happens}");
        assert_eq!(signs().await.seen, now.seen, "{happens}");
        assert!(!now.is_broker_gone && now.begun_until > last.begun_until, "{now:?}");
        last = now;
    }
    // A sign precedes the COMMIT, and the bounds of the snapshot tell for how long.
    let producer = db.client().await;
    producer.batch(&format!("begin; {message}")).await.expect("open");
    let sql = "select pg_current_xact_id()::text::bigint";
    let transaction: i64 = producer.query_one(sql, &[]).await.expect("its id").get(0);
    let open = signs().await;
    assert!(
        open.seen != last.seen && open.open_from <= transaction && transaction < open.begun_until,
        "{open:?}"
    );
    producer.batch("commit").await.expect("committed");
    let gone = "insert into postbell.brokers (broker_id, name, address, version, lease_until)
                values ('00000000-0000-0000-0000-000000000001', 'g', 'a', 'v', now() - interval '11 s'),
                       ('ffffffff-0000-0000-0000-000000000001', 'l', 'a', 'v', now() - interval '9 s')";
    client.batch(gone).await.expect("silent");
    assert!(signs().await.is_broker_gone);
    client.batch("delete from postbell.brokers where name = 'g'").await.expect("forgotten");
    assert!(!signs().await.is_broker_gone);

    assert_eq!(renew(&one, &broker, 1, true, None, false).await.expect("renews").signs, None);
}

/// Somebody's transaction holds what the signs are read from.
#[tokio::test]
async fn signs_that_cannot_be_read_cost_no_lease() {
    let mesh = Mesh::start().await;
    let _agent = mesh.raw("a", 5).await;
    let holder = mesh.db.sql().await;
    mesh.db.until("select count(*) = 1 from postbell.leases").await;
    holder.batch_execute("begin; alter sequence postbell.unseen_noted_id_seq cache 1").await.expect("held");
    // Longer than a lease, and then longer than another.
    let until: String = mesh.db.ask("select max(lease_until)::text from postbell.brokers").await;
    mesh.db
        .until(&format!(
            "select max(lease_until) > '{until}'::timestamptz + interval '7 s' from postbell.brokers"
        ))
        .await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.leases").await, 1);
    holder.batch_execute("rollback").await.expect("free");
    mesh.stop().await;
}
