//! The contestants: who is compared, and how each writes a message and settles it.

use serde_json::Value;

/// Who is compared with the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contestant {
    /// The name in the report.
    pub(super) label: &'static str,
    /// The folder below `loadtest/peers`; none if all of it is this program.
    pub(super) folder: Option<&'static str>,
    /// How it works.
    pub(super) kind: QueueKind,
    /// A variable that its folder's program looks at.
    pub(super) choice: Option<(&'static str, &'static str)>,
}

/// How a contestant works.
#[derive(Clone, Copy, Debug)]
pub(super) enum QueueKind {
    /// A table with a trigger, and a broker.
    Postbell,
    /// Tables and functions in Postgres, and a process that takes from them.
    InPostgres(&'static Statements),
    /// A server with a store of its own.
    JetStream {
        /// Whether a message is on the disk before its writer has its answer.
        is_synced: bool,
    },
}

/// How a message is written and settled by SQL. Each statement that writes has one parameter, a text.
#[derive(Debug)]
pub(super) struct Statements {
    /// Writes one message; none if `setup` says the statement.
    insert: Option<&'static str>,
    /// Writes the messages of a JSON array; none if it is the same as the other.
    fill: Option<&'static str>,
    /// A payload, as an element of that array.
    element: fn(&str) -> String,
    /// Whether one message is written as an array as well.
    is_always_array: bool,
    /// Whether some message is not settled.
    pub(super) unsettled: &'static str,
}

impl Statements {
    /// The statement that writes one message; `said` is the answer of `setup`.
    pub(super) fn insert(&self, said: &Value) -> Option<String> {
        let learned = || said.get("statement").and_then(Value::as_str);
        self.insert.or_else(learned).map(str::to_owned)
    }

    /// The statement that writes many.
    pub(super) fn fill(&self, said: &Value) -> Option<String> {
        self.fill.map(str::to_owned).or_else(|| self.insert(said))
    }

    /// The parameter for one message.
    pub(super) fn one(&self, payload: String) -> String {
        if self.is_always_array { self.many(std::iter::once(payload)) } else { payload }
    }

    /// The parameter for many.
    pub(super) fn many(&self, payloads: impl Iterator<Item = String>) -> String {
        let elements: Vec<String> = payloads.map(|payload| (self.element)(&payload)).collect();
        format!("[{}]", elements.join(","))
    }
}

const fn bare(insert: &'static str, fill: &'static str, unsettled: &'static str) -> Statements {
    Statements {
        insert: Some(insert),
        fill: Some(fill),
        element: str::to_owned,
        is_always_array: false,
        unsettled,
    }
}

/// The agent that takes what producers send to Postbell.
pub(super) const AGENT: &str = "agent-0";

pub(super) const POSTBELL: Statements = bare(
    "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority) \
     values ('loadtest', 'agent-0', 'data', ($1::text)::jsonb, 5)",
    "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority) \
     select 'loadtest', 'agent-0', 'data', payload, 5 from jsonb_array_elements(($1::text)::jsonb) payload",
    "select exists (select from postbell.deliveries where inbox = 'agent-0' and state = 'ready')",
);

/// The floor of every INSERT: the same columns and indexes, without the trigger.
pub(super) const BARE_TABLE: Statements = bare(
    "insert into bare_messages (from_agent_id, to_agent_id, message_type, payload, priority) \
     values ('loadtest', 'floor', 'data', ($1::text)::jsonb, 5)",
    "",
    "select false",
);

const PGMQ: Statements = bare(
    "select pgmq.send('work', ($1::text)::jsonb)",
    "select pgmq.send_batch('work', array(select jsonb_array_elements(($1::text)::jsonb)))",
    "select exists (select from pgmq.q_work)",
);

const GRAPHILE_WORKER: Statements = bare(
    "select graphile_worker.add_job('work', ($1::text)::json)",
    "select graphile_worker.add_jobs(array( \
       select row('work', payload, null, null, null, null, null, null)::graphile_worker.job_spec \
       from json_array_elements(($1::text)::json) payload))",
    "select exists (select from graphile_worker._private_jobs)",
);

const PG_BOSS: Statements = Statements {
    insert: None,
    fill: None,
    element: |payload| format!("{{\"data\":{payload}}}"),
    is_always_array: true,
    unsettled: "select exists (select from pgboss.job where state < 'completed')",
};

const fn contestant(label: &'static str, folder: Option<&'static str>, kind: QueueKind) -> Contestant {
    Contestant { label, folder, kind, choice: None }
}

/// Everyone, in the order of the report. The first is the one that the others are compared with.
pub(super) const ALL: &[Contestant] = &[
    contestant("Postbell", None, QueueKind::Postbell),
    contestant("Postbell, agent in Python", Some("postbell"), QueueKind::Postbell),
    contestant("pgmq", Some("pgmq"), QueueKind::InPostgres(&PGMQ)),
    contestant("graphile-worker", Some("graphile-worker"), QueueKind::InPostgres(&GRAPHILE_WORKER)),
    contestant("pg-boss", Some("pg-boss"), QueueKind::InPostgres(&PG_BOSS)),
    contestant("NATS", Some("nats"), QueueKind::JetStream { is_synced: false }),
    contestant("NATS, each write synced", Some("nats"), QueueKind::JetStream { is_synced: true }),
    Contestant {
        choice: Some(("LOADTEST_POLLED", "1")),
        ..contestant("pg-boss, polled", Some("pg-boss"), QueueKind::InPostgres(&PG_BOSS))
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_what_its_statement_takes() {
        assert_eq!(PGMQ.one("{}".to_owned()), "{}");
        assert_eq!(PGMQ.many(["{}".to_owned(), "[]".to_owned()].into_iter()), "[{},[]]");
        assert_eq!(PG_BOSS.one("{}".to_owned()), r#"[{"data":{}}]"#);
        let said = serde_json::json!({ "statement": "insert" });
        assert_eq!(PG_BOSS.fill(&said).as_deref(), Some("insert"));
        assert_eq!(PG_BOSS.insert(&Value::Null), None);
    }
}
