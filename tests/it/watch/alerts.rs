//! A person who is called by an alert finds in it what is wrong, and where to read on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The cases of `promtool test rules`.
pub(super) fn test_files() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(super::folder().join("tests")).expect("dashboards/tests");
    let files = folder.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = files.filter(|f| f.extension().is_some_and(|e| e == "yml")).collect();
    files.sort();
    files
}

/// How often each alert is expected to fire and to be quiet.
fn cases() -> BTreeMap<String, (usize, usize)> {
    let mut cases: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for file in test_files() {
        let text = std::fs::read_to_string(&file).expect("reads");
        let mut alert = String::new();
        for line in text.lines().map(|l| l.trim_start_matches([' ', '-'])) {
            if let Some(name) = line.strip_prefix("alertname: ") {
                name.clone_into(&mut alert);
            } else if let Some(expected) = line.strip_prefix("exp_alerts:") {
                let (fires, quiet) = cases.entry(alert.clone()).or_default();
                *(if expected.trim() == "[]" { quiet } else { fires }) += 1;
            }
        }
    }
    cases
}

/// Checks the alerts as Prometheus understood them.
pub(super) fn check(rules: &[Value]) {
    let cases = cases();
    let mut severities: BTreeMap<String, usize> = BTreeMap::new();
    for alert in rules.iter().filter(|rule| rule["type"] == "alerting") {
        let name = alert["name"].as_str().expect("a name");
        let text = |key: &str| alert["annotations"][key].as_str().unwrap_or_default().to_owned();
        *severities.entry(alert["labels"]["severity"].to_string()).or_default() += 1;
        assert!(text("summary").ends_with('.'), "{name} has no summary");
        assert!(text("description").len() > 40, "{name} has no description");
        assert_eq!(text("runbook_url"), format!("docs/operations.md#{}", name.to_lowercase()));
        let (fires, quiet) = cases.get(name).copied().unwrap_or_default();
        assert!(fires > 0 && quiet > 0, "{name} is tested by {fires} cases that fire and {quiet} quiet ones");
    }
    assert_eq!(severities.keys().collect::<Vec<_>>(), ["\"page\"", "\"ticket\""]);
    guide_has_each(rules);
}

/// The guide that the alerts point to has a heading for each.
fn guide_has_each(rules: &[Value]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let guide = std::fs::read_to_string(&path).expect("the guide that the alerts point to");
    let headings: Vec<String> = guide
        .lines()
        .filter(|l| l.starts_with('#'))
        .map(|l| l.trim_start_matches(['#', ' ']).trim_matches('`').to_lowercase())
        .collect();
    for alert in rules.iter().filter(|rule| rule["type"] == "alerting") {
        let name = alert["name"].as_str().expect("a name").to_lowercase();
        assert!(headings.contains(&name), "docs/operations.md has no heading {name}");
    }
}
