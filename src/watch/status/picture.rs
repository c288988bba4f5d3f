//! Makes what is shown from what was read. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use uuid::Uuid;

use super::mesh::{Agent, Broker, Depth, Edge, Environment, Group, SetAside, Standing, TARGET_MS, Unknown};
use crate::store::aside::Count;
use crate::store::status::{self as rows, Reading};
use postbell_client::message::PRIORITY_HIGHEST;
use postbell_client::protocol::frame::GROUP_INBOX;
use postbell_engine::inbox::dispatcher::Here;

/// The most agents that are listed, the most troubled first. The environments count all agents.
pub(super) const AGENTS_MAX: usize = 1_000;
/// The most groups, and the most names without an agent, that are listed.
const NAMED_MAX: usize = 20;
/// A heartbeat is written every ten seconds. An agent that missed three is gone, whatever the registry says.
const SEEN_WITHIN_SECONDS: f64 = 35.0;
/// If another broker owns the inbox, it is not known here which deliveries are in flight, and an agent may work for a
/// while.
const LATE_ELSEWHERE_SECONDS: f64 = 60.0;

/// The parts of the mesh that follow from its agents and inboxes.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) agents: Vec<Agent>,
    pub(super) left_out: u64,
    pub(super) environments: Vec<Environment>,
    pub(super) depth: Vec<Depth>,
    pub(super) groups: Vec<Group>,
    pub(super) unknown: Vec<Unknown>,
}

/// The waiting deliveries of an inbox.
#[derive(Clone, Copy, Debug, Default)]
struct Inbox {
    waiting: u64,
    oldest: Option<f64>,
    is_taken: bool,
}

/// How much is set aside, and for how long. The reasons are only for those who may read.
pub(super) fn set_aside(counts: &[Count]) -> Vec<SetAside> {
    let of = |count: &Count| SetAside {
        kind: count.kind.clone(),
        count: count.count,
        since_seconds: whole(Some(count.since_seconds)),
    };
    counts.iter().map(of).collect()
}

pub(super) fn picture(reading: &Reading, me: Uuid, here: &HashMap<Arc<str>, Here>) -> Picture {
    let mut inboxes: HashMap<&str, Inbox> = HashMap::new();
    let mut depth = Depth::none();
    for row in &reading.waiting {
        let count = u64::try_from(row.count).unwrap_or(0);
        let inbox = inboxes.entry(&row.inbox).or_default();
        inbox.waiting += count;
        inbox.oldest = later(inbox.oldest, row.oldest_seconds);
        inbox.is_taken |= row.is_taken;
        let lane = &mut depth[usize::from(row.priority.get() - PRIORITY_HIGHEST)];
        lane.ready += count;
        lane.oldest_seconds = lane.oldest_seconds.max(whole(row.oldest_seconds));
    }
    let mut dead: HashMap<&str, u64> =
        reading.dead.iter().map(|(inbox, n)| (inbox.as_str(), (*n).max(0) as u64)).collect();
    let mut environments: BTreeMap<&str, Environment> = BTreeMap::new();
    let mut agents = Vec::with_capacity(reading.agents.len());
    for row in &reading.agents {
        let inbox = inboxes.remove(row.agent_id.as_str()).unwrap_or_default();
        let dead = dead.remove(row.agent_id.as_str()).unwrap_or(0);
        let agent = agent(row, inbox, dead, me, here.get(row.agent_id.as_str()));
        environments.entry(&row.environment).or_default().count(&agent);
        agents.push(agent);
    }
    let (mut groups, mut unknown) = (Vec::new(), Vec::new());
    for (name, inbox) in inboxes {
        let Inbox { waiting, oldest, is_taken } = inbox;
        match name.strip_prefix(GROUP_INBOX) {
            Some(group) => {
                let (group, oldest_seconds) = (group.to_owned(), whole(oldest));
                groups.push(Group { group, waiting, oldest_seconds, taken: is_taken });
            }
            None => unknown.push(Unknown { inbox: name.to_owned(), waiting }),
        }
    }
    groups.sort_by(|a, b| (a.taken, &a.group).cmp(&(b.taken, &b.group)));
    groups.truncate(NAMED_MAX);
    unknown.sort_by(|a, b| b.waiting.cmp(&a.waiting).then_with(|| a.inbox.cmp(&b.inbox)));
    unknown.truncate(NAMED_MAX);
    // The sort is stable: within a rank agents stay in the order of their names.
    agents.sort_by_key(rank);
    let left_out = agents.len().saturating_sub(AGENTS_MAX) as u64;
    agents.truncate(AGENTS_MAX);
    let environments = environments.into_values().collect();
    Picture { agents, left_out, environments, depth, groups, unknown }
}

fn agent(row: &rows::Agent, inbox: Inbox, dead: u64, me: Uuid, here: Option<&Here>) -> Agent {
    let in_flight = (row.broker_id == Some(me)).then(|| here.map_or(0, |here| here.in_flight));
    let connected = here.is_some_and(|here| here.sessions > 0);
    Agent {
        agent: row.agent_id.clone(),
        environment: row.environment.clone(),
        agent_type: row.agent_type.clone(),
        role: row.role.clone(),
        status: row.status.clone(),
        standing: standing(row, inbox, connected, in_flight),
        // In steps of ten seconds, as often as it is written, so that the text of a mesh at rest does not change.
        seen_seconds: row.seen_seconds.map(|s| (s.max(0.0) / 10.0) as u64 * 10),
        waiting: inbox.waiting,
        oldest_seconds: whole(inbox.oldest),
        in_flight,
        dead,
        broker: row.broker.clone(),
    }
}

fn standing(row: &rows::Agent, inbox: Inbox, connected: bool, in_flight: Option<u64>) -> Standing {
    let seen = row.seen_seconds.is_some_and(|s| s < SEEN_WITHIN_SECONDS);
    let online = connected || (seen && !matches!(row.status.as_str(), "offline" | "stopping"));
    let oldest = inbox.oldest.unwrap_or(0.0);
    let late = match in_flight {
        Some(in_flight) => inbox.waiting > in_flight && oldest * 1_000.0 > TARGET_MS as f64,
        None => inbox.waiting > 0 && oldest > LATE_ELSEWHERE_SECONDS,
    };
    match (row.enabled, online) {
        (false, _) => Standing::Disabled,
        (true, false) if inbox.waiting > 0 => Standing::Stranded,
        (true, false) => Standing::Offline,
        (true, true) if row.status == "error" => Standing::Error,
        (true, true) if late => Standing::Late,
        (true, true) => Standing::Ok,
    }
}

/// The most troubled first.
fn rank(agent: &Agent) -> u8 {
    match agent.standing {
        Standing::Stranded => 0,
        Standing::Late => 1,
        Standing::Error => 2,
        _ if agent.dead > 0 => 3,
        Standing::Ok => 4,
        Standing::Offline => 5,
        Standing::Disabled => 6,
    }
}

impl Environment {
    fn count(&mut self, agent: &Agent) {
        self.environment.clone_from(&agent.environment);
        self.agents += 1;
        self.waiting += agent.waiting;
        self.dead += agent.dead;
        *match agent.standing {
            Standing::Ok => &mut self.ok,
            Standing::Late => &mut self.late,
            Standing::Stranded => &mut self.stranded,
            Standing::Error => &mut self.error,
            Standing::Offline => &mut self.offline,
            Standing::Disabled => &mut self.disabled,
        } += 1;
    }
}

pub(super) fn brokers(reading: &Reading, me: Uuid) -> Vec<Broker> {
    let brokers = reading.brokers.iter().map(|row| Broker {
        name: row.name.clone(),
        version: row.version.clone(),
        alive: row.is_alive,
        armed: row.armed,
        inboxes: row.inboxes.max(0) as u64,
        up_minutes: (row.up_seconds.max(0.0) / 60.0) as u64,
        this: row.id == me,
    });
    brokers.collect()
}

pub(super) fn edges(reading: &Reading) -> Vec<Edge> {
    let edges = reading.edges.iter().map(|row| Edge {
        from: row.from.clone(),
        to: row.to.clone(),
        many: row.many.clone(),
        messages: row.messages.max(0) as u64,
        failed: row.failed.max(0) as u64,
    });
    edges.collect()
}

fn later(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (a, b) => a.or(b),
    }
}

fn whole(seconds: Option<f64>) -> Option<u64> {
    seconds.map(|s| s.max(0.0) as u64)
}

#[cfg(test)]
mod tests;
