//! The plan of faults: what is broken, when and for how long. A pure function of a seed, so that a run can be
//! repeated.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// The seed of the campaign that `cargo test` runs: its two minutes have a whole round.
pub const TEST_SEED: u64 = 1;
/// How many brokers a campaign has.
pub const BROKERS: usize = 2;
/// The first fault comes when the load is steady.
const FIRST_MS: u64 = 3_000;
/// Nothing is broken for this long between two faults, so that a failure then has no excuse.
const QUIET_MS: std::ops::Range<u64> = 1_500..2_500;
/// Time that a fault takes beside its own: a process or a server starts again.
const OVERHEAD_MS: u64 = 1_000;
/// The last fault ends this long before the load does.
const LAST_MS: u64 = 4_000;
/// The last fault ends this long before the load does.
pub const LAST: Duration = Duration::from_millis(LAST_MS);
/// The least time between two faults, also if the first one took longer than planned.
pub const QUIET_MIN: Duration = Duration::from_millis(QUIET_MS.start);

/// A link between two parts, with a proxy on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// Between agents and brokers: the proxy spreads connections over the brokers.
    Agents,
    /// Between a broker and Postgres.
    Database(usize),
    /// Between the plain SQL producers and Postgres.
    Producers,
    /// Between another broker and this one.
    Peer(usize),
}

/// A fault of the network on the connections of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Net {
    /// Everything comes later by so much.
    Delay {
        /// Milliseconds, in each direction.
        ms: u32,
    },
    /// Nothing comes through, and nobody is told; afterwards everything that was sent arrives.
    BlackHole,
    /// One end of each connection is gone and the other is not told, now or later. New connections work.
    HalfOpen {
        /// The end that is told.
        told: End,
    },
    /// Every connection is reset.
    Cut,
    /// Everything comes in small pieces.
    ByteByByte,
    /// Every connection is reset, and the connections that follow arrive in another order.
    Reorder,
}

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The end that connected.
    Client,
    /// The end that accepted.
    Server,
}

/// A kind of connection to Postgres, known by the last statement on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Backend {
    Tail,
    Bell,
    Settler,
    Lease,
    /// Any other connection of the brokers.
    Pool,
    Producers,
}

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
#[expect(missing_docs, reason = "the names say it")]
pub enum Fault {
    /// SIGKILL; started again at the end.
    KillBroker { broker: usize },
    /// SIGSTOP past the lease, then SIGCONT.
    StopBroker { broker: usize },
    /// SIGTERM; started again as soon as it has ended.
    RestartBroker { broker: usize },
    /// SIGKILL of an agent's process; started again at the end.
    KillAgent { process: usize },
    /// SIGSTOP past the deadline of what it holds, then SIGCONT.
    StopAgent { process: usize },
    /// An immediate shutdown, which is a crash; started again at the end.
    CrashPostgres,
    /// A fast shutdown, which ends connections in order; started again at the end.
    RestartPostgres,
    /// `pg_terminate_backend` of every connection of that kind.
    Terminate { backend: Backend },
    /// The data directory has no room left.
    FillDisk,
    /// The primary crashes, and a standby that had every commit is promoted.
    Failover,
    /// A trigger refuses the outcome of every seventh message.
    RefuseRows,
    /// A message whose payload is small to store and enormous as text.
    PoisonRow,
    /// A poller holds rows by `select … for update`, and writes them in the end.
    HoldRows,
    /// Every agent's connection is reset, so that both brokers have sessions when one of them is broken next.
    Spread,
    /// Something is done to a link.
    Network { link: Link, net: Net },
}

/// A fault in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Counted from 1.
    pub number: usize,
    /// When it begins, in milliseconds after the load did.
    pub at_ms: u64,
    /// How long it lasts in milliseconds; 0 if it happens at once.
    pub lasting_ms: u64,
    /// The thing that is broken, and how.
    pub fault: Fault,
}

/// Plans the faults of a campaign of so many milliseconds, with so many agent processes. The same seed gives the same
/// plan, and a longer campaign begins like a shorter one.
pub fn plan(seed: u64, campaign_ms: u64, processes: usize) -> Vec<Planned> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut rounds = Rounds::default();
    let (mut planned, mut at_ms) = (Vec::new(), FIRST_MS);
    loop {
        for fault in rounds.next(&mut dice, processes) {
            let spread = breaks_a_broker(fault).then_some(Fault::Spread);
            for fault in spread.into_iter().chain([fault]) {
                let lasting_ms = lasting(fault, &mut dice);
                if at_ms + lasting_ms + LAST_MS > campaign_ms {
                    return planned;
                }
                planned.push(Planned { number: planned.len() + 1, at_ms, lasting_ms, fault });
                let overhead_ms = if fault == Fault::Spread { 0 } else { OVERHEAD_MS };
                at_ms += lasting_ms + overhead_ms + dice.random_range(QUIET_MS);
            }
        }
    }
}

/// Plans one long outage of the database, which is back before the load ends.
pub fn outage(lasting_ms: u64) -> Vec<Planned> {
    vec![Planned { number: 1, at_ms: FIRST_MS, lasting_ms, fault: Fault::CrashPostgres }]
}

/// The rounds of a plan. A round has every kind of fault once, in an order of its own. The targets of each kind take
/// turns, so that a few rounds meet every target.
#[derive(Default)]
struct Rounds {
    done: usize,
}

impl Rounds {
    fn next(&mut self, dice: &mut StdRng, processes: usize) -> Vec<Fault> {
        const LINKS: [Link; 6] = [
            Link::Database(0),
            Link::Agents,
            Link::Database(1),
            Link::Peer(0),
            Link::Producers,
            Link::Peer(1),
        ];
        const BACKENDS: [Backend; 6] = [
            Backend::Tail,
            Backend::Bell,
            Backend::Settler,
            Backend::Lease,
            Backend::Pool,
            Backend::Producers,
        ];
        let round = self.done;
        self.done += 1;
        let told = if round.is_multiple_of(2) { End::Server } else { End::Client };
        let nets = [
            Net::Cut,
            Net::BlackHole,
            Net::HalfOpen { told },
            Net::Delay { ms: dice.random_range(20..200) },
            Net::ByteByByte,
            Net::Reorder,
        ];
        let mut faults = vec![
            Fault::KillBroker { broker: round % BROKERS },
            Fault::StopBroker { broker: (round + 1) % BROKERS },
            Fault::RestartBroker { broker: round % BROKERS },
            Fault::KillAgent { process: dice.random_range(0..processes) },
            Fault::StopAgent { process: dice.random_range(0..processes) },
            Fault::CrashPostgres,
            Fault::Terminate { backend: BACKENDS[round * 2 % BACKENDS.len()] },
            Fault::Terminate { backend: BACKENDS[(round * 2 + 1) % BACKENDS.len()] },
        ];
        // These two take turns, as each takes the whole server away once more.
        faults.push(if round.is_multiple_of(2) { Fault::FillDisk } else { Fault::RestartPostgres });
        faults.extend([Fault::Failover, Fault::RefuseRows, Fault::PoisonRow, Fault::HoldRows]);
        for (i, net) in nets.into_iter().enumerate() {
            faults.push(Fault::Network { link: LINKS[(i + round) % LINKS.len()], net });
        }
        faults.shuffle(dice);
        faults
    }
}

fn breaks_a_broker(fault: Fault) -> bool {
    matches!(fault, Fault::KillBroker { .. } | Fault::StopBroker { .. } | Fault::RestartBroker { .. })
}

fn lasting(fault: Fault, dice: &mut StdRng) -> u64 {
    let bounds = match fault {
        Fault::Spread | Fault::Terminate { .. } | Fault::RestartBroker { .. } | Fault::PoisonRow => return 0,
        Fault::Network { net: Net::Cut, .. } => return 0,
        Fault::KillBroker { .. } => 500..3_000,
        // Past the lease of 3 s.
        Fault::StopBroker { .. } => 3_500..6_000,
        Fault::KillAgent { .. } => 200..1_500,
        // Some past the deadline of 5 s that the brokers have here.
        Fault::StopAgent { .. } => 2_500..7_000,
        Fault::CrashPostgres | Fault::RestartPostgres => 0..2_500,
        // From the crash to the promotion; meanwhile the brokers meet a server that takes no writes.
        Fault::Failover => 500..2_500,
        Fault::FillDisk | Fault::RefuseRows => 2_000..4_000,
        Fault::HoldRows => 2_000..6_000,
        Fault::Network { net: Net::BlackHole | Net::HalfOpen { .. }, .. } => 2_000..6_000,
        Fault::Network { .. } => 2_000..4_000,
    };
    dice.random_range(bounds)
}

/// The letter by which people call a broker.
pub fn letter(broker: usize) -> char {
    char::from(b'A' + broker as u8)
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agents => f.write_str("agents-brokers"),
            Self::Database(b) => write!(f, "{}-Postgres", letter(*b)),
            Self::Producers => f.write_str("producers-Postgres"),
            Self::Peer(b) => write!(f, "brokers-{}", letter(*b)),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillBroker { broker } => write!(f, "KILL broker {}", letter(*broker)),
            Self::StopBroker { broker } => write!(f, "STOP broker {}", letter(*broker)),
            Self::RestartBroker { broker } => write!(f, "TERM broker {}", letter(*broker)),
            Self::KillAgent { process } => write!(f, "KILL agent process {process}"),
            Self::StopAgent { process } => write!(f, "STOP agent process {process}"),
            Self::CrashPostgres => f.write_str("Postgres immediate shutdown"),
            Self::RestartPostgres => f.write_str("Postgres fast shutdown"),
            Self::Terminate { backend } => {
                write!(f, "terminate {}", format!("{backend:?}").to_lowercase())
            }
            Self::Spread => f.write_str("cut agents-brokers, to spread sessions"),
            Self::FillDisk => f.write_str("disk full"),
            Self::Failover => f.write_str("failover to a standby"),
            Self::RefuseRows => f.write_str("rows refused by a trigger"),
            Self::PoisonRow => f.write_str("a poisoned row"),
            Self::HoldRows => f.write_str("rows held by a poller"),
            Self::Network { link, net } => match net {
                Net::Delay { ms } => write!(f, "delay {ms} ms {link}"),
                Net::BlackHole => write!(f, "black hole {link}"),
                Net::HalfOpen { told: End::Client } => write!(f, "half-open {link}, client told"),
                Net::HalfOpen { told: End::Server } => write!(f, "half-open {link}, server told"),
                Net::Cut => write!(f, "cut {link}"),
                Net::ByteByByte => write!(f, "byte by byte {link}"),
                Net::Reorder => write!(f, "reorder {link}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn the_same_seed_gives_the_same_plan_and_another_another() {
        assert_eq!(plan(7, HOUR_MS, 10), plan(7, HOUR_MS, 10));
        assert_ne!(plan(7, HOUR_MS, 10), plan(8, HOUR_MS, 10));
        let short = plan(7, 120_000, 10);
        assert_eq!(plan(7, HOUR_MS, 10)[..short.len()], short, "a longer one begins like a shorter one");
    }

    #[test]
    fn two_faults_never_overlap_and_the_last_ends_before_the_campaign() {
        for seed in 0..50 {
            let planned = plan(seed, 300_000, 10);
            for pair in planned.windows(2) {
                assert!(pair[0].at_ms + pair[0].lasting_ms + QUIET_MS.start <= pair[1].at_ms, "{pair:?}");
            }
            let last = planned.last().expect("faults");
            assert!(last.at_ms + last.lasting_ms + LAST_MS <= 300_000);
        }
    }

    #[test]
    fn two_minutes_of_the_fixed_seed_do_everything_once() {
        let planned = plan(TEST_SEED, 120_000, 10);
        let mut rounds = Rounds::default();
        let round = rounds.next(&mut StdRng::seed_from_u64(0), 10).len();
        let faults = planned.iter().filter(|p| p.fault != Fault::Spread).count();
        assert!(faults >= round, "{faults} of {round}: choose another seed");
    }

    #[test]
    fn an_hour_does_everything_to_every_link() {
        let planned = plan(1, HOUR_MS, 10);
        let met = |fault: &dyn Fn(Fault) -> bool| planned.iter().any(|p| fault(p.fault));
        let links = [
            Link::Agents,
            Link::Database(0),
            Link::Database(1),
            Link::Producers,
            Link::Peer(0),
            Link::Peer(1),
        ];
        for link in links {
            for name in ["delay", "black hole", "half-open", "cut", "byte by byte", "reorder"] {
                let on_it = |f: Fault| matches!(f, Fault::Network { link: l, .. } if l == link);
                assert!(met(&|f| on_it(f) && f.to_string().starts_with(name)), "{name} {link}");
            }
        }
        for name in ["KILL broker A", "KILL broker B", "STOP broker B", "TERM broker A", "disk full"] {
            assert!(met(&|f| f.to_string() == name), "{name}");
        }
        for name in ["tail", "bell", "settler", "lease", "pool", "producers"] {
            assert!(met(&|f| f.to_string() == format!("terminate {name}")), "{name}");
        }
    }
}
