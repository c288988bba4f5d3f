//! The summary that an operator should read first, in sentences. Pure.

use super::mesh::{Agent, Finding, Level, Mesh, SetAside, Standing, TARGET_MS, Verdict};
use crate::watch::health::Readiness;

/// The most names in a sentence; the page shows the others.
const NAMES_MAX: usize = 3;
/// The share of an hour's deliveries within the target below which a finding is made, if there were at least
/// `COUNT_MIN`.
const SHARE_MIN: f64 = 0.99;
const COUNT_MIN: u64 = 20;

/// Judges a mesh whose other parts are filled in.
pub(super) fn verdict(mesh: &Mesh, readiness: &Readiness) -> Verdict {
    let mut findings = Vec::new();
    let mut find = |level, sentence: String, about: Option<String>| {
        findings.push(Finding { level, sentence, about });
    };
    if let Some(sentence) = &mesh.broker.database {
        find(Level::Bad, sentence.clone(), None);
    }
    for condition in readiness.conditions.iter().filter(|c| !c.ok) {
        // The reading's own sentence says more.
        if condition.name != "database" || mesh.broker.database.is_none() {
            find(Level::Bad, condition.message.to_string(), None);
        }
    }
    let of = |standing| mesh.agents.iter().filter(move |a| a.standing == standing).collect::<Vec<_>>();
    let (stranded, late, ill) = (of(Standing::Stranded), of(Standing::Late), of(Standing::Error));
    if !stranded.is_empty() {
        let waiting: u64 = stranded.iter().map(|a| a.waiting).sum();
        let (who, wait) = (agents(&stranded, "is offline", "are offline"), messages(waiting));
        find(Level::Bad, format!("{who} while {wait} for {}.", them(&stranded)), about(&stranded));
    }
    if !late.is_empty() {
        let seconds = TARGET_MS / 1_000;
        let who = agents(&late, "is connected", "are connected");
        let sentence = format!("{who}, and messages have waited over {seconds} s for {}.", them(&late));
        find(Level::Bad, sentence, about(&late));
    }
    let left: Vec<_> = mesh.groups.iter().filter(|group| !group.taken).collect();
    if !left.is_empty() {
        let names: Vec<_> = left.iter().take(NAMES_MAX).map(|group| group.group.as_str()).collect();
        let wait = capital(&messages(left.iter().map(|group| group.waiting).sum()));
        let sentence = format!("{wait} for a group that nobody takes from: {}.", names.join(", "));
        find(Level::Bad, sentence, Some("depth".to_owned()));
    }
    if !ill.is_empty() {
        let who = agents(&ill, "reports an error", "report an error");
        find(Level::Watch, format!("{who}."), about(&ill));
    }
    if mesh.dead > 0 {
        let (s, is) = if mesh.dead == 1 { ("", "it was") } else { ("s", "they were") };
        let sentence =
            format!("{} dead letter{s}: read why {is} given up, then redrive or purge.", mesh.dead);
        find(Level::Watch, sentence, Some("dead".to_owned()));
    }
    if !mesh.set_aside.is_empty() {
        let (presence, outcomes): (Vec<_>, Vec<_>) =
            mesh.set_aside.iter().partition(|s| s.kind == "presence");
        let sum = |those: &[&SetAside]| those.iter().map(|s| s.count).sum::<u64>();
        let said = match (sum(&outcomes), sum(&presence)) {
            (n, 0) => format!("the table agent_messages does not take {}", things(n, "outcome")),
            (0, n) => {
                format!("the table agent_registry does not take the presence of {}", things(n, "agent"))
            }
            (n, m) => format!(
                "the tables do not take {} and the presence of {}",
                things(n, "outcome"),
                things(m, "agent")
            ),
        };
        let sentence = format!("{}: `postbell doctor` and `postbell aside list` say why.", capital(&said));
        find(Level::Watch, sentence, None);
    }
    if !mesh.unknown.is_empty() {
        let names: Vec<_> = mesh.unknown.iter().take(NAMES_MAX).map(|u| u.inbox.as_str()).collect();
        let waiting: u64 = mesh.unknown.iter().map(|u| u.waiting).sum();
        let sentence = format!(
            "{} for a name that no agent has: {}. Most often it is misspelled.",
            capital(&messages(waiting)),
            names.join(", ")
        );
        find(Level::Watch, sentence, Some("depth".to_owned()));
    }
    let delivery = &mesh.delivery;
    let share = delivery.within_target as f64 / delivery.count.max(1) as f64;
    if delivery.count >= COUNT_MIN && share < SHARE_MIN {
        // Rounded down, so that 98.96 % does not become 99 %.
        let percent = (share * 1_000.0).floor() / 10.0;
        let sentence = format!(
            "{percent} % of the last hour's deliveries came within {} s; 99 % should.",
            TARGET_MS / 1_000
        );
        find(Level::Watch, sentence, Some("delivery".to_owned()));
    }
    findings.sort_by_key(|f| std::cmp::Reverse(f.level));
    let level = findings.first().map_or(Level::Ok, |f| f.level);
    Verdict { level, sentence: sentence(mesh, level, findings.len()), findings }
}

fn sentence(mesh: &Mesh, level: Level, findings: usize) -> String {
    let things = if findings == 1 { "One thing needs" } else { "Some things need" };
    match level {
        Level::Bad => format!("{things} you now."),
        Level::Watch => format!("{things} a look, when you have time."),
        Level::Ok if mesh.environments.is_empty() => "No agent is registered yet.".to_owned(),
        Level::Ok if mesh.delivery.count == 0 && mesh.flow.is_empty() => {
            "All is well, and nothing is on its way.".to_owned()
        }
        Level::Ok => "All is well: what was sent is delivered.".to_owned(),
    }
}

fn agents(those: &[&Agent], one: &str, several: &str) -> String {
    let names: Vec<_> = those.iter().take(NAMES_MAX).map(|a| a.agent.as_str()).collect();
    match those {
        [only] => format!("{} {one}", only.agent),
        _ if those.len() > NAMES_MAX => {
            format!("{} agents ({}, …) {several}", those.len(), names.join(", "))
        }
        _ => format!("{} {several}", names.join(", ")),
    }
}

fn them(those: &[&Agent]) -> &'static str {
    if those.len() == 1 { "it" } else { "them" }
}

fn messages(count: u64) -> String {
    if count == 1 { "a message waits".to_owned() } else { format!("{count} messages wait") }
}

fn things(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn capital(sentence: &str) -> String {
    let mut rest = sentence.chars();
    rest.next().map_or(String::new(), |first| first.to_uppercase().chain(rest).collect())
}

fn about(those: &[&Agent]) -> Option<String> {
    those.first().map(|a| format!("agent/{}", a.agent))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::watch::health::Health;
    use crate::watch::status::mesh::{Environment, Group, Unknown};

    fn ready() -> Readiness {
        let (health, now) = (Health::new(), Instant::now());
        health.set_database_up(true);
        health.set_listening(true);
        health.bell_seen(now);
        health.ready(now)
    }

    fn agent(name: &str, standing: Standing, waiting: u64) -> Agent {
        Agent {
            agent: name.to_owned(),
            environment: "pc".to_owned(),
            agent_type: String::new(),
            role: String::new(),
            status: String::new(),
            standing,
            seen_seconds: None,
            waiting,
            oldest_seconds: None,
            in_flight: None,
            dead: 0,
            broker: None,
        }
    }

    #[test]
    fn a_mesh_that_is_well_is_said_to_be() {
        let mut mesh = Mesh::default();
        assert_eq!(verdict(&mesh, &ready()).sentence, "No agent is registered yet.");
        mesh.environments.push(Environment::default());
        assert_eq!(verdict(&mesh, &ready()).sentence, "All is well, and nothing is on its way.");
        mesh.delivery.count = 1;
        mesh.delivery.within_target = 1;
        let well = verdict(&mesh, &ready());
        assert_eq!((well.level, well.findings.len()), (Level::Ok, 0));
    }

    #[test]
    fn what_is_wrong_is_said_the_most_serious_first() {
        let mut mesh = Mesh { dead: 2, ..Mesh::default() };
        mesh.agents = vec![agent("a", Standing::Stranded, 1), agent("b", Standing::Late, 3)];
        mesh.groups = [true, false]
            .map(|taken| Group { group: format!("g{taken}"), waiting: 1, oldest_seconds: None, taken })
            .into();
        mesh.unknown.push(Unknown { inbox: "validaton".to_owned(), waiting: 2 });
        mesh.delivery.count = 1_000;
        mesh.delivery.within_target = 989;
        let found = verdict(&mesh, &ready());
        let sentences: Vec<_> = found.findings.iter().map(|f| f.sentence.as_str()).collect();
        assert_eq!(
            sentences,
            [
                "a is offline while a message waits for it.",
                "b is connected, and messages have waited over 5 s for it.",
                "A message waits for a group that nobody takes from: gfalse.",
                "2 dead letters: read why they were given up, then redrive or purge.",
                "2 messages wait for a name that no agent has: validaton. Most often it is misspelled.",
                "98.9 % of the last hour's deliveries came within 5 s; 99 % should.",
            ]
        );
        assert_eq!(found.sentence, "Some things need you now.");
        assert_eq!(found.findings[0].about.as_deref(), Some("agent/a"));
    }

    #[test]
    fn many_are_counted() {
        let many: Vec<_> = (0..40).map(|n| agent(&format!("a{n}"), Standing::Stranded, 2)).collect();
        let found = verdict(&Mesh { agents: many, ..Mesh::default() }, &ready());
        let sentence = "40 agents (a0, a1, a2, …) are offline while 80 messages wait for them.";
        assert_eq!(found.findings[0].sentence, sentence);
    }

    #[test]
    fn a_broker_that_is_not_ready_says_why_once() {
        let unready = Health::new().ready(Instant::now());
        let mut mesh = Mesh::default();
        assert_eq!(verdict(&mesh, &unready).findings.len(), 2);
        mesh.broker.database = Some("The database is away.".to_owned());
        let found = verdict(&mesh, &unready);
        assert_eq!(found.findings.len(), 2);
        assert_eq!(found.findings[0].sentence, "The database is away.");
    }
}
