use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::watch::flow::{Frame, Head, Passed, Step};
use crate::watch::status::mesh::{
    Agent, DeliveryTimes, Depth, Environment, Finding, Standing, TARGET_MS, Verdict,
};

fn screen(state: &State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame.buffer_mut(), state)).expect("drawn");
    let buffer = terminal.backend().buffer();
    (0..height)
        .map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned())
        .collect()
}

fn agent(name: &str, standing: Standing, waiting: u64) -> Agent {
    Agent {
        agent: name.to_owned(),
        environment: "railway".to_owned(),
        agent_type: "worker".to_owned(),
        role: "agent".to_owned(),
        status: "online".to_owned(),
        standing,
        seen_seconds: Some(0),
        waiting,
        oldest_seconds: (waiting > 0).then_some(400),
        in_flight: Some(1),
        dead: 2,
        broker: None,
    }
}

fn busy() -> State {
    let mut depth = Depth::none();
    depth[0] = Depth { priority: 1, ready: 40, oldest_seconds: Some(400) };
    depth[9] = Depth { priority: 10, ready: 10, oldest_seconds: Some(1) };
    let finding = |level, sentence: &str| Finding { level, sentence: sentence.to_owned(), about: None };
    let mut minutes = vec![vec![0; 15]; 60];
    minutes[59][2] = 8;
    let mesh = Mesh {
        verdict: Verdict {
            level: Level::Bad,
            sentence: "Some things need you now.".to_owned(),
            findings: vec![
                finding(Level::Bad, "b is offline while 40 messages wait for it."),
                finding(Level::Watch, "4 dead letters."),
            ],
        },
        environments: vec![Environment::default()],
        agents: vec![agent("b", Standing::Stranded, 40), agent("a", Standing::Ok, 0)],
        depth,
        delivery: DeliveryTimes {
            target_ms: TARGET_MS,
            minutes,
            count: 1_000,
            within_target: 999,
            p50_ms: Some(2.04),
            p99_ms: Some(1_200.0),
            ..DeliveryTimes::default()
        },
        ..Mesh::default()
    };
    let head = Head {
        from: Some("a".to_owned()),
        message_type: Some("alert".to_owned()),
        priority: Some(1),
        id: None,
        topic: None,
        agent: None,
    };
    let events = vec![Passed {
        step: Step::Pushed,
        ago_ms: 0,
        to: "b\u{1b}[2J".to_owned(),
        delivery: 1,
        attempt: 3,
        ms: Some(1.9),
        head,
    }];
    let mut state = State { address: "127.0.0.1:9440".to_owned(), mesh: Some(mesh), ..State::default() };
    state.passed.extend(Frame { events, more: Vec::new() }.events);
    state
}

#[track_caller]
fn has(screen: &[String], text: &str) {
    assert!(screen.iter().any(|line| line.contains(text)), "{text} is not in\n{}", screen.join("\n"));
}

#[test]
fn a_wide_terminal_shows_all_of_it() {
    let screen = screen(&busy(), 120, 40);
    assert!(screen[0].starts_with(" Postbell 127.0.0.1:9440  ● live"), "{}", screen[0]);
    assert_eq!(screen[1], " Some things need you now.");
    assert_eq!(screen[2], " ◆ b is offline while 40 messages wait for it.");
    assert_eq!(screen[3], " ▲ 4 dead letters.");
    for text in [
        "◆ stranded",
        "● online",
        "6 min",
        "99.9 % of 1000 within 5 s",
        "half within 2.0 ms, 99 % within 1.2 s",
        "▲",
    ] {
        has(&screen, text);
    }
    // The longest bar fills its room, another is in proportion.
    let bar = |prefix: &str| {
        let line = screen.iter().find(|line| line.contains(prefix)).expect(prefix);
        line.matches('█').count()
    };
    assert_eq!(bar("│ 10 █"), bar("│  1 █").div_ceil(4));
    has(&screen, "→ pushed   a → b[2J  alert 1  1.9 ms  attempt 3");
    assert!(!screen.concat().contains('\u{1b}'), "a name must not reach the terminal as a command");
}

#[test]
fn a_narrow_terminal_keeps_what_matters_most() {
    let screen = screen(&busy(), 70, 24);
    for text in ["Some things need you now.", "◆ stranded", "99.9 % of 1000", "→ pushed"] {
        has(&screen, text);
    }
    assert!(screen[23].contains("q leaves"));
}

#[test]
fn the_smallest_terminal_is_no_panic() {
    for (width, height) in [(1, 1), (10, 3), (30, 6), (100, 8), (120, 2)] {
        screen(&busy(), width, height);
        screen(&State::default(), width, height);
    }
}

#[test]
fn without_a_broker_it_says_so() {
    let mut state = State { fault: "the broker is gone".to_owned(), ..State::default() };
    has(&screen(&state, 100, 10), "○ not connected: the broker is gone");
    has(&screen(&state, 100, 10), "Asking the broker");
    state.mesh = Some(Mesh::default());
    has(&screen(&state, 100, 20), "No agent is registered.");
    has(&screen(&state, 100, 20), "Nothing was delivered.");
}

#[test]
fn the_arrows_go_through_the_agents() {
    let mut state = busy();
    for _ in 0..5 {
        state.key(ratatui::crossterm::event::KeyCode::Down);
    }
    assert_eq!(state.first, 1, "not beyond the last");
    let shown = screen(&state, 120, 40);
    assert!(!shown.iter().any(|line| line.contains("stranded")), "{}", shown.join("\n"));
    state.key(ratatui::crossterm::event::KeyCode::Home);
    assert_eq!(state.first, 0);
}
