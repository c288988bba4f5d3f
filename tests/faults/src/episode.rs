//! A fault that happened: when it began and ended, whom it reached, and what it excuses.

use serde::Serialize;

use crate::schedule::{Backend, Fault, Link, Net, Planned};

/// Delivery resumes within this after the death of a broker, or any other fault short of the database.
const BROKER_MS: u32 = 5_000;
/// Delivery resumes within this once the database is back.
const DATABASE_MS: u32 = 2_000;
/// A message that was in flight this shortly before or after a fault counts as in flight at it: clocks are read
/// before and after.
const EDGE_MS: u32 = 250;
/// A row is late by a fault of the bell until this long after it. The safety round finds the row within two seconds
/// of the bell's return; the row is counted when the next canary is back.
const LATE_MS: u32 = 4_000;
/// Delays within this after a fault count as the fault's.
const WAKE_MS: u32 = 5_000;

/// A fault that happened. Times are milliseconds of the campaign.
#[derive(Clone, Debug, Serialize)]
pub struct Episode {
    /// The fault as the schedule has it.
    #[serde(flatten)]
    pub planned: Planned,
    /// The fault in words.
    pub name: String,
    /// When the fault began.
    pub begun_ms: u32,
    /// When the fault was over: the process, server or link was back.
    pub ended_ms: u32,
    /// The only inbox that the fault reached; `None` if it may have reached all.
    pub inbox: Option<u8>,
    /// Why the fault was not carried out; `None` if it was.
    pub skipped: Option<String>,
    /// A note of the injection.
    pub note: Option<String>,
    /// A defect: something that no part of Postbell may do, whatever is done to it.
    pub defect: Option<String>,
}

impl Episode {
    /// The moment from which delivery must resume, and the milliseconds in which it must.
    pub fn promise(&self) -> (u32, u32) {
        match self.planned.fault {
            // The rest of the mesh must not wait until the broken part is back.
            Fault::KillBroker { .. } | Fault::StopBroker { .. } | Fault::RestartBroker { .. } => {
                (self.begun_ms, BROKER_MS)
            }
            Fault::Network { net: Net::BlackHole, link: Link::Database(_) } => (self.ended_ms, DATABASE_MS),
            Fault::Network { net: Net::BlackHole, .. } => (self.ended_ms, BROKER_MS),
            // The producers cannot send before that; nobody promises how fast they notice.
            Fault::Network { link: Link::Producers, .. } => (self.ended_ms, BROKER_MS),
            Fault::Network { .. } | Fault::Spread => (self.begun_ms, BROKER_MS),
            Fault::KillAgent { .. } | Fault::StopAgent { .. } => (self.ended_ms, BROKER_MS),
            // A single row must not concern the others.
            Fault::RefuseRows | Fault::PoisonRow | Fault::HoldRows => (self.begun_ms, BROKER_MS),
            // The connections must find the other server first.
            Fault::Failover => (self.ended_ms, BROKER_MS),
            Fault::CrashPostgres | Fault::RestartPostgres | Fault::FillDisk | Fault::Terminate { .. } => {
                (self.ended_ms, DATABASE_MS)
            }
        }
    }

    /// Whether the broker may have missed a ring by this fault.
    pub fn kills_the_bell(&self) -> bool {
        match self.planned.fault {
            Fault::CrashPostgres | Fault::RestartPostgres | Fault::FillDisk | Fault::Failover => true,
            Fault::Terminate { backend } => backend == Backend::Bell,
            Fault::Network { link, .. } => matches!(link, Link::Database(_)),
            _ => false,
        }
    }

    /// Whether the fault reached this inbox.
    pub fn reached(&self, inbox: u8) -> bool {
        self.skipped.is_none() && self.inbox.is_none_or(|only| only == inbox)
    }

    /// Whether a message that was in flight between these moments was in flight at the fault.
    pub fn met(&self, from_ms: u32, to_ms: u32) -> bool {
        from_ms <= self.ended_ms + EDGE_MS && self.begun_ms <= to_ms + EDGE_MS
    }

    /// Whether a delay between these moments counts as the fault's.
    pub fn delayed(&self, from_ms: u32, to_ms: u32) -> bool {
        from_ms <= self.ended_ms + WAKE_MS && self.begun_ms <= to_ms
    }

    /// Whether the fault excuses that the tail was late at this moment.
    pub fn excuses_late(&self, at_ms: u32) -> bool {
        self.skipped.is_none()
            && self.kills_the_bell()
            && (self.begun_ms..=self.ended_ms + LATE_MS).contains(&at_ms)
    }
}
