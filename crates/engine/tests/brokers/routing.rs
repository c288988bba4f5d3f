//! The router's statements at the server: a snapshot at the beginning, a wait for the row's lock, a new look at the row, and a
//! commit at the end. Any of them may be slow, or end by an error.

use std::collections::{BTreeMap, VecDeque};

use rand::RngExt;
use uuid::Uuid;

use crate::asks::{RouterAsk, RouterEpoch, Sight};
use crate::database::{Row, Seen};
use crate::faults::Fault;
use crate::messages::Moment;
use crate::plants::Plant;
use crate::schedule::{MS, Micros};
use crate::statements::{Query, Reply};
use crate::world::{To, What, World};

/// `postbell.router`, as it is committed.
#[derive(Clone, Debug)]
pub(crate) struct RouterRow {
    pub(crate) broker: Option<Uuid>,
    pub(crate) epoch: i64,
    pub(crate) routed: Seen,
}

/// Nothing is left before a mesh's first transaction.
impl Default for RouterRow {
    fn default() -> Self {
        Self { broker: None, epoch: 0, routed: Seen { xmax: 10, ..Seen::default() } }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum RouterReply {
    Took(RouterEpoch, Seen),
    Round(Seen, u64),
    Marked(u64),
    GaveBack,
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Lock,
    Work,
    End,
}

/// A statement that runs at the server.
#[derive(Debug)]
pub(crate) struct Running {
    to: To,
    query: Query,
    pub(crate) by: Uuid,
    pub(crate) ask: RouterAsk,
    answer: Option<Micros>,
    pub(crate) seen: Seen,
    pub(crate) moment: Moment,
    /// The row in its sight.
    row: RouterRow,
    /// Whom it takes the row from, if it may.
    from: Option<Option<Uuid>>,
    pub(crate) work: Vec<i64>,
    pub(crate) found: u64,
    pub(crate) step: Step,
    pub(crate) xid: u64,
    has_lock: bool,
    pub(crate) reply: RouterReply,
    pub(crate) made: Vec<(i64, Row)>,
    pub(crate) broadcasts: Vec<i64>,
    pub(crate) rings: bool,
}

/// The statements that run, and who has the row's lock.
#[derive(Debug, Default)]
pub(crate) struct Routing {
    pub(crate) running: BTreeMap<u64, Running>,
    lock: Option<u64>,
    queue: VecDeque<u64>,
}

pub(crate) fn sight(seen: &Seen) -> Sight {
    Sight { xmax: seen.xmax, in_progress: seen.in_progress.iter().copied().collect() }
}

fn seen(sight: &Sight) -> Seen {
    Seen { xmax: sight.xmax, in_progress: sight.in_progress.iter().copied().collect() }
}

impl World {
    /// A statement begins: all that it reads is as it is now.
    pub(crate) fn routing_begins(
        &mut self,
        to: To,
        query: Query,
        by: Uuid,
        ask: RouterAsk,
        answer: Option<Micros>,
    ) {
        let now = self.database_now();
        let view = self.database.view();
        let row = self.database.messages.router.clone();
        let lives = |id: &Uuid| self.database.brokers.get(id).is_some_and(|row| row.lease_until > now);
        let is_free = row.broker.is_none_or(|broker| broker == by || !lives(&broker));
        let from = is_free.then_some(row.broker);
        let (work, found) = match &ask {
            // This plant tells the router another sight than the one that is stored.
            RouterAsk::Route { .. } if self.plant == Some(Plant::DrainedTooEarly) => self.work(&row.routed),
            RouterAsk::Route { after, .. } => self.work(&seen(after)),
            _ => (Vec::new(), 0),
        };
        if self.plant == Some(Plant::SequenceBesideFence)
            && let RouterAsk::Route { until: Some(until), .. } | RouterAsk::Mark(_, until) = ask
        {
            self.write_until(until);
        }
        let running = Running {
            to,
            query,
            by,
            ask,
            answer,
            seen: view.seen,
            moment: view.moment,
            row,
            from,
            work,
            found,
            step: Step::Lock,
            xid: 0,
            has_lock: false,
            reply: RouterReply::Refused,
            made: Vec::new(),
            broadcasts: Vec::new(),
            rings: false,
        };
        self.routing.running.insert(query.number, running);
        self.routing_goes_on_later(query.number);
    }

    pub(crate) fn routing_goes_on_later(&mut self, number: u64) {
        let is_slow = self.is_faulty(|fault| *fault == Fault::SlowRouter);
        let most = match self.rng.random_range(0..if is_slow { 8 } else { 400 }) {
            0 if is_slow => 4_000 * MS,
            0..4 => 30 * MS,
            _ => 200,
        };
        let after = self.rng.random_range(10..most);
        self.plan_in(after, To::World, What::Routing(number));
    }

    pub(crate) fn routing_goes_on(&mut self, number: u64) {
        let Some(running) = self.routing.running.get(&number) else { return };
        match running.step {
            Step::Lock => self.routing_locks(number),
            Step::Work => self.routing_works(number),
            Step::End => {
                let fails = self.is_faulty(|fault| *fault == Fault::RouterErrors);
                let Some(running) = self.routing.running.remove(&number) else { return };
                self.routing_ends(running, fails);
            }
        }
    }

    fn routing_locks(&mut self, number: u64) {
        let Some(mut running) = self.routing.running.remove(&number) else { return };
        // A row that does not match in the statement's sight is not waited for.
        let is_its = self.is_its(&running, &running.row);
        if is_its && self.routing.lock.is_some() {
            self.routing.queue.push_back(number);
            self.routing.running.insert(number, running);
            return;
        }
        if is_its {
            running.xid = self.database.begin_writing();
        }
        if !is_its || !self.is_its(&running, &self.database.messages.router) {
            return self.routing_ends(running, false);
        }
        (running.has_lock, running.step) = (true, Step::Work);
        self.routing.lock = Some(number);
        if let RouterAsk::Route { until: Some(until), epoch, .. } | RouterAsk::Mark(epoch, until) =
            running.ask
        {
            self.order.writes(epoch, until);
            if self.plant != Some(Plant::SequenceBesideFence) {
                self.write_until(until);
            }
        }
        if matches!(running.ask, RouterAsk::Route { .. }) && self.plant == Some(Plant::RoutedBeforeRows) {
            self.database.messages.router.routed = running.seen.clone();
        }
        self.routing.running.insert(number, running);
        self.routing_goes_on_later(number);
    }

    /// Whether the row, at that time, is one that the statement may change.
    fn is_its(&self, running: &Running, row: &RouterRow) -> bool {
        match &running.ask {
            RouterAsk::Take => {
                running.from.is_some() && [running.from, Some(Some(running.by))].contains(&Some(row.broker))
            }
            RouterAsk::Route { .. } if self.plant == Some(Plant::EpochNotChecked) => true,
            RouterAsk::Route { epoch, .. } | RouterAsk::Mark(epoch, _) | RouterAsk::GiveBack(epoch) => {
                row.broker == Some(running.by) && row.epoch == epoch.0
            }
        }
    }

    fn routing_ends(&mut self, mut running: Running, fails: bool) {
        if self.log.is_some() {
            let made: Vec<_> = running.made.iter().map(|(id, row)| (row.message, &row.inbox, *id)).collect();
            let Running { query, ask, seen, has_lock, .. } = &running;
            let line = format!(
                "{}: {ask:?} as {seen:?}, locked {has_lock}, fails {fails}, makes {made:?}",
                query.number
            );
            self.note(|_| line);
        }
        if running.has_lock && !fails {
            self.routing_commits(&mut running);
        }
        self.database.messages.running.remove(&running.xid);
        let To::Broker(b, life) = running.to else { return };
        if let Some(at) = running.answer {
            let reply = if fails { Err(()) } else { Ok(Reply::Router(running.reply)) };
            let at = at.max(self.now + 50);
            self.schedule.at(at, (To::Broker(b, life), What::Answer(running.query, reply)));
        }
        if running.has_lock {
            self.routing.lock = None;
        }
        if self.routing.lock.is_none()
            && let Some(next) = self.routing.queue.pop_front()
        {
            self.routing_locks(next);
        }
    }
}
