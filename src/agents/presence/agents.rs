//! The agents that are here, and the changes to write: no clock, no database.

use std::collections::HashMap;
use std::sync::Arc;

use crate::store::presence::{Absence, Card};

/// The change to write for an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The agent is here. The card is from its last hello that said anything.
    Came(Card),
    /// The agent is gone.
    Went(Absence),
}

/// The most agents whose refusal is remembered; beyond that all are forgotten, and each is logged once more.
const REFUSED_MAX: usize = 10_000;

/// The agents with sessions here. Bounded by the agents of the mesh.
#[derive(Debug, Default)]
pub(super) struct Agents {
    sessions: HashMap<Arc<str>, usize>,
    /// Changes since the registry was last written; for each agent the last one only.
    changed: HashMap<Arc<str>, Change>,
    /// The last refusal that was logged for each agent; at most [`REFUSED_MAX`].
    refused: HashMap<String, String>,
}

impl Agents {
    /// A session began; returns whether there is something to write.
    pub(super) fn join(&mut self, agent: &Arc<str>, card: Option<Card>) -> bool {
        let sessions = self.sessions.entry(agent.clone()).or_default();
        *sessions += 1;
        let is_first = *sessions == 1;
        match card.filter(|card| !card.is_empty()) {
            Some(card) => {
                self.changed.insert(agent.clone(), Change::Came(card));
            }
            None if is_first => {
                self.changed.insert(agent.clone(), Change::Came(Card::default()));
            }
            None => return false,
        }
        true
    }

    /// A session ended; returns whether there is something to write.
    pub(super) fn leave(&mut self, agent: &Arc<str>, absence: Absence) -> bool {
        let Some(sessions) = self.sessions.get_mut(agent) else { return false };
        *sessions -= 1;
        if *sessions > 0 {
            return false;
        }
        self.sessions.remove(agent);
        self.changed.insert(agent.clone(), Change::Went(absence));
        true
    }

    pub(super) fn has(&self, agent: &str) -> bool {
        self.sessions.contains_key(agent)
    }

    /// Whether this refusal differs from the last one of this agent.
    pub(super) fn is_news(&mut self, agent: &str, why: &str) -> bool {
        if self.refused.len() >= REFUSED_MAX {
            self.refused.clear();
        }
        self.refused.insert(agent.to_owned(), why.to_owned()).as_deref() != Some(why)
    }

    /// The agents that are here, sorted.
    pub(super) fn here(&self) -> Vec<Arc<str>> {
        let mut here: Vec<_> = self.sessions.keys().cloned().collect();
        here.sort_unstable();
        here
    }

    /// The changes since the last call, sorted by agent.
    pub(super) fn take_changed(&mut self) -> Vec<(Arc<str>, Change)> {
        let mut changed: Vec<_> = std::mem::take(&mut self.changed).into_iter().collect();
        changed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        changed
    }

    /// Takes back changes that could not be written. Newer changes win, but a newer hello without a card keeps
    /// the older card.
    pub(super) fn put_back(&mut self, changed: Vec<(Arc<str>, Change)>) {
        for (agent, old) in changed {
            let newer = self.changed.entry(agent).or_insert_with(|| old.clone());
            if let (Change::Came(newer), Change::Came(old)) = (newer, old)
                && newer.is_empty()
            {
                *newer = old;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(version: &str) -> Card {
        Card { version: Some(version.to_owned()), ..Card::default() }
    }

    fn came(version: &str) -> Change {
        Change::Came(card(version))
    }

    #[test]
    fn the_first_session_comes_and_the_last_one_goes() {
        let (mut agents, a) = (Agents::default(), Arc::<str>::from("a"));
        assert!(agents.join(&a, None));
        assert_eq!(agents.take_changed(), [(a.clone(), Change::Came(Card::default()))]);
        assert!(!agents.join(&a, Some(Card::default())), "a second one that says nothing is no news");
        assert!(!agents.leave(&a, Absence::Silent));
        assert!(agents.has("a") && agents.take_changed().is_empty());
        assert!(agents.leave(&a, Absence::Goodbye));
        assert!(!agents.has("a"));
        assert_eq!(agents.take_changed(), [(a.clone(), Change::Went(Absence::Goodbye))]);
        assert!(!agents.leave(&a, Absence::Goodbye), "it is gone");
    }

    #[test]
    fn of_what_happened_between_two_writes_the_end_is_written() {
        let (mut agents, a, b) = (Agents::default(), Arc::<str>::from("a"), Arc::<str>::from("b"));
        agents.join(&b, None);
        agents.join(&a, None);
        agents.take_changed();
        agents.leave(&a, Absence::Disconnected);
        agents.join(&a, Some(card("2")));
        agents.join(&b, Some(card("3")));
        let changed = agents.take_changed();
        assert_eq!(changed, [(a, came("2")), (b, came("3"))], "sorted, and neither was away");
    }

    #[test]
    fn what_could_not_be_written_is_written_unless_it_is_old() {
        let (mut agents, a, b) = (Agents::default(), Arc::<str>::from("a"), Arc::<str>::from("b"));
        agents.join(&a, Some(card("1")));
        agents.join(&b, Some(card("1")));
        let failed = agents.take_changed();
        agents.leave(&a, Absence::Silent);
        agents.leave(&b, Absence::Silent);
        agents.join(&b, None);
        agents.put_back(failed);
        assert_eq!(agents.take_changed(), [(a, Change::Went(Absence::Silent)), (b, came("1"))]);
    }
}
