//! PROTOCOL.md's transcripts, replayed byte for byte.
//!
//! A transcript is a block of lines. `C:` is a line that the client writes, `S:` a line that the broker must write
//! exactly, `SQL:` a statement for the database, and `S: (closes)` the end of the connection. `<id>`, `<time>`,
//! `<token>`, `<ms>` and `<incident>` stand for text that differs from run to run. Each transcript runs on a database
//! of its own, with the agents alice and bob.

use crate::mesh::{Mesh, Raw};

const SPEC: &str = include_str!("../../clients/rust/src/protocol/PROTOCOL.md");

fn transcripts() -> Vec<(String, Vec<&'static str>)> {
    let mut found = Vec::new();
    let (mut title, mut block) = (String::new(), None::<Vec<&str>>);
    for line in SPEC.lines() {
        match (&mut block, line) {
            (None, "```transcript") => block = Some(Vec::new()),
            (Some(lines), "```") => {
                found.push((title.clone(), std::mem::take(lines)));
                block = None;
            }
            (Some(lines), line) => lines.push(line),
            (None, line) if line.starts_with('#') => title = line.trim_start_matches(['#', ' ']).to_owned(),
            (None, _) => {}
        }
    }
    found
}

/// Whether a line is the expected one, with anything where a placeholder stands.
fn matches(expected: &str, line: &str) -> bool {
    let mut rest = line;
    let mut parts = expected.split(['<', '>']).step_by(2);
    let Some(Some(after)) = parts.next().map(|first| rest.strip_prefix(first)) else { return false };
    rest = after;
    let parts: Vec<&str> = parts.collect();
    for (i, part) in parts.iter().enumerate() {
        let at = if i + 1 == parts.len() {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            rest.find(part)
        };
        let Some(at) = at.filter(|at| *at > 0) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

#[test]
fn a_placeholder_stands_for_something_and_the_rest_is_exact() {
    assert!(matches(r#"{"id":"<id>","p":1}"#, r#"{"id":"abc","p":1}"#));
    assert!(!matches(r#"{"id":"<id>","p":1}"#, r#"{"id":"","p":1}"#));
    assert!(!matches(r#"{"id":"<id>","p":1}"#, r#"{"id":"abc","p":2}"#));
    assert!(!matches(r#"{"p":1}"#, r#"{"p":1} "#));
    assert!(!matches(r#"{"p":1}"#, r#"{"p": 1}"#));
}

#[tokio::test]
async fn every_transcript_of_the_specification_is_true() {
    let transcripts = transcripts();
    assert!(transcripts.len() >= 12, "the specification has transcripts");
    let replays = transcripts.into_iter().map(|(title, lines)| tokio::spawn(replay(title, lines)));
    for replay in replays.collect::<Vec<_>>() {
        replay.await.expect("a true transcript");
    }
}

async fn replay(title: String, lines: Vec<&'static str>) {
    let mesh = Mesh::with(&[("POSTBELL_RETRY_BASE_MS", "1")]).await;
    let token = mesh.db.agent("alice").await;
    mesh.db.agent("bob").await;
    let sql = mesh.db.sql().await;
    let mut raw = Raw::open(mesh.agents).await;
    for line in lines {
        let (who, what) = line.split_once(' ').unwrap_or((line, ""));
        match (who, what) {
            ("C:", line) => raw.say(&line.replace("<token>", &token)).await,
            ("S:", "(closes)") => assert_eq!(raw.line().await, None, "{title}: open where it should close"),
            ("S:", expected) => {
                let said =
                    raw.line().await.unwrap_or_else(|| panic!("{title}: closed instead of {expected}"));
                assert!(matches(expected, &said), "{title}\n expected {expected}\n      got {said}");
            }
            ("SQL:", statement) => sql.batch_execute(statement).await.expect(statement),
            _ => panic!("{title}: no line of a transcript: {line}"),
        }
    }
}
