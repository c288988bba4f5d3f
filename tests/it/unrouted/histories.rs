//! Histories of rows against a plain model. Messages are inserted with or without triggers, set back, readdressed,
//! ended in any word, deleted, acknowledged and given up: they have exactly the deliveries of the model, whatever
//! looks at them in between.

use std::collections::BTreeMap;

use postbell::store::Connection;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::harness::{TestDb, migrated, texts};

/// A change to one message.
#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(usize, To, bool),
    Readdress(usize, To, bool),
    Status(usize, &'static str, bool),
    Ack(usize),
    Dead(usize),
    Delete(usize, bool),
    Sweep,
    Look,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    A,
    B,
    Group,
    All,
}

impl To {
    fn columns(self) -> (&'static str, &'static str) {
        match self {
            Self::A => ("'a'", "null"),
            Self::B => ("'b'", "null"),
            Self::Group => ("null", "'g'"),
            Self::All => ("null", "null"),
        }
    }

    fn inboxes(self) -> &'static [&'static str] {
        match self {
            Self::A => &["a"],
            Self::B => &["b"],
            Self::Group => &["group:g"],
            Self::All => &["a", "b"],
        }
    }
}

/// A message as the model has it.
#[derive(Clone, Debug)]
struct Row {
    to: To,
    status: &'static str,
    /// Inboxes, and whether each is a dead letter.
    waits: BTreeMap<&'static str, bool>,
    /// Changes that no trigger saw, until somebody looks.
    moved: bool,
    set_back: bool,
    noted: bool,
    routed: bool,
}

fn waiting(to: To) -> BTreeMap<&'static str, bool> {
    to.inboxes().iter().map(|inbox| (*inbox, false)).collect()
}

fn is_open(status: &str) -> bool {
    status == "pending" || status == "delivered"
}

impl Row {
    /// Deliveries follow the row, in the transaction or at the next sweep.
    fn follow(&mut self, moved: bool, set_back: bool) {
        if !is_open(self.status) {
            if self.to != To::All {
                self.waits.retain(|_, dead| *dead);
            }
            return;
        }
        if moved {
            let had = !self.waits.is_empty();
            self.waits.clear();
            self.routed = false;
            if self.status == "pending" {
                self.route();
            } else if had && self.to != To::All {
                self.waits = waiting(self.to);
            }
            return;
        }
        if self.status != "pending" {
            return;
        }
        if set_back {
            self.waits.values_mut().for_each(|dead| *dead = false);
            if self.waits.is_empty() {
                self.routed = false;
            }
        }
        self.route();
    }

    fn route(&mut self) {
        let is_new = self.to != To::All || !self.routed;
        if self.waits.is_empty() && is_new && self.status == "pending" {
            self.waits = waiting(self.to);
            self.routed = true;
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let to = prop_oneof![Just(To::A), Just(To::B), Just(To::Group), Just(To::All)];
    let n = 0..4usize;
    let word = prop_oneof![
        3 => Just("pending"), 1 => Just("delivered"), 1 => Just("processed"), 1 => Just("failed"), 1 => Just("archived")
    ];
    let step = prop_oneof![
        4 => (n.clone(), to.clone(), any::<bool>()).prop_map(|(n, to, seen)| Step::Insert(n, to, seen)),
        2 => (n.clone(), to, any::<bool>()).prop_map(|(n, to, seen)| Step::Readdress(n, to, seen)),
        4 => (n.clone(), word, any::<bool>()).prop_map(|(n, word, seen)| Step::Status(n, word, seen)),
        3 => n.clone().prop_map(Step::Ack),
        1 => n.clone().prop_map(Step::Dead),
        1 => (n, any::<bool>()).prop_map(|(n, seen)| Step::Delete(n, seen)),
        2 => Just(Step::Sweep),
        1 => Just(Step::Look),
    ];
    prop::collection::vec(step, 1..25)
}

fn id(n: usize) -> String {
    format!("'00000000-0000-7000-8000-00000000000{n}'")
}

const SETTLE: &str = "set postbell.broker = on";
const PLAIN: &str = "set postbell.broker = off";

/// One step on the database, as the broker or somebody else does it; `None` if there is nothing to do it to.
fn statement(step: Step, rows: &BTreeMap<usize, Row>) -> Option<String> {
    let unseen = |seen: bool, sql: String| match seen {
        true => sql,
        false => format!("begin; set local session_replication_role = replica; {sql}; commit"),
    };
    Some(match step {
        Step::Insert(n, to, seen) if !rows.contains_key(&n) => {
            let ((agent, group), id) = (to.columns(), id(n));
            unseen(seen, format!(
                "insert into agent_messages (message_id, from_agent_id, to_agent_id, to_group, message_type, payload)
                 values ({id}, 's', {agent}, {group}, 'data', '1')"
            ))
        }
        Step::Readdress(n, to, seen) if rows.contains_key(&n) => {
            let (agent, group) = to.columns();
            unseen(seen, format!("update agent_messages set to_agent_id = {agent}, to_group = {group} where message_id = {}", id(n)))
        }
        Step::Status(n, word, seen) if rows.contains_key(&n) => {
            unseen(seen, format!("update agent_messages set status = '{word}' where message_id = {}", id(n)))
        }
        // The first delivery that waits, as settle_ack.sql and settle_dead.sql treat it.
        Step::Ack(n) if rows.get(&n).is_some_and(|r| r.waits.values().any(|dead| !dead)) => format!(
            "{SETTLE}; with one as (delete from postbell.deliveries where delivery_id = (
               select delivery_id from postbell.deliveries where message_id = {0} and state <> 'dead' order by inbox limit 1) returning 1)
             update agent_messages m set status = 'processed' from one
             where m.message_id = {0} and coalesce(m.status, 'pending') in ('pending', 'delivered')
               and (coalesce(to_agent_id, to_group) is not null
                    or (select count(*) from postbell.deliveries d where d.message_id = {0}) = 1); {PLAIN}",
            id(n)
        ),
        Step::Dead(n) if rows.get(&n).is_some_and(|r| r.waits.values().any(|dead| !dead)) => format!(
            "{SETTLE}; with one as (update postbell.deliveries set state = 'dead', dead_at = now(), due_at = null where delivery_id = (
               select delivery_id from postbell.deliveries where message_id = {0} and state <> 'dead' order by inbox limit 1) returning 1)
             update agent_messages m set status = 'failed' from one
             where m.message_id = {0} and coalesce(m.status, 'pending') in ('pending', 'delivered')
               and coalesce(to_agent_id, to_group) is not null; {PLAIN}",
            id(n)
        ),
        Step::Delete(n, seen) if rows.contains_key(&n) => {
            unseen(seen, format!("delete from agent_messages where message_id = {}", id(n)))
        }
        Step::Sweep => "select from postbell.sweep(100)".to_owned(),
        _ => return None,
    })
}

/// The same step on the model. A message that is deleted unseen leaves its deliveries, as `ghosts`, until the next
/// sweep.
fn apply(step: Step, rows: &mut BTreeMap<usize, Row>) {
    let first = |row: &Row| row.waits.iter().find(|(_, dead)| !**dead).map(|(inbox, _)| *inbox);
    match step {
        Step::Insert(n, to, seen) => {
            let mut row = Row {
                to,
                status: "pending",
                waits: BTreeMap::new(),
                moved: false,
                set_back: false,
                noted: !seen,
                routed: false,
            };
            if seen {
                row.route();
            }
            rows.insert(n, row);
        }
        Step::Readdress(n, to, seen) => {
            let row = rows.get_mut(&n).unwrap();
            let moved = row.to != to;
            row.to = to;
            if !moved {
            } else if seen {
                row.follow(true, false);
            } else {
                (row.noted, row.moved) = (true, true);
            }
        }
        Step::Status(n, word, seen) => {
            let row = rows.get_mut(&n).unwrap();
            let was = row.status;
            row.status = word;
            let set_back = word == "pending" && was != "pending";
            if was == word {
            } else if !seen {
                row.noted = true;
                row.set_back |= set_back;
            } else if is_open(word) {
                row.follow(false, set_back);
            } else if row.to != To::All {
                // A seen change takes a dead letter away too: somebody has handled it.
                row.waits.remove(row.to.inboxes()[0]);
            }
        }
        Step::Ack(n) => {
            let row = rows.get_mut(&n).unwrap();
            let inbox = first(row).unwrap();
            row.waits.remove(inbox);
            if is_open(row.status) && (row.to != To::All || row.waits.is_empty()) {
                row.status = "processed";
            }
        }
        Step::Dead(n) => {
            let row = rows.get_mut(&n).unwrap();
            let inbox = first(row).unwrap();
            row.waits.insert(inbox, true);
            if is_open(row.status) && row.to != To::All {
                row.status = "failed";
            }
        }
        Step::Delete(n, _) => {
            rows.remove(&n);
        }
        Step::Sweep | Step::Look => {
            for row in rows.values_mut().filter(|r| r.noted) {
                let (moved, set_back) = (row.moved, row.set_back);
                row.follow(moved, set_back);
                (row.noted, row.moved, row.set_back) = (false, false, false);
            }
        }
    }
}

fn expected(rows: &BTreeMap<usize, Row>) -> Vec<String> {
    let mut all = Vec::new();
    for (n, row) in rows {
        for (inbox, dead) in &row.waits {
            all.push(format!("{n} {inbox}{}", if *dead { " dead" } else { "" }));
        }
    }
    all.sort();
    all
}

const FOUND: &str =
    "select right(message_id::text, 1) || ' ' || inbox || case state when 'dead' then ' dead' else '' end
                     from postbell.deliveries order by 1";

async fn check(db: &TestDb, steps: &[Step]) -> Result<(), TestCaseError> {
    let client: Connection = db.client().await;
    let setup = "truncate agent_messages; truncate postbell.unseen; delete from agent_registry;
                 alter table agent_messages drop constraint if exists agent_messages_status_check;
                 insert into agent_registry (agent_id, agent_name, agent_type, environment, status)
                 values ('a', 'a', 't', 'pc', 'offline'), ('b', 'b', 't', 'pc', 'offline')";
    client.batch(setup).await.expect("two agents");
    let mut rows = BTreeMap::new();
    let mut done = Vec::new();
    for step in steps.iter().copied() {
        // Looking at all is for triggers that were touched; here it follows a sweep and must change nothing.
        let look = matches!(step, Step::Look);
        let step = if look { Step::Sweep } else { step };
        let Some(sql) = statement(step, &rows) else { continue };
        // A delivery may wait for a change that nobody has seen yet. A sweep comes first, so that an ack is about a
        // delivery that exists.
        if matches!(step, Step::Ack(_) | Step::Dead(_) | Step::Delete(..)) {
            client.batch("select from postbell.sweep(100)").await.expect("sweeps");
            apply(Step::Sweep, &mut rows);
            if statement(step, &rows).is_none() {
                continue;
            }
        }
        client.batch(&sql).await.unwrap_or_else(|e| panic!("{done:?} {step:?}: {e}"));
        apply(step, &mut rows);
        done.push(step);
        if matches!(step, Step::Delete(_, false)) {
            client.batch("select from postbell.sweep(100)").await.expect("sweeps");
        }
        prop_assert_eq!(texts(&client, FOUND).await, expected(&rows), "after {:?}", done);
        if look {
            client.batch("select postbell.look_at_all()").await.expect("looks");
            // No delivery of an ended message waits, whoever ended it; nothing else changes.
            prop_assert_eq!(texts(&client, FOUND).await, expected(&rows), "looked at after {:?}", done);
        }
    }
    Ok(())
}

#[test]
fn deliveries_are_what_the_rows_say() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &[13; 32]),
    );
    let db = runtime.block_on(migrated());
    let result = runner.run(&steps(), |steps| runtime.block_on(check(&db, &steps)));
    if let Err(e) = result {
        panic!("{e}");
    }
}
