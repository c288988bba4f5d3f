//! Wall clocks, which jump: the database's, and each broker's.
//!
//! The database's clock decides who is alive, what is due, whether somebody rings, and the rank of a session. No decision of a
//! broker reads its own wall clock: a broker has an [`Instant`](std::time::Instant), which does not jump. The plants read it.

use postbell_engine::inbox::Rank;
use rand::RngExt;
use rand::rngs::SmallRng;

use crate::faults::{Fault, Timed};
use crate::leases::LEASE;
use crate::network::Caller;
use crate::plants::Plant;
use crate::schedule::{MS, Micros, SECOND};
use crate::world::World;

/// The clocks begin here, so that none of them is ever below zero.
const BEGIN: i64 = 1_000_000 * SECOND as i64;
const HOUR: Micros = 3_600 * SECOND;
/// One case of so many has steps.
const CASES_PER_STEPS: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    Database,
    Broker(usize),
}

/// How far each is from the time of the case, beside [`BEGIN`].
#[derive(Default)]
pub(crate) struct Clocks {
    database: i64,
    brokers: [i64; 2],
    /// When the database's clock last jumped forward.
    forward_at: Option<Micros>,
    /// The highest rank that it has given.
    last_rank: i64,
}

/// By milliseconds to hours, forward or backward.
pub(crate) fn draw_steps(rng: &mut SmallRng, others: &[Timed], until: Micros) -> Vec<Timed> {
    if !rng.random_ratio(1, CASES_PER_STEPS) {
        return Vec::new();
    }
    let step = |rng: &mut SmallRng| {
        let clock = match rng.random_range(0..4) {
            0 | 1 => Clock::Database,
            n => Clock::Broker(n - 2),
        };
        let most = [SECOND, 10 * SECOND, 100 * SECOND, 3 * HOUR][rng.random_range(0..4)];
        let by = rng.random_range(100 * MS..most) as i64;
        let fault = Fault::ClockStep(clock, if rng.random_bool(0.5) { by } else { -by });
        // Many jump while something else breaks.
        let about = others.get(rng.random_range(0..=others.len())).filter(|_| rng.random_bool(0.7));
        let at = match about {
            Some(other) => other.at + rng.random_range(0..SECOND),
            None => rng.random_range(0..until),
        };
        Timed { at, lasts: MS, fault }
    };
    (0..rng.random_range(1..4)).map(|_| step(rng)).collect()
}

impl World {
    pub(crate) fn clock_steps(&mut self, clock: Clock, by: i64) {
        match clock {
            Clock::Database => {
                self.clocks.database += by;
                self.order.has_jumped = self.database.messages.router.broker.is_some();
                if by > 0 {
                    self.clocks.forward_at = Some(self.now);
                    // The time until which producers ring is over, until an armed broker renews its lease.
                    self.check.unannounced = [true; 2];
                }
            }
            Clock::Broker(b) => {
                self.clocks.brokers[b] += by;
                if self.plant == Some(Plant::LeaseByOwnClock) {
                    self.lease_is_longer(b, -by);
                }
            }
        }
    }

    /// The database's clock: `now()` and `clock_timestamp()` of a statement.
    pub(crate) fn database_now(&self) -> Micros {
        (self.now as i64 + BEGIN + self.clocks.database) as Micros
    }

    /// When a time of the database's clock comes, if the clock does not jump before.
    pub(crate) fn time_of_case(&self, at: Micros) -> Micros {
        (at as i64 - BEGIN - self.clocks.database).max(0) as Micros
    }

    /// agent_authenticate.sql: the database's clock, in µs. After a jump back a new session has a lower rank than one of before
    /// that still stands, which then keeps the place; a case with it is let pass.
    pub(crate) fn rank(&mut self, b: usize, query: u64) -> Rank {
        let now = self.database_now() as i64;
        let caller =
            self.brokers[b].doors.get(&query).and_then(|conn| self.conns.get(conn)).map(|conn| conn.caller);
        if let Some(Caller::Agent(a, _)) = caller
            && now < self.clocks.last_rank
        {
            self.may_be_overtaken_from_now_on(a);
        }
        self.clocks.last_rank = self.clocks.last_rank.max(now);
        Rank(match self.plant {
            Some(Plant::RankByOwnClock) => self.now as i64 + BEGIN + self.clocks.brokers[b],
            _ => now,
        })
    }

    /// The database's clock has jumped over the end of a lease, and another broker may have the inbox, or forget the owner. The
    /// owner goes on for as long as its lease was, since it reads no clock but its own.
    pub(crate) fn may_have_two_owners(&self) -> bool {
        self.clocks.forward_at.is_some_and(|at| self.now < at + LEASE)
    }
}
