//! One statement renews a broker's lease and does what else has that beat (`sql/queries/broker_renew.sql`): each part of it.

use std::sync::Arc;

use postbell::store::Connection;
use postbell::store::agents::Token;
use postbell::store::lease::{BrokerRow, LeaseSum, Renewed, held, renew};
use uuid::Uuid;

use crate::harness::{migrated, number};

fn broker() -> BrokerRow {
    let (name, address) = ("one".to_owned(), "127.0.0.1:1".to_owned());
    BrokerRow { id: Uuid::now_v7(), name, address, token: Token::random(), certificate: None }
}

async fn renewed(connection: &Connection, broker: &BrokerRow, canary: u64, is_known_alive: bool) -> Renewed {
    renew(connection, broker, canary, is_known_alive, None).await.expect("renews")
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
