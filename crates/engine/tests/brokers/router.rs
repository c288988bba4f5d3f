//! The task of the router: one statement at a time, as the real [`Router`] says.

use postbell_engine::router::{Router, RouterStep, Routing};
use std::time::{Duration, Instant};

use crate::asks::{RouterAsk, RouterEpoch, Sight, Until};
use crate::messages::{LEFT, PROBED};
use crate::plants::Plant;
use crate::routing::{RouterReply, sight};
use crate::schedule::{Micros, SECOND};
use crate::statements::{Ask, Reply, Task};
use crate::world::{What, World};

/// A round is given up after so long.
const ROUND_WAIT: Micros = 3 * SECOND;

/// See the module.
#[derive(Default)]
pub(crate) struct RouterTask {
    router: Option<Router>,
    /// The epoch, and how far it came.
    place: Option<(RouterEpoch, Sight)>,
    query: Option<u64>,
    /// The statement that is under way: when it began, and for how long it says that messages may be left.
    began: Option<(Instant, Option<Duration>)>,
    due: Option<Micros>,
}

impl RouterTask {
    fn router(&mut self, now: Instant) -> &mut Router {
        self.router.get_or_insert_with(|| Router::new(Routing::Auto, now))
    }

    /// The statement for what is to be done now.
    fn ask(&mut self, now: Instant) -> Option<RouterAsk> {
        let step = self.router(now).step(now);
        self.began = Some((now, None));
        let place = self.place.clone();
        match (step, place) {
            (RouterStep::Wait, _) => None,
            (RouterStep::Take, _) => Some(RouterAsk::Take),
            (RouterStep::Route { leave }, Some((epoch, after))) => {
                self.began = Some((now, leave));
                let until = leave.map(|leave| if leave.is_zero() { Until::Now } else { Until::Ahead });
                Some(RouterAsk::Route { epoch, after, until })
            }
            // The model has no sweep that takes what is noted.
            (RouterStep::Note, Some((epoch, after))) => Some(RouterAsk::Route { epoch, after, until: None }),
            (RouterStep::Mark { stop }, Some((epoch, _))) => {
                Some(RouterAsk::Mark(epoch, if stop { Until::Never } else { Until::Now }))
            }
            (RouterStep::GiveBack, Some((epoch, _))) => Some(RouterAsk::GiveBack(epoch)),
            (_, None) => unreachable!("a router has its place"),
        }
    }
}

impl World {
    /// The statement that is due, if none is on its way.
    pub(crate) fn router_due(&mut self, b: usize) {
        let now = self.instant();
        let id = self.brokers[b].id;
        let task = &mut self.brokers[b].router;
        if self.plan.routed.is_none() || task.query.is_some() {
            return;
        }
        if let Some(ask) = task.ask(now) {
            let query = self.ask(b, Task::Router, Ask::Router(id, ask), ROUND_WAIT);
            self.brokers[b].router.query = Some(query);
            return;
        }
        let due = task.router(now).due().map(|due| self.micros(due).max(self.now + 1));
        if let Some(due) = due.filter(|due| self.brokers[b].router.due != Some(*due)) {
            self.brokers[b].router.due = Some(due);
            self.plan_for(b, due, What::RouterDue);
        }
    }

    pub(crate) fn router_answered(&mut self, b: usize, number: u64, reply: Result<Reply, ()>) {
        let now = self.instant();
        let drops = self.plant == Some(Plant::DrainedTooEarly);
        let task = &mut self.brokers[b].router;
        if task.query != Some(number) {
            return;
        }
        task.query = None;
        let (began, left) = task.began.take().unwrap_or((now, None));
        let is_router = task.router(now).is_router();
        match reply {
            Ok(Reply::Router(RouterReply::Took(epoch, routed))) => {
                task.place = Some((epoch, sight(&routed)));
                task.router(now).taken(now);
            }
            Ok(Reply::Router(RouterReply::Round(seen, rows))) => {
                let mut sight = sight(&seen);
                if drops {
                    sight.in_progress.clear();
                }
                let oldest = sight.xmin();
                if let Some((_, after)) = &mut task.place {
                    *after = sight;
                }
                task.router(now).routed((began, now), rows, oldest, left);
            }
            Ok(Reply::Router(RouterReply::Marked(drawn))) => task.router(now).marked(now, drawn),
            Ok(Reply::Router(RouterReply::GaveBack)) => task.router(now).lost(now),
            Ok(Reply::Router(RouterReply::Refused)) if is_router => task.router(now).lost(now),
            Ok(Reply::Router(RouterReply::Refused)) => task.router(now).refused(now),
            _ => task.router(now).failed(now),
        }
    }

    /// Each round of the tail says whether the mesh is busy; the cases say it instead of the number of deliveries.
    pub(crate) fn router_hears_load(&mut self, b: usize) {
        let now = self.instant();
        if self.plan.routed.is_some() {
            let later = if self.plant == Some(Plant::NotWrittenWhileDraining) { LEFT + PROBED } else { 0 };
            let busy = self.is_loaded(later);
            self.brokers[b].router.router(now).load(busy);
        }
    }

    /// Whether the mesh is busy, or was so shortly before.
    pub(crate) fn is_loaded(&self, before: Micros) -> bool {
        let is_now = |(from, to): &(Micros, Micros)| (*from..to + before).contains(&self.now);
        self.plan.routed.as_ref().is_some_and(|routed| routed.busy.iter().any(is_now))
    }

    pub(crate) fn router_is_orphaned(&mut self, b: usize) {
        let now = self.instant();
        self.brokers[b].router.router(now).orphaned(true);
    }
}
