//! No value of a row is in a log line, or in an answer to another agent, although the server's messages are full of
//! them.

use std::io::BufRead;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use postbell_client::message::MessageType;
use postbell_client::{Builder, Client, ClientError, Outgoing};
use tokio::time::timeout;

use crate::harness::{TestDb, migrated};
use crate::mesh::PATIENCE;
use crate::process::kept_port;
use postbell::devdb::KeptPort;

/// A mark in every value of every message.
const MARK: &str = "hush-4711";

/// A broker as a process, with all lines of its log.
struct Broker {
    child: Child,
    log: Arc<Mutex<String>>,
    url: String,
    _port: KeptPort,
}

impl Broker {
    fn start(db: &TestDb) -> Self {
        let port = kept_port();
        let address = port.address();
        let mut child = Command::new(env!("CARGO_BIN_EXE_postbell"))
            .args(["serve", "--http", "127.0.0.1:0", "--listen", &address.to_string()])
            .env("DATABASE_URL", db.url())
            .env("POSTBELL_LOG", "trace")
            .stderr(Stdio::piped())
            .spawn()
            .expect("spawns");
        let mut lines =
            std::io::BufReader::new(child.stderr.take().expect("stderr")).lines().map_while(Result::ok);
        let mut head = String::new();
        for line in lines.by_ref() {
            head.push_str(&line);
            head.push('\n');
            assert!(!line.starts_with("postbell:"), "{head}");
            if line.contains("the broker is up") {
                break;
            }
        }
        let log = Arc::new(Mutex::new(head));
        let kept = log.clone();
        std::thread::spawn(move || {
            for line in lines {
                let mut log = kept.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, log, url: format!("tcp://{address}"), _port: port }
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tables whose refusals quote the row: on the way in, and when the broker marks and settles.
const TABLES: &[&str] = &[
    "alter table agent_messages add constraint c check (payload is null)",
    "alter table agent_messages add constraint c check ((payload #>> '{}')::int > 0)",
    "alter table agent_messages add constraint c check ((payload #>> '{}')::regclass is not null)",
    "alter table agent_messages add constraint c check ((payload #>> '{}')::regtype is not null)",
    "alter table agent_messages add constraint c check ('x' ~ ('(' || (payload #>> '{}')))",
    "alter table agent_messages add constraint c check (current_setting(payload #>> '{}') = '')",
    "alter table agent_messages add constraint c check ((correlation_id)::jsonb is not null)",
    "alter table agent_messages add column d date generated always as (to_date_of(payload)) stored",
    "create unique index c on agent_messages ((1)); insert into agent_messages (from_agent_id, message_type, payload) values ('x', 'data', '1')",
    "alter table agent_messages alter correlation_id type varchar(3)",
    "create function f() returns trigger language plpgsql as $$ begin raise 'no %', new; end $$;
     create trigger t before insert on agent_messages for each row execute function f()",
    "create function f() returns trigger language plpgsql as $$
     begin raise using message = new::text, detail = new::text, hint = new::text, constraint = new.payload::text, table = new.payload::text,
     column = new.payload::text, datatype = new.payload::text, schema = new.payload::text, errcode = '23514'; end $$;
     create trigger t before insert on agent_messages for each row execute function f()",
    "create function f() returns trigger language plpgsql as $$
     begin execute 'select ' || (new.payload #>> '{}'); return new; end $$;
     create trigger t before insert on agent_messages for each row execute function f()",
    "create function f() returns trigger language plpgsql as $$
     begin execute 'select * from \"' || (new.payload #>> '{}') || '\"'; return new; end $$;
     create trigger t before insert on agent_messages for each row execute function f()",
    "create function f() returns trigger language plpgsql as $$
     begin raise warning 'look: %', new; raise log '%', new; perform set_config('x.y', (new.payload #>> '{}')::int::text, true); return new; end $$;
     create trigger t before insert on agent_messages for each row execute function f()",
    "create table known (id text primary key);
     alter table agent_messages add constraint c foreign key (correlation_id) references known not valid",
    "create function f() returns trigger language plpgsql as $$ begin raise 'no %', old; end $$;
     create trigger t before update on agent_messages for each row execute function f()",
    "alter table agent_messages add constraint c check (delivered_at is null and status <> 'processed')",
    "create function f() returns trigger language plpgsql as $$ begin raise 'no %', new; end $$;
     create trigger t before update on agent_registry for each row execute function f()",
    "alter database CURRENT set log_parameter_max_length_on_error = -1; alter table agent_messages add constraint c check (payload is null)",
];

fn message(payload: &str) -> Outgoing {
    Outgoing::new("r", MessageType::Data, &payload)
        .unwrap()
        .correlation_id(&format!("{MARK}-c"))
        .dedupe_key(&format!("{MARK}-d{payload}"))
        .headers(&serde_json::json!({ "h": MARK }))
        .unwrap()
}

async fn one(table: &str) {
    let db = migrated().await;
    let sql = db.sql().await;
    // Agents are registered before the table refuses anything, since registering writes a row.
    let (a, r) = (db.agent("a").await, db.agent("r").await);
    let of_payload = "create function to_date_of(p jsonb) returns date immutable language sql as $$ select to_date(p #>> '{}', 'YYYY-MM-DD') $$;";
    let database: String = db.ask("select current_database()::text").await;
    for statement in [of_payload, &table.replace("CURRENT", &database)] {
        sql.batch_execute(statement).await.unwrap_or_else(|e| panic!("{table}: {e:?}"));
    }
    // The values of the registry must not show either.
    sql.batch_execute(&format!("update agent_registry set metadata = '\"{MARK}\"' where agent_id <> 'x'"))
        .await
        .ok();
    let broker = Broker::start(&db);
    let connect = async |agent: &str, token: &str| -> (Client, _) {
        timeout(PATIENCE, Builder::new(&broker.url, agent, token).connect())
            .await
            .expect("in time")
            .expect("connects")
    };
    let (sender, _) = connect("a", &a).await;
    let (_receiver, mut deliveries) = connect("r", &r).await;
    for payload in [MARK, &format!("\"{MARK}\" in {{"), &format!("'{MARK}")] {
        match timeout(PATIENCE, sender.send(message(payload))).await.expect("answered") {
            Err(ClientError::Refused { message, .. }) => {
                assert!(!message.contains(MARK), "{table}: the answer has it: {message}");
            }
            Ok(_) => {
                let delivery = timeout(PATIENCE, deliveries.next()).await.expect("a delivery").expect("open");
                delivery.ack().await;
            }
            Err(e) => panic!("{table}: {e}"),
        }
    }
    // Acks come at once; marks and heartbeats come later.
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    let log = broker.log();
    let line = log.lines().find(|line| line.contains(MARK));
    assert!(line.is_none(), "{table}: the log has it: {line:?}");
}

#[tokio::test]
async fn no_line_and_no_answer_holds_a_row() {
    for table in TABLES {
        one(table).await;
    }
}
