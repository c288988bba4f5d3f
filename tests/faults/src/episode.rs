//! A fault that happened: when it began and ended, whom it reached, and what it excuses.

use serde::Serialize;

use crate::schedule::{Backend, Fault, Link, Net, Planned};

/// Delivery resumes so long after a broker's death, or anything else short of the database.
const BROKER_MS: u32 = 5_000;
/// And so long after the database is back.
const DATABASE_MS: u32 = 2_000;
/// What was in flight so shortly before or after a fault was in flight at it: clocks are read before and after.
const EDGE_MS: u32 = 250;
/// A lost ring is found by the safety tail within a second of the bell's return, and counted when the next canary is back.
const LATE_MS: u32 = 4_000;
/// Delays within this after a fault are its own.
const WAKE_MS: u32 = 5_000;

/// See the module. Times are milliseconds of the campaign.
#[derive(Clone, Debug, Serialize)]
pub struct Episode {
    /// What was planned.
    #[serde(flatten)]
    pub planned: Planned,
    /// In words.
    pub name: String,
    /// When it began.
    pub begun_ms: u32,
    /// When it was over: the process, server or link was back.
    pub ended_ms: u32,
    /// The only inbox it reached; `None`: it may have reached all.
    pub inbox: Option<u8>,
    /// Why it was not done.
    pub skipped: Option<String>,
    /// What the injection itself noted.
    pub note: Option<String>,
    /// What a part of Postbell did that it must not, whatever was done to it.
    pub defect: Option<String>,
}

impl Episode {
    /// From when on delivery must resume, and within how many milliseconds.
    pub fn promise(&self) -> (u32, u32) {
        match self.planned.fault {
            // The rest of the mesh must not wait for what is broken to come back.
            Fault::KillBroker { .. } | Fault::StopBroker { .. } | Fault::RestartBroker { .. } => {
                (self.begun_ms, BROKER_MS)
            }
            Fault::Network { net: Net::BlackHole, link: Link::Database(_) } => (self.ended_ms, DATABASE_MS),
            Fault::Network { net: Net::BlackHole, .. } => (self.ended_ms, BROKER_MS),
            // The producers cannot send before; nobody promises how fast they notice.
            Fault::Network { link: Link::Producers, .. } => (self.ended_ms, BROKER_MS),
            Fault::Network { .. } | Fault::Spread => (self.begun_ms, BROKER_MS),
            Fault::KillAgent { .. } | Fault::StopAgent { .. } => (self.ended_ms, BROKER_MS),
            // One row is not everybody's business.
            Fault::RefuseRows | Fault::PoisonRow | Fault::HoldRows => (self.begun_ms, BROKER_MS),
            // Their connections must find the other server first.
            Fault::Failover => (self.ended_ms, BROKER_MS),
            Fault::CrashPostgres | Fault::RestartPostgres | Fault::FillDisk | Fault::Terminate { .. } => {
                (self.ended_ms, DATABASE_MS)
            }
        }
    }

    /// Whether the broker may have missed a ring.
    pub fn kills_the_bell(&self) -> bool {
        match self.planned.fault {
            Fault::CrashPostgres | Fault::RestartPostgres | Fault::FillDisk | Fault::Failover => true,
            Fault::Terminate { backend } => backend == Backend::Bell,
            Fault::Network { link, .. } => matches!(link, Link::Database(_)),
            _ => false,
        }
    }

    /// Whether it reached this inbox.
    pub fn reached(&self, inbox: u8) -> bool {
        self.skipped.is_none() && self.inbox.is_none_or(|only| only == inbox)
    }

    /// Whether what was in flight between these moments was so at the fault.
    pub fn met(&self, from_ms: u32, to_ms: u32) -> bool {
        from_ms <= self.ended_ms + EDGE_MS && self.begun_ms <= to_ms + EDGE_MS
    }

    /// Whether a delay between these moments is its own.
    pub fn delayed(&self, from_ms: u32, to_ms: u32) -> bool {
        from_ms <= self.ended_ms + WAKE_MS && self.begun_ms <= to_ms
    }

    /// Whether it excuses that the tail was late at this moment.
    pub fn excuses_late(&self, at_ms: u32) -> bool {
        self.skipped.is_none()
            && self.kills_the_bell()
            && (self.begun_ms..=self.ended_ms + LATE_MS).contains(&at_ms)
    }
}
