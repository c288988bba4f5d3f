//! Producers: transactions with several inserts, savepoints and waits, as their script says. A row is inserted at its own time
//! within a statement; the trigger comes at the statement's end.

use rand::RngExt;

use crate::database::Row;
use crate::messages::{Message, PROBED, View};
use crate::plants::Plant;
use crate::schedule::{MS, Micros, SECOND};
use crate::scripts::{Act, NewRow, Script, Wait};
use crate::world::{To, What, World};

/// A statement that inserts.
#[derive(Debug)]
pub(crate) struct Statement {
    pub(crate) view: View,
    left: std::collections::VecDeque<NewRow>,
    /// Rows for the trigger.
    pub(crate) for_trigger: Vec<i64>,
    is_drawn: bool,
    /// The answer of triggers/leave.sql, where it was read before the id is drawn.
    read: Option<(bool, bool)>,
    /// Until when it waits for the router.
    pub(crate) bulk_until: Option<Micros>,
}

/// How much of a transaction is there: messages, deliveries, broadcasts, rows.
type Size = (usize, usize, usize, usize);

/// A transaction as it runs.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    step: usize,
    pub(crate) xid: Option<u64>,
    /// The one snapshot of a transaction that keeps it.
    view: Option<View>,
    pub(crate) statement: Option<Statement>,
    pub(crate) messages: Vec<i64>,
    pub(crate) deliveries: Vec<(i64, Row)>,
    pub(crate) broadcasts: Vec<i64>,
    pub(crate) rows: usize,
    savepoint: Option<Size>,
    pub(crate) rings: bool,
    arrival: u64,
    pub(crate) has_ended: bool,
    waiting: Vec<(usize, Micros)>,
}

impl World {
    fn script(&self, t: usize) -> Option<&Script> {
        self.plan.routed.as_ref()?.scripts.get(t)
    }

    /// Goes on with a transaction.
    pub(crate) fn producer_goes_on(&mut self, t: usize) {
        if self.transactions[t].statement.is_some() {
            return self.inserts(t);
        }
        let step = self.transactions[t].step.saturating_sub(1);
        let Some(act) = self.script(t).and_then(|script| script.steps.get(step)).map(|(_, act)| act.clone())
        else {
            return self.transaction_ends(t);
        };
        let transaction = &mut self.transactions[t];
        match act {
            Act::Touch => {
                self.draw_xid(t);
            }
            Act::Savepoint => transaction.savepoint = Some(transaction.size()),
            Act::RollbackTo => self.rolls_back_to_savepoint(t),
            Act::Insert(rows) => {
                let fresh = self.database.view();
                let keeps = self.script(t).is_some_and(|script| script.keeps_snapshot);
                let transaction = &mut self.transactions[t];
                let view = if keeps { transaction.view.get_or_insert(fresh).clone() } else { fresh };
                transaction.statement = Some(Statement {
                    view,
                    left: rows.into(),
                    for_trigger: Vec::new(),
                    is_drawn: false,
                    read: None,
                    bulk_until: None,
                });
                return self.inserts(t);
            }
        }
        self.producer_waits(t);
    }

    /// For what its next step waits for.
    pub(crate) fn producer_waits(&mut self, t: usize) {
        let step = self.transactions[t].step;
        self.transactions[t].step += 1;
        let Some(script) = self.script(t) else { return };
        let wait = script.steps.get(step).map_or(Wait::For(script.ends_after), |(wait, _)| *wait);
        match wait {
            Wait::For(after) => self.plan_in(after, To::World, What::Producer(t)),
            Wait::End(other, after) if self.transactions[other].has_ended => {
                self.plan_in(after, To::World, What::Producer(t));
            }
            Wait::End(other, after) => self.transactions[other].waiting.push((t, after)),
        }
    }

    fn draw_xid(&mut self, t: usize) -> u64 {
        if let Some(xid) = self.transactions[t].xid {
            return xid;
        }
        let xid = self.database.begin_writing();
        self.transactions[t].xid = Some(xid);
        self.transactions[t].arrival = self.rng.random_range(0..1_000) * 1_000;
        xid
    }

    /// Mostly nothing.
    fn stalls(&mut self, t: usize) -> bool {
        let most = match self.rng.random_range(0..400) {
            0..3 => 1_500 * MS,
            3..20 => 4 * MS,
            _ => return false,
        };
        let after = self.rng.random_range(10..most);
        self.plan_in(after, To::World, What::Producer(t));
        true
    }

    /// The rows of a statement, one after another: triggers/leave.sql draws the id, reads the sequence, and answers.
    fn inserts(&mut self, t: usize) {
        let reads_first = self.plant == Some(Plant::IdAfterRead);
        while let Some(statement) = self.transactions[t].statement.as_mut()
            && let Some(row) = statement.left.front().cloned()
        {
            if !std::mem::replace(&mut statement.is_drawn, true) {
                if reads_first {
                    let read = self.reads_left(t);
                    self.transactions[t].statement.as_mut().expect("it runs").read = Some(read);
                } else {
                    self.draw_xid(t);
                }
                if self.stalls(t) {
                    return;
                }
            }
            let xid = self.draw_xid(t);
            let before = self.transactions[t].statement.as_mut().and_then(|s| s.read.take());
            let (is_left, is_excused) = before.unwrap_or_else(|| self.reads_left(t));
            self.insert_row(t, row, xid, is_left, is_excused);
        }
        self.trigger(t);
    }

    /// Whether the next row is left, and whether its order is excused.
    fn reads_left(&mut self, t: usize) -> (bool, bool) {
        let now = self.database_now();
        let transaction = &self.transactions[t];
        let Some(statement) = &transaction.statement else { return (false, false) };
        let is_left = self.database.is_left(now, &statement.view, transaction.xid, transaction.rows);
        (is_left, self.is_order_excused())
    }

    fn insert_row(&mut self, t: usize, row: NewRow, xid: u64, is_left: bool, is_excused: bool) {
        let transaction = &mut self.transactions[t];
        let Some(statement) = &mut transaction.statement else { return };
        statement.left.pop_front();
        statement.is_drawn = false;
        transaction.rows += 1;
        transaction.arrival += 1;
        let message = Message {
            to: row.to,
            is_broadcast: row.is_broadcast,
            lane: row.lane,
            xid,
            is_left,
            arrival: transaction.arrival,
            began: statement.view.moment,
            committed: None,
            over: None,
            is_deleted: false,
            is_polled: false,
            is_excused,
        };
        let id = self.database.messages.insert(message);
        transaction.messages.push(id);
        if !is_left {
            statement.for_trigger.push(id);
        }
        if self.log.is_some() {
            let m = self.database.messages.rows.get(&id).cloned();
            self.note(|_| format!("producer {t}: message {id} {m:?}"));
        }
        if is_left {
            self.check_is_left_to_somebody(id);
        }
    }

    fn rolls_back_to_savepoint(&mut self, t: usize) {
        let transaction = &mut self.transactions[t];
        let Some((messages, deliveries, broadcasts, rows)) = transaction.savepoint else { return };
        for id in transaction.messages.drain(messages..) {
            self.database.messages.rows.remove(&id);
        }
        transaction.deliveries.truncate(deliveries);
        transaction.broadcasts.truncate(broadcasts);
        transaction.rows = rows;
    }

    fn transaction_ends(&mut self, t: usize) {
        let commits = self.script(t).is_some_and(|script| script.commits);
        let moment = self.database.messages.next_moment();
        let transaction = &mut self.transactions[t];
        transaction.has_ended = true;
        let (xid, messages) = (transaction.xid, transaction.messages.clone());
        let (deliveries, broadcasts) =
            (std::mem::take(&mut transaction.deliveries), std::mem::take(&mut transaction.broadcasts));
        self.note(|world| {
            format!("producer {t}: ends {xid:?}, commits {commits}: {:?}", world.transactions[t].messages)
        });
        let transaction = &mut self.transactions[t];
        let (rings, waiting) = (transaction.rings, std::mem::take(&mut transaction.waiting));
        if let Some(xid) = xid {
            self.database.messages.running.remove(&xid);
        }
        for id in messages {
            if !commits {
                self.database.messages.rows.remove(&id);
            } else if let Some(message) = self.database.messages.rows.get_mut(&id) {
                message.committed = Some(moment);
            }
        }
        if commits {
            deliveries.into_iter().for_each(|(id, row)| self.deliver(id, row));
            self.database.messages.broadcasts.extend(broadcasts);
            if rings {
                (0..2).for_each(|b| self.notify(b, What::Ring));
            }
        }
        for (other, after) in waiting {
            self.plan_in(after, To::World, What::Producer(other));
        }
    }
}

impl Transaction {
    fn size(&self) -> Size {
        (self.messages.len(), self.deliveries.len(), self.broadcasts.len(), self.rows)
    }
}

/// A producer that waits for nothing in particular waits so long at most.
pub(crate) const OPEN_MAX: Micros = 7 * SECOND;
const _: () = assert!(OPEN_MAX > PROBED * 2);
