//! The latest value of each agent and name, bounded. Pure: no clock, no database.

use std::collections::{HashMap, HashSet};

use super::STALE_AFTER;
use crate::store::agent_metrics::Measured;
use crate::watch::metrics::AGENT_METRICS_MAX;
use postbell_client::protocol::limits::NAME_BYTES_MAX;

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    agent: String,
    /// The measurement's name.
    name: String,
}

/// At most [`AGENT_METRICS_MAX`] latest values. A value stays until it is stale, so new ones are dropped while all
/// places are taken.
#[derive(Debug, Default)]
pub(super) struct Latest {
    values: HashMap<Key, (f64, f64)>,
    dropped: usize,
}

impl Latest {
    /// Takes the rows that were read at `now`, in any order; rows that were taken before may be among them.
    pub(super) fn take(&mut self, now: f64, rows: Vec<Measured>) {
        let oldest = now - STALE_AFTER.as_secs_f64();
        self.values.retain(|_, (_, at)| *at > oldest);
        // Bounded by the rows of one read.
        let mut dropped = HashSet::new();
        for row in rows {
            if row.recorded_at <= oldest {
                continue;
            }
            let key = Key { agent: row.agent, name: row.name };
            let has_room = self.values.len() < AGENT_METRICS_MAX;
            match self.values.get_mut(&key) {
                Some((value, at)) if *at <= row.recorded_at => (*value, *at) = (row.value, row.recorded_at),
                Some(_) => {}
                None if has_room && is_short(&key) => {
                    self.values.insert(key, (row.value, row.recorded_at));
                }
                None => {
                    dropped.insert(key);
                }
            }
        }
        self.dropped = dropped.len();
    }

    /// The agent, the name and the value of each.
    pub(super) fn values(&self) -> impl Iterator<Item = (&str, &str, f64)> {
        self.values.iter().map(|(key, (value, _))| (key.agent.as_str(), key.name.as_str(), *value))
    }

    /// How many agents and names of the last read were dropped.
    pub(super) fn dropped(&self) -> usize {
        self.dropped
    }
}

/// Long names are dropped, because labels go into every scrape.
fn is_short(Key { agent, name }: &Key) -> bool {
    agent.len() <= NAME_BYTES_MAX && name.len() <= NAME_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, value: f64, recorded_at: f64) -> Measured {
        Measured { agent: "a".to_owned(), name: name.to_owned(), value, recorded_at }
    }

    fn value(latest: &Latest, name: &str) -> Option<f64> {
        latest.values().find(|(_, n, _)| *n == name).map(|(_, _, value)| value)
    }

    #[test]
    fn the_newest_counts_in_whatever_order_it_is_read() {
        let mut latest = Latest::default();
        latest.take(1_000.0, vec![row("n", 2.0, 990.0), row("n", 1.0, 980.0)]);
        assert_eq!(value(&latest, "n"), Some(2.0));
        latest.take(1_001.0, vec![row("n", 1.0, 980.0), row("n", 3.0, 995.0)]);
        assert_eq!(value(&latest, "n"), Some(3.0));
    }

    #[test]
    fn a_stale_one_vanishes() {
        let mut latest = Latest::default();
        let stale = STALE_AFTER.as_secs_f64();
        latest.take(1_000.0, vec![row("n", 1.0, 1_000.0), row("old", 1.0, 1_000.0 - stale)]);
        assert_eq!((value(&latest, "n"), value(&latest, "old")), (Some(1.0), None));
        latest.take(1_000.0 + stale - 1.0, vec![]);
        assert_eq!(value(&latest, "n"), Some(1.0));
        latest.take(1_000.0 + stale, vec![]);
        assert_eq!(value(&latest, "n"), None);
    }

    #[test]
    fn what_has_no_place_is_counted_once_and_comes_when_there_is_room() {
        let mut latest = Latest::default();
        let many = |at: f64| (0..AGENT_METRICS_MAX).map(|i| row(&i.to_string(), 1.0, at)).collect::<Vec<_>>();
        latest.take(0.0, many(0.0));
        assert_eq!((latest.values().count(), latest.dropped()), (AGENT_METRICS_MAX, 0));
        let late =
            || vec![row("late", 1.0, 1.0), row("late", 2.0, 2.0), row("later", 1.0, 2.0), row("5", 7.0, 2.0)];
        latest.take(2.0, late());
        assert_eq!((latest.values().count(), latest.dropped()), (AGENT_METRICS_MAX, 2));
        assert_eq!(
            (value(&latest, "late"), value(&latest, "5")),
            (None, Some(7.0)),
            "those that are here go on"
        );
        // By then all but "5" are stale.
        latest.take(STALE_AFTER.as_secs_f64() + 1.0, late());
        assert_eq!((value(&latest, "late"), value(&latest, "5")), (Some(2.0), Some(7.0)));
        assert_eq!((latest.values().count(), latest.dropped()), (3, 0));
        latest.take(2.0, vec![row(&"x".repeat(NAME_BYTES_MAX + 1), 1.0, 2.0)]);
        assert_eq!(latest.dropped(), 1, "too long a name");
    }
}
