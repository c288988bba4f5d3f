//! Sends that end the server process, or whose trigger raises what a server says that takes no writes: each is found, and everybody
//! else's are stored.

use tokio::time::timeout;

use super::{is_served, refused, to};
use crate::mesh::{Mesh, PATIENCE};

/// Whether the trigger fires at once, or at the COMMIT.
const TIMES: [&str; 2] = ["", "constraint"];

async fn with_trigger(time: &str, does: &str) -> Mesh {
    let mesh = Mesh::start().await;
    let (kind, when) = match time {
        "" => ("trigger", ""),
        _ => ("constraint trigger", "deferrable initially deferred"),
    };
    mesh.db
        .sql()
        .await
        .batch_execute(&format!(
            "create function hurts() returns trigger language plpgsql as $$
               begin if new.payload = '\"hurts\"' then {does}; end if; return new; end $$;
             create {kind} hurts after insert on agent_messages {when} for each row execute function hurts()"
        ))
        .await
        .unwrap();
    mesh
}

#[tokio::test]
async fn a_send_at_which_the_server_process_ends_is_rejected_and_all_others_are_stored() {
    for time in TIMES {
        let does = "perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(60)";
        let mesh = with_trigger(time, does).await;
        let ((a, _), (u, _)) = (mesh.connect("a", 0).await, mesh.connect("u", 0).await);
        let mut receipts = Vec::new();
        for n in 0..40 {
            receipts.push(a.submit(to("r", &n)).await.unwrap());
            if n % 10 == 5 {
                let (code, sentence) =
                    refused(timeout(PATIENCE, a.send(to("r", &"hurts"))).await.expect("answered"));
                assert_eq!(code, "rejected", "{sentence}");
                assert!(sentence.contains("the server process ended"), "{sentence}");
            }
        }
        is_served(&u, 20).await;
        for receipt in receipts {
            timeout(PATIENCE, receipt.committed()).await.expect("answered").expect("stored");
        }
        let count = "select count(*) from agent_messages where to_agent_id = 'r'";
        assert_eq!(mesh.db.ask::<i64>(count).await, 60, "each once");
        mesh.stop().await;
    }
}

#[tokio::test]
async fn many_sends_at_once_with_some_that_end_the_process_are_each_answered_and_stored_once() {
    let does = "perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(60)";
    let mesh = with_trigger("", does).await;
    let ((a, _), (u, _)) = (mesh.connect("a", 0).await, mesh.connect("u", 0).await);
    let mut of_u = Vec::new();
    let mut of_a = Vec::new();
    for n in 0..60 {
        of_u.push(u.submit(to("r", &n)).await.unwrap());
        if n % 20 == 3 {
            of_a.push(a.submit(to("r", &"hurts")).await.unwrap());
        }
    }
    for receipt in of_u {
        timeout(PATIENCE, receipt.committed()).await.expect("answered").expect("stored");
    }
    for receipt in of_a {
        refused(timeout(PATIENCE, receipt.committed()).await.expect("answered"));
    }
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages where to_agent_id = 'r'").await, 60);
    mesh.stop().await;
}

#[tokio::test]
async fn a_send_whose_trigger_says_what_a_standby_says_takes_no_other_with_it() {
    let raises = |code| format!("raise exception 'no' using errcode = '{code}'");
    let read_only =
        "perform set_config('transaction_read_only', 'on', true); insert into agent_messages select new.*"
            .to_owned();
    for does in
        [raises("25006"), raises("57P03"), raises("57P01"), raises("08006"), raises("53100"), read_only]
    {
        let mesh = with_trigger("", &does).await;
        let ((a, _), (u, _)) = (mesh.connect("a", 0).await, mesh.connect("u", 0).await);
        let mut of_u = Vec::new();
        let mut of_a = Vec::new();
        for n in 0..20 {
            of_u.push(u.submit(to("r", &n)).await.unwrap());
            if n % 10 == 3 {
                of_a.push(a.submit(to("r", &"hurts")).await.unwrap());
            }
        }
        for receipt in of_u {
            timeout(PATIENCE, receipt.committed()).await.expect("answered").expect(&does);
        }
        is_served(&u, 20).await;
        for receipt in of_a {
            refused(timeout(PATIENCE, receipt.committed()).await.expect("answered"));
        }
        assert_eq!(
            mesh.db.ask::<i64>("select count(*) from agent_messages where to_agent_id = 'r'").await,
            40
        );
        mesh.stop().await;
    }
}
