//! The steps of the rehearsal, with the weight of each.
//!
//! `refuse`: without this step no message lives, so a broker could not work at all: agents cannot be registered, a
//! message gets no delivery, an acknowledgement cannot be written. `warn`: messages flow, and only the named thing
//! fails, each time.

use serde_json::{Value, json};

use crate::store::migrate::IndexWanted;
use crate::store::sql::queries;
use postbell_client::message::MessageType;
use postbell_client::protocol::limits::{NAME_BYTES_MAX, REASON_BYTES_MAX};

const MESSAGES: &str = "agent_messages";
const REGISTRY: &str = "agent_registry";
const ALERTS: &str = "agent_alerts";
/// feature_not_supported.
const NOT_WITH_A_RULE: [&str; 1] = ["0A000"];
const TOO_LONG: [&str; 1] = ["22001"];
const ONLY_PLAIN: [&str; 2] = ["0A000", "428C9"];

/// Statements by their files' names.
macro_rules! statements {
    ($($file:literal: $query:ident),* $(,)?) => {
        json!({$($file: queries::$query),*})
    };
}

/// The broker's own statements, so that the rehearsal tries the very same.
pub(super) fn statements() -> Value {
    statements![
        "adopt_waiting": ADOPT_WAITING,
        "agent_add": AGENT_ADD,
        "agent_rotate": AGENT_ROTATE,
        "agent_enable": AGENT_ENABLE,
        "presence_connected": PRESENCE_CONNECTED,
        "presence_heartbeat": PRESENCE_HEARTBEAT,
        "presence_disconnected": PRESENCE_DISCONNECTED,
        "presence_each": PRESENCE_EACH,
        "publish": PUBLISH,
        "publish_plain": PUBLISH_PLAIN,
        "mark_delivered": MARK_DELIVERED,
        "settle_ack": SETTLE_ACK,
        "settle_retry": SETTLE_RETRY,
        "settle_dead": SETTLE_DEAD,
        "settle_expired": SETTLE_EXPIRED,
        "settle_each": SETTLE_EACH,
        "dead_redrive": DEAD_REDRIVE,
        "dead_wait": DEAD_WAIT,
        "dead_ready": DEAD_READY,
        "alerts_offline": ALERTS_OFFLINE,
        "alerts_escalate": ALERTS_ESCALATE,
        "alerts_away": ALERTS_AWAY,
        "alerts_raise": ALERTS_RAISE,
        "alerts_raised": ALERTS_RAISED,
        "alerts_due": ALERTS_DUE,
        "alerts_mark": ALERTS_MARK,
        "alerts_whom": ALERTS_WHOM,
        "alerts_tell": ALERTS_TELL,
        "agent_metrics_recent": AGENT_METRICS_RECENT,
    ]
}

/// The longest value that a broker writes to each column without names: `varchar(20)` is enough for a status.
pub(super) fn longest() -> Value {
    json!({
        "status": 9, "message_type": 9, "severity": 8, "alert_type": 13, "role": 12, "offline_reason": 12,
        "resolved_by": 8, "error_message": REASON_BYTES_MAX, "message": 2 * NAME_BYTES_MAX,
    })
}

/// Applies a migration or a trigger.
pub(super) fn apply(name: &str, sql: &str) -> Value {
    json!({"level": "refuse", "table": null, "so": name, "acts": ["apply"], "sql": sql})
}

/// Looks for rows that a unique index would refuse, before anything locks their table.
pub(super) fn unique(name: &str, index: &IndexWanted) -> Value {
    let (columns, condition) = index.key();
    json!({
        "level": "refuse", "table": null, "so": name, "acts": ["unique"], "index": index.name, "of": index.table,
        "columns": columns, "condition": condition,
    })
}

/// Makes the deliveries of waiting messages.
pub(super) fn adopt() -> Value {
    step("refuse", MESSAGES, "what waits cannot be given its deliveries", &["adopt"])
}

/// The life of a message, of the agents that send and take it, and of an alert.
pub(super) fn life() -> Vec<Value> {
    let mut steps = registering();
    steps.extend(inserting());
    steps.extend(settling());
    steps.extend(sending());
    steps.extend(presence());
    steps.extend(others());
    steps
}

fn step(level: &str, table: &str, so: &str, acts: &[&str]) -> Value {
    json!({"level": level, "table": table, "so": so, "acts": acts})
}

fn with(mut step: Value, more: Value) -> Value {
    if let (Some(step), Value::Object(more)) = (step.as_object_mut(), more) {
        step.extend(more);
    }
    step
}

/// A registry may only take other types and environments than `agent add` gives. At worst, agents are registered
/// already.
fn registering() -> Vec<Value> {
    let so = "no agent can be registered (`postbell agent add`)";
    let otherwise = "an agent with the defaults of `postbell agent add` is refused, though one like those that are there is not";
    let way = |acts: &[&str], way: &str| {
        with(
            step("refuse", REGISTRY, so, acts),
            json!({"goal": "agents", "way": way, "otherwise": otherwise}),
        )
    };
    vec![
        way(&["register"], "own"),
        way(&["words", "register"], "like others"),
        way(&["borrow"], "like others"),
        // A mesh with short names may keep them short.
        with(
            step(
                "warn",
                REGISTRY,
                "agents with names as long as the protocol allows cannot be registered",
                &["long name"],
            ),
            json!({"needs": ["agents"], "only": TOO_LONG}),
        ),
        step("warn", REGISTRY, "no agent can be given a new token (`postbell agent rotate`)", &["rotate"]),
        step("warn", REGISTRY, "no agent can be disabled or enabled", &["enable"]),
    ]
}

/// Inserts a message as a producer that knows only the old columns. A mesh may have words of its own.
fn inserting() -> Vec<Value> {
    let so = "no message can be inserted and delivered";
    let otherwise = "a message with an empty payload is refused, though one like those that are there is not";
    let way = |acts: &[&str], way: &str, word: Option<&str>| {
        with(
            step("refuse", MESSAGES, so, acts),
            json!({"goal": "message", "way": way, "word": word, "otherwise": otherwise}),
        )
    };
    let mut ways = vec![way(&["insert", "look"], "own", None)];
    ways.extend(MessageType::ALL.iter().map(|t| way(&["word", "insert", "look"], "own", Some(t.as_str()))));
    ways.push(way(&["like others", "insert", "look"], "like others", None));
    ways
}

/// Every outcome, with the longest reason.
fn settling() -> Vec<Value> {
    let reason = "x".repeat(REASON_BYTES_MAX);
    let outcome = |level: &str, so: &str, acts: &[&str], status: &str| {
        let acts: Vec<&str> = ["insert"].iter().chain(acts).copied().collect();
        let more = json!({"needs": ["message"], "status": status, "reason": reason, "writes": ["status", "error_message"]});
        with(step(level, MESSAGES, so, &acts), more)
    };
    let short = json!({"reason": "x"});
    vec![
        outcome("refuse", "acknowledgements cannot be written", &["ack"], "processed"),
        outcome("warn", "messages that are with an agent cannot be marked delivered", &["mark"], "delivered"),
        outcome(
            "refuse",
            "acknowledgements of what was marked delivered cannot be written",
            &["mark", "ack"],
            "processed",
        ),
        outcome("warn", "messages that fail cannot be retried", &["mark", "again"], "pending"),
        outcome("warn", "dead letters with a long reason cannot be written", &["dead"], "failed"),
        with(outcome("warn", "dead letters cannot be written", &["dead"], "failed"), short.clone()),
        // A rule may make the broker write outcomes one by one.
        with(
            step(
                "warn",
                MESSAGES,
                "outcomes are written one by one, fewer of them a second",
                &["insert", "ack in one"],
            ),
            json!({"needs": ["message"], "only": NOT_WITH_A_RULE}),
        ),
        with(outcome("warn", "dead letters cannot be redriven", &["dead", "redrive"], "pending"), short),
        outcome("warn", "messages that expired cannot be marked failed", &["expire"], "failed"),
        with(
            step("warn", MESSAGES, "retention cannot remove messages", &["insert", "ack", "delete"]),
            json!({"needs": ["message"]}),
        ),
    ]
}

/// Sends, with the longest values that the protocol allows.
fn sending() -> Vec<Value> {
    let long = "x".repeat(NAME_BYTES_MAX);
    let send = |so: &str, send: Value, acts: &[&str]| {
        with(step("warn", MESSAGES, so, acts), json!({"needs": ["message"], "send": send}))
    };
    let arriving = |so: &str, asked: Value| send(so, asked, &["send", "arrives"]);
    let named =
        |so: &str, column: &str| with(arriving(so, json!({column: long})), json!({"writes": [column]}));
    let mut steps: Vec<Value> = MessageType::ALL
        .iter()
        .map(|t| {
            let so = format!("agents cannot send messages of type {}", t.as_str());
            with(
                arriving(&so, json!({"type": t.as_str()})),
                json!({"type": t.as_str(), "writes": ["message_type"]}),
            )
        })
        .collect();
    let slower = "what agents send is inserted by a slower statement";
    steps.push(with(send(slower, json!({}), &["send in one"]), json!({"only": ONLY_PLAIN})));
    steps.extend([
        with(
            step("warn", MESSAGES, "messages to all cannot be inserted", &["broadcast"]),
            json!({"needs": ["message"]}),
        ),
        // A message that is inserted and reaches nobody would be lost without a word.
        with(
            step("refuse", MESSAGES, "messages to all reach nobody", &["broadcast", "arrives"]),
            json!({"needs": ["agents", "messages to all cannot be inserted"]}),
        ),
        with(
            arriving(
                "nobody can send to agents with names as long as the protocol allows",
                json!({"to": long}),
            ),
            json!({"inbox": long, "only": TOO_LONG, "writes": ["to_agent_id", "from_agent_id"]}),
        ),
        arriving("agents cannot send with priority 1", json!({"priority": 1})),
        arriving("agents cannot send with priority 10", json!({"priority": 10})),
        with(
            send(
                "agents cannot send to a topic",
                json!({"to": null, "topic": "postbell.rehearsal"}),
                &["subscribe", "send", "arrives"],
            ),
            json!({"needs": ["agents", "message"], "topic": "postbell.rehearsal"}),
        ),
        with(
            arriving("agents cannot send to an environment", json!({"to": null, "environment": true})),
            json!({"needs": ["agents", "message"]}),
        ),
        with(
            arriving("agents cannot send to a group", json!({"to": null, "group": "postbell-rehearsal"})),
            json!({"inbox": "group:postbell-rehearsal"}),
        ),
        named("replies to a process cannot be sent", "to_instance"),
        named("messages with an ordering key cannot be sent", "ordering_key"),
        named("messages with a dedupe key cannot be sent", "dedupe_key"),
        named("messages with a correlation id cannot be sent", "correlation_id"),
        arriving("messages with headers cannot be sent", json!({"headers": r#"{"traceparent":"x"}"#})),
        arriving("delayed messages cannot be sent", json!({"delay_ms": 60_000})),
        arriving("messages that expire cannot be sent", json!({"ttl_ms": 60_000})),
    ]);
    steps
}

/// Every word that a broker writes about an agent.
fn presence() -> Vec<Value> {
    let presence = |so: &str, acts: &[&str], more: Value| {
        with(with(step("warn", REGISTRY, so, acts), json!({"needs": ["agents"]})), more)
    };
    let said = json!({"presence": "online", "capabilities": r#"{"rehearsal":true}"#, "version": "x".repeat(NAME_BYTES_MAX)});
    vec![
        presence("agents that connect cannot be written online", &["online"], json!({"presence": "online"})),
        presence("what an agent says of itself cannot be written", &["online"], said),
        presence("heartbeats cannot be written", &["online", "heartbeat"], json!({"presence": "online"})),
        presence(
            "agents that said goodbye cannot be written offline",
            &["offline"],
            json!({"presence": "offline", "reason": "goodbye"}),
        ),
        presence(
            "agents that are gone cannot be written offline",
            &["online", "offline"],
            json!({"presence": "offline", "reason": "disconnected"}),
        ),
    ]
}

fn others() -> Vec<Value> {
    let raised = "alerts of agents that are away cannot be raised";
    let then = |so, acts| with(step("warn", ALERTS, so, acts), json!({"needs": ["agents", raised]}));
    vec![
        with(step("warn", ALERTS, raised, &["alert"]), json!({"needs": ["agents"]})),
        then("alerts cannot be escalated", &["alert", "escalate"]),
        with(
            step(
                "warn",
                ALERTS,
                "alerts of agents that are away are raised by slower statements",
                &["alert in one"],
            ),
            json!({"needs": ["agents", raised], "only": NOT_WITH_A_RULE}),
        ),
        with(
            then("alerts are escalated by slower statements", &["alert", "escalate in one"]),
            json!({"only": NOT_WITH_A_RULE}),
        ),
        then("alerts cannot be resolved", &["alert", "resolve"]),
        step("warn", "agent_metrics", "what agents measure cannot be read", &["measure"]),
    ]
}
