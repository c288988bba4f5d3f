//! Every command in the README and the guides is run: against a real Postgres and broker, in the order of the
//! document. A block that needs a cloud says so in the line above, and why; so does a block that another test runs.

mod blocks;
mod run;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{TestDb, fresh, number};
use crate::require::missing;
use crate::words::every_document;
use blocks::{Block, How, blocks, inline_commands};
use run::Reader;

/// The shortest reason that can tell a reader something.
const REASON_CHARS_MIN: usize = 12;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents, by their path in the repository.
fn documents() -> Vec<String> {
    let guides = fs::read_dir(repository().join("docs")).unwrap();
    let guides = guides.map(|entry| format!("docs/{}", entry.unwrap().file_name().to_string_lossy()));
    let mut all: Vec<String> = guides.filter(|name| name.ends_with(".md")).collect();
    all.extend(["README.md".to_owned(), "sql/policies/README.md".to_owned()]);
    all.sort();
    all
}

fn read(document: &str) -> (String, Vec<Block>) {
    let text = fs::read_to_string(repository().join(document)).unwrap();
    let found = blocks(&text).unwrap_or_else(|e| panic!("{document}: {e}"));
    (text, found)
}

/// Types a whole document into a shell.
async fn is_followed(document: &str) {
    let db = fresh().await;
    let (_, found) = read(document);
    if let Some(tool) = missing_tool(&db, &found).await {
        return missing(&format!("{document}: {tool}"));
    }
    let mut reader = Reader::new(&db);
    for block in &found {
        eprintln!("{document}:{}", block.line);
        reader.types(block).await;
    }
}

/// The tool of Postgres that a document needs and this machine has not.
async fn missing_tool(db: &TestDb, found: &[Block]) -> Option<String> {
    let is_needed = |word: &str| {
        found
            .iter()
            .any(|b| b.how == How::Run && (b.text.contains(word) || (word == "psql" && b.language == "sql")))
    };
    for tool in ["psql", "pg_dump"].into_iter().filter(|tool| is_needed(tool)) {
        let Ok(output) = Command::new(tool).arg("--version").output() else {
            return Some(format!("{tool} is not installed"));
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let digits = text.split(' ').nth(2).unwrap_or("").split('.').next().unwrap_or("");
        let major: i64 = digits.parse().unwrap_or(0);
        let server =
            number(&db.client().await, "select current_setting('server_version_num')::bigint / 10000").await;
        // An older pg_dump refuses to dump.
        if tool == "pg_dump" && major < server {
            return Some(format!("pg_dump {major} is older than the server, {server}"));
        }
    }
    None
}

macro_rules! followed {
    ($($name:ident: $document:literal;)*) => {
        $(#[tokio::test]
        async fn $name() {
            is_followed($document).await;
        })*

        #[test]
        fn every_document_is_followed() {
            let mut followed = [$($document),*];
            followed.sort_unstable();
            assert_eq!(documents(), followed, "a document without a test, or a test without its document");
        }
    };
}

followed! {
    the_readme: "README.md";
    faults: "docs/faults.md";
    github_actions: "docs/github-actions.md";
    http_api: "docs/http-api.md";
    operations: "docs/operations.md";
    policies: "sql/policies/README.md";
    presence_and_alerts: "docs/presence-and-alerts.md";
    railway: "docs/railway.md";
    scaling: "docs/scaling.md";
    supabase: "docs/supabase.md";
    testing_the_mesh: "docs/testing-the-mesh.md";
}

#[test]
fn what_is_not_run_here_says_why_and_what_runs_it_exists() {
    for document in documents() {
        for block in read(&document).1 {
            let reason = match &block.how {
                How::Run | How::Stays(_) => continue,
                How::Cloud(reason) => reason,
                How::By(file, reason) => {
                    assert!(repository().join(file).is_file(), "{document}: there is no {file}: {block}");
                    reason
                }
            };
            assert!(
                reason.chars().count() >= REASON_CHARS_MIN,
                "{document}: {reason:?} is no reason: {block}"
            );
        }
    }
}

/// A command that is only mentioned is not run, but there must be such a command with these options.
#[test]
fn mentioned_commands_exist() {
    let mut helps = BTreeMap::new();
    for document in documents() {
        for words in inline_commands(&read(&document).0) {
            let is_word = |word: &&String| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            let command: Vec<String> = words[1..]
                .iter()
                .take_while(is_word)
                .filter(|w| !w.starts_with('-'))
                .take(2)
                .cloned()
                .collect();
            let help = helps.entry(command.clone()).or_insert_with(|| help(&command));
            assert!(!help.is_empty(), "{document}: there is no command {words:?}");
            let options = words.iter().filter_map(|w| w.strip_prefix("--")).filter(|w| !w.is_empty());
            for option in options.map(|o| o.split(['=', ',']).next().unwrap_or(o)) {
                assert!(help.contains(&format!("--{option}")), "{document}: {words:?} has no --{option}");
            }
        }
    }
}

/// The help of a command; empty if there is no such command. A second word may be an argument.
fn help(command: &[String]) -> String {
    for length in (0..=command.len()).rev() {
        let output = Command::new(env!("CARGO_BIN_EXE_postbell"))
            .args(&command[..length])
            .arg("--help")
            .output()
            .expect("the command runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_leaf = length > 0 || command.is_empty();
        if output.status.success() && is_leaf {
            // A group takes one of its commands, and nothing else.
            let is_group = text.contains("<COMMAND>");
            return if is_group && length < command.len() { String::new() } else { text };
        }
    }
    String::new()
}

/// Documents are linked to by each other and by alerts: no link leads nowhere.
#[test]
fn links_between_documents_lead_somewhere() {
    for document in every_document() {
        let path = repository().join(&document);
        let text = fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let there: PathBuf =
                if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(there.exists(), "{document}: {target} leads nowhere");
            if !file.ends_with(".md") && anchor.starts_with('L') {
                // A line of a source: tests/it/tour.rs holds it against the file.
                continue;
            }
            let anchors = || anchors(&fs::read_to_string(&there).unwrap());
            assert!(
                anchor.is_empty() || anchors().contains(&anchor.to_owned()),
                "{document}: no anchor {target}"
            );
        }
    }
}

/// A person who is paged finds what to do: each alert has its heading in the guide.
#[test]
fn every_alert_leads_to_its_heading() {
    let alerts = fs::read_to_string(repository().join("dashboards/alerts.yml")).unwrap();
    let headings = anchors(&fs::read_to_string(repository().join("docs/operations.md")).unwrap());
    let links: Vec<&str> =
        alerts.lines().filter_map(|l| l.trim().strip_prefix("runbook_url:")).map(str::trim).collect();
    assert!(links.len() >= 11, "{links:?}");
    for link in links {
        let anchor =
            link.strip_prefix("docs/operations.md#").unwrap_or_else(|| panic!("{link}: another guide"));
        assert!(headings.contains(&anchor.to_owned()), "docs/operations.md has no heading for {anchor}");
    }
}

/// The anchors that GitHub makes from headings.
fn anchors(text: &str) -> Vec<String> {
    let headings =
        text.lines().filter_map(|line| line.strip_prefix('#').map(|l| l.trim_start_matches('#').trim()));
    let slug = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
    };
    headings.map(slug).collect()
}
