use super::*;
use postbell_client::message::Priority;

const ME: Uuid = Uuid::from_u128(1);

fn row(agent: &str, status: &str, seen: f64) -> rows::Agent {
    rows::Agent {
        agent_id: agent.to_owned(),
        agent_type: "worker".to_owned(),
        environment: "pc".to_owned(),
        role: "agent".to_owned(),
        enabled: true,
        status: status.to_owned(),
        seen_seconds: Some(seen),
        broker_id: Some(ME),
        broker: Some("postbell".to_owned()),
    }
}

fn waiting(inbox: &str, priority: i64, count: i64, oldest: f64) -> rows::ReadyCount {
    let priority = Priority::new(priority).expect("a priority");
    let is_taken = inbox == "group:diggers";
    rows::ReadyCount { inbox: inbox.to_owned(), priority, count, oldest_seconds: Some(oldest), is_taken }
}

fn standing_of(picture: &Picture, agent: &str) -> Standing {
    picture.agents.iter().find(|a| a.agent == agent).expect(agent).standing
}

#[test]
fn each_agent_stands_as_it_does() {
    let mut disabled = row("disabled", "online", 1.0);
    disabled.enabled = false;
    let mut elsewhere = row("elsewhere", "online", 1.0);
    elsewhere.broker_id = Some(Uuid::from_u128(2));
    let reading = Reading {
        agents: vec![
            row("working", "online", 2.0),
            row("late", "online", 2.0),
            row("stranded", "offline", 900.0),
            row("away", "offline", 900.0),
            row("crashed", "online", 900.0),
            row("ill", "error", 2.0),
            // Connected here, although the registry was not written yet.
            row("new", "offline", 900.0),
            disabled,
            elsewhere,
        ],
        waiting: vec![
            waiting("working", 1, 3, 20.0),
            waiting("late", 1, 1, 2.0),
            waiting("late", 9, 1, 6.0),
            waiting("stranded", 5, 1, 1.0),
            waiting("elsewhere", 5, 1, 20.0),
            waiting("misspelled", 5, 2, 1.0),
            waiting("group:diggers", 10, 1, 1.0),
            waiting("group:nobody's", 10, 1, 9.9),
        ],
        dead: vec![("away".to_owned(), 4)],
        ..Reading::default()
    };
    let here = [("working", 3), ("late", 1), ("new", 0)]
        .map(|(agent, in_flight)| (Arc::from(agent), Here { sessions: 1, in_flight }));
    let picture = picture(&reading, ME, &HashMap::from(here));
    for (agent, standing) in [
        ("working", Standing::Ok),
        ("late", Standing::Late),
        ("stranded", Standing::Stranded),
        ("away", Standing::Offline),
        ("crashed", Standing::Offline),
        ("ill", Standing::Error),
        ("new", Standing::Ok),
        ("disabled", Standing::Disabled),
        ("elsewhere", Standing::Ok),
    ] {
        assert_eq!(standing_of(&picture, agent), standing, "{agent}");
    }
    let order: Vec<_> = picture.agents.iter().map(|a| a.agent.as_str()).collect();
    assert_eq!(order[..4], ["stranded", "late", "ill", "away"], "the most troubled first");
    let pc = &picture.environments[0];
    assert_eq!((pc.agents, pc.ok, pc.waiting, pc.dead), (9, 3, 7, 4));
    assert_eq!(picture.unknown, [Unknown { inbox: "misspelled".to_owned(), waiting: 2 }]);
    let group = |group: &str, oldest, taken| Group {
        group: group.to_owned(),
        waiting: 1,
        oldest_seconds: Some(oldest),
        taken,
    };
    assert_eq!(picture.groups, [group("nobody's", 9, false), group("diggers", 1, true)]);
    let nine = &picture.depth[8];
    assert_eq!((nine.priority, nine.ready, nine.oldest_seconds), (9, 1, Some(6)));
    assert_eq!(picture.depth.iter().map(|d| d.ready).sum::<u64>(), 11);
}

#[test]
fn many_agents_are_counted_whole_and_told_in_part() {
    let mut agents: Vec<_> = (0..3_000).map(|n| row(&format!("a{n:04}"), "online", 1.0)).collect();
    agents.push(row("z", "offline", 99.0));
    let reading = Reading { agents, waiting: vec![waiting("z", 1, 1, 1.0)], ..Reading::default() };
    let picture = picture(&reading, ME, &HashMap::new());
    assert_eq!((picture.agents.len(), picture.left_out), (AGENTS_MAX, 2_001));
    assert_eq!(picture.agents[0].agent, "z");
    assert_eq!(picture.environments[0].agents, 3_001);
}
