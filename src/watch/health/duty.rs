//! The broker's duties, and whether one of them stands still. Pure.
//!
//! A duty that fails is tried again for ever, which looks like work. So each duty notes when it has something to do
//! and when that is done. A duty that began and did not succeed for [`STANDSTILL_AFTER`] stands still.

use std::time::Duration;

use tokio::time::Instant;

/// The promise for the worst case: no message waits longer than this for a broker.
pub(crate) const STANDSTILL_AFTER: Duration = Duration::from_secs(5);

/// A part of the broker that everybody's messages need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Duty {
    /// Makes the deliveries of what producers leave.
    Route,
    /// Reads new deliveries.
    Tail,
    /// Fills lanes from the table.
    Refill,
    /// Writes outcomes.
    Settle,
    /// Makes scheduled deliveries ready.
    Promotion,
    /// Writes to the registry which agents are connected.
    Presence,
    /// Keeps the schema as this version needs it.
    Schema,
    /// Makes deliveries for messages that no trigger saw.
    Sweep,
    /// Ends messages whose time is over.
    Expiry,
    /// Forgets brokers that have been silent.
    Brokers,
    /// Writes agents offline that have been silent.
    Silence,
    /// Removes what ended long ago.
    Retention,
    /// Ends broadcasts that everybody had.
    Broadcasts,
    /// Raises alerts about agents that stay away.
    Alerts,
    /// Escalates alerts that nobody acknowledged.
    Escalation,
    /// Tries again what was set aside.
    Aside,
    /// Marks messages that are with an agent.
    Marks,
}

impl Duty {
    /// Every duty.
    pub const ALL: [Self; 17] = [
        Self::Route,
        Self::Tail,
        Self::Refill,
        Self::Settle,
        Self::Promotion,
        Self::Presence,
        Self::Schema,
        Self::Sweep,
        Self::Expiry,
        Self::Brokers,
        Self::Silence,
        Self::Retention,
        Self::Broadcasts,
        Self::Alerts,
        Self::Escalation,
        Self::Aside,
        Self::Marks,
    ];

    /// The value of a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Tail => "tail",
            Self::Refill => "refill",
            Self::Settle => "settle",
            Self::Promotion => "promotion",
            Self::Presence => "presence",
            Self::Schema => "schema",
            Self::Sweep => "sweep",
            Self::Expiry => "expiry",
            Self::Brokers => "brokers",
            Self::Silence => "silence",
            Self::Retention => "retention",
            Self::Broadcasts => "broadcasts",
            Self::Alerts => "alerts",
            Self::Escalation => "escalation",
            Self::Aside => "aside",
            Self::Marks => "marks",
        }
    }

    /// Whether the broker is not ready while this duty stands still. The others are told, but a balancer must not take brokers out
    /// for them: messages flow all the same, and one row may keep a duty from its end on every broker.
    pub(super) fn is_needed_for_traffic(self) -> bool {
        matches!(
            self,
            Self::Tail | Self::Refill | Self::Settle | Self::Promotion | Self::Presence | Self::Schema
        )
    }

    /// The consequence while the duty stands still.
    fn consequence(self) -> &'static str {
        match self {
            Self::Route => "Messages that producers left to the router have not been routed",
            Self::Tail => "New messages have not been read",
            Self::Refill => "Waiting messages have not been read",
            Self::Settle => "Outcomes have not been written",
            Self::Promotion => "Scheduled messages have not become ready",
            Self::Presence => "Presence has not been written to the registry",
            Self::Schema => "The database's schema has not been what this version needs",
            Self::Sweep => "Messages that no trigger saw have not been looked for",
            Self::Expiry => "Messages whose time is over have not been ended",
            Self::Brokers => "Silent brokers have not been forgotten",
            Self::Silence => "Silent agents have not been written offline",
            Self::Retention => "Old messages have not been removed",
            Self::Broadcasts => "Broadcasts that everybody had have not been ended",
            Self::Alerts => "Alerts about absent agents have not been raised",
            Self::Escalation => "Alerts have not been escalated",
            Self::Aside => "Outcomes that are set aside have not been tried again",
            Self::Marks => "Messages that are with an agent have not been marked delivered",
        }
    }
}

/// A duty that stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standstill {
    /// The duty that does not get on.
    pub duty: Duty,
    /// The time since it has had something to do.
    pub lasts: Duration,
    /// The reason why its last try failed; `None` while the first one still runs.
    pub reason: Option<String>,
}

impl Standstill {
    /// A sentence for a person.
    pub fn sentence(&self) -> String {
        let (what, seconds) = (self.duty.consequence(), self.lasts.as_secs());
        match &self.reason {
            Some(reason) => format!("{what} for {seconds} s: {}.", reason.trim_end_matches('.')),
            None => format!("{what} for {seconds} s: the database has not answered yet."),
        }
    }
}

/// The progress of each duty.
#[derive(Debug, Default)]
pub(super) struct Duties([Progress; Duty::ALL.len()]);

#[derive(Debug, Default)]
struct Progress {
    since: Option<Instant>,
    reason: Option<String>,
}

impl Duties {
    pub(super) fn began(&mut self, duty: Duty, now: Instant) {
        self.0[duty as usize].since.get_or_insert(now);
    }

    pub(super) fn succeeded(&mut self, duty: Duty) {
        self.0[duty as usize] = Progress::default();
    }

    pub(super) fn failed(&mut self, duty: Duty, reason: String) {
        self.0[duty as usize].reason = Some(reason);
    }

    pub(super) fn standstills(&self, now: Instant) -> Vec<Standstill> {
        let standstill = |(duty, progress): (Duty, &Progress)| {
            let lasts = now.saturating_duration_since(progress.since?);
            let reason = progress.reason.clone();
            (lasts >= STANDSTILL_AFTER).then_some(Standstill { duty, lasts, reason })
        };
        Duty::ALL.into_iter().zip(&self.0).filter_map(standstill).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duty_has_its_place() {
        for (n, duty) in Duty::ALL.into_iter().enumerate() {
            assert_eq!(duty as usize, n);
        }
    }

    #[test]
    fn only_what_began_and_did_not_succeed_stands_still() {
        let start = Instant::now();
        let late = start + STANDSTILL_AFTER;
        let mut duties = Duties::default();
        assert_eq!(duties.standstills(late), []);
        duties.began(Duty::Tail, start);
        duties.began(Duty::Tail, late);
        assert_eq!(duties.standstills(late - Duration::from_millis(1)), []);
        let found = duties.standstills(late);
        assert_eq!(found, [Standstill { duty: Duty::Tail, lasts: STANDSTILL_AFTER, reason: None }]);
        assert!(found[0].sentence().ends_with("has not answered yet."));
        duties.failed(Duty::Tail, "no room on the disk".to_owned());
        assert_eq!(
            duties.standstills(late)[0].sentence(),
            "New messages have not been read for 5 s: no room on the disk."
        );
        duties.succeeded(Duty::Tail);
        assert_eq!(duties.standstills(late), []);
        duties.failed(Duty::Tail, "again".to_owned());
        assert_eq!(
            duties.standstills(late),
            [],
            "a try that failed is no standstill while nothing is to be done"
        );
    }
}
