//! A dashboard as Grafana imports it: its queries, and whether a person can read it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Grafana's variables as a person would choose them; `$__…` as it fills them for a scrape each second.
const CHOSEN: &[(&str, &str)] = &[
    ("$__rate_interval", "10s"),
    ("$__range", "1m"),
    ("$job", "postbell"),
    ("$instance", ".*"),
    ("$agent", ".*"),
    ("$name", "backlog"),
];

/// Grafana's ids of units; a misspelled one is shown as a suffix.
const UNITS: &[&str] =
    &["bytes", "d", "dateTimeFromNow", "eps", "mps", "none", "ops", "percentunit", "s", "short"];

const COLUMNS: u64 = 24;

pub(super) struct Dashboard {
    name: &'static str,
    json: Value,
}

impl Dashboard {
    pub(super) fn read(name: &'static str) -> Self {
        let path = super::folder().join(format!("{name}.json"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { name, json: serde_json::from_str(&text).expect("JSON") }
    }

    fn list(&self, pointer: &str) -> &[Value] {
        self.json.pointer(pointer).and_then(Value::as_array).expect(pointer)
    }

    fn panels(&self) -> impl Iterator<Item = &Value> {
        self.list("/panels").iter().filter(|panel| panel["type"] != "row")
    }

    /// The expressions of its panels and annotations, with its variables.
    pub(super) fn expressions(&self) -> Vec<String> {
        let targets = self.panels().flat_map(|panel| panel["targets"].as_array().expect("targets"));
        let asked = targets.chain(self.list("/annotations/list").iter().map(|a| &a["target"]));
        let selectors = self.variables().into_iter().map(|(_, (selector, _))| selector);
        asked.map(|one| one["expr"].as_str().expect("an expression").to_owned()).chain(selectors).collect()
    }

    /// The expressions of its panels and annotations once its variables are chosen, each with its place.
    pub(super) fn queries(&self) -> Vec<(String, String)> {
        let of = |panel: &Value, target: &Value| {
            let title = panel["title"].as_str().or(panel["name"].as_str()).expect("a title");
            (format!("{}: {title}", self.name), filled(target["expr"].as_str().expect("an expression")))
        };
        let targets =
            self.panels().flat_map(|p| p["targets"].as_array().expect("targets").iter().map(move |t| (p, t)));
        let annotations = self.list("/annotations/list").iter().map(|a| (a, &a["target"]));
        targets.chain(annotations).map(|(panel, target)| of(panel, target)).collect()
    }

    /// The dashboard's variables, each with the selector and the label that its values come from.
    pub(super) fn variables(&self) -> Vec<(String, (String, String))> {
        let asked = self.list("/templating/list").iter().filter(|v| v["type"] == "query");
        let parts = asked.map(|variable| {
            let query = variable["query"]["query"].as_str().expect("a query");
            let inner = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')')).expect(query);
            let (selector, label) = inner.rsplit_once(", ").expect(query);
            (variable["name"].as_str().expect("a name").to_owned(), (filled(selector), label.to_owned()))
        });
        parts.collect()
    }
}

fn filled(expression: &str) -> String {
    let filled = CHOSEN.iter().fold(expression.to_owned(), |text, (name, value)| text.replace(name, value));
    assert!(!filled.contains('$'), "a variable that nobody chooses: {filled}");
    filled
}

/// The brokers' metrics and the recorded ones that an expression names, a histogram's by its family.
pub(super) fn metrics_of(expression: &str) -> Vec<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let ours = words.filter(|word| {
        word.starts_with("postbell_") || word.starts_with("process_") || word.starts_with("job:")
    });
    let family = |word: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        parts.iter().find_map(|part| word.strip_suffix(part)).unwrap_or(word).to_owned()
    };
    ours.map(family).collect()
}

fn number(panel: &Value, side: &str) -> u64 {
    panel["gridPos"][side].as_u64().unwrap_or_else(|| panic!("{} has no {side}", panel["title"]))
}

/// Whether a dashboard can be read without a word from its author.
fn lint(dashboard: &Dashboard) -> Vec<String> {
    let mut faults = Vec::new();
    let mut taken: BTreeMap<(u64, u64), String> = BTreeMap::new();
    let (mut ids, mut titles, mut last) = (BTreeSet::new(), BTreeSet::new(), 0);
    for panel in dashboard.list("/panels") {
        let title = panel["title"].as_str().unwrap_or_default();
        let mut says = |what: &str| faults.push(format!("{}: {title:?} {what}", dashboard.name));
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| number(panel, side));
        if title.is_empty() || !titles.insert(title) {
            says("has no title of its own");
        }
        if !panel["id"].as_u64().is_some_and(|id| id > 0 && ids.insert(id)) {
            says("has no id of its own");
        }
        if x + w > COLUMNS || w == 0 || h == 0 {
            says("is not on the grid");
        }
        if y < last {
            says("stands above the one before it");
        }
        last = y;
        for cell in (y..y + h).flat_map(|row| (x..x + w).map(move |column| (row, column))) {
            if let Some(other) = taken.insert(cell, title.to_owned()) {
                says(&format!("lies on {other:?}"));
                break;
            }
        }
        if panel["type"] != "row" {
            lint_panel(panel, &mut says);
        }
    }
    // Every row is full: a gap shows that something was forgotten.
    let height = taken.keys().map(|(row, _)| row + 1).max().unwrap_or(0);
    if taken.len() as u64 != height * COLUMNS {
        faults.push(format!("{} has a gap", dashboard.name));
    }
    faults
}

fn lint_panel(panel: &Value, says: &mut impl FnMut(&str)) {
    if panel["description"].as_str().is_none_or(|text| text.len() < 20 || !text.ends_with('.')) {
        says("has no description");
    }
    let unit = panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
    if !UNITS.contains(&unit) {
        says(&format!("has the unit {unit:?}, which is none of Grafana's that we know"));
    }
    let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    if targets.is_empty() {
        says("asks nothing");
    }
    for source in targets.iter().chain([panel]).map(|one| &one["datasource"]) {
        if *source != serde_json::json!({"type": "prometheus", "uid": "${datasource}"}) {
            says("asks a data source that was not chosen");
        }
    }
    for target in targets {
        let expression = target["expr"].as_str().unwrap_or_default();
        let legend = target["legendFormat"].as_str().unwrap_or_default();
        if legend.is_empty() {
            says("leaves the names in its legend to Prometheus");
        }
        if !metrics_of(expression).is_empty() && !expression.contains("job=\"$job\"") {
            says("asks for every mesh");
        }
        if expression.contains("_total") && !["rate(", "increase("].iter().any(|f| expression.contains(f)) {
            says("shows a counter as it is");
        }
    }
}

#[test]
fn the_dashboards_can_be_read() {
    for dashboard in ["postbell-broker", "postbell-mesh"].map(Dashboard::read) {
        let names: Vec<_> =
            dashboard.list("/templating/list").iter().filter_map(|v| v["name"].as_str()).collect();
        assert!(names.starts_with(&["datasource", "job", "instance"]), "{names:?}");
        assert!(dashboard.json["schemaVersion"].as_u64().is_some_and(|v| v >= 39));
        assert_eq!(dashboard.json["uid"], dashboard.name);
        let faults = lint(&dashboard);
        assert!(faults.is_empty(), "{}", faults.join("\n"));
        // The lint itself is tried: two panels in one place, and one without a description.
        let mut broken = Dashboard { name: dashboard.name, json: dashboard.json.clone() };
        let place = broken.json["panels"][1]["gridPos"].clone();
        broken.json["panels"][2]["gridPos"] = place;
        broken.json["panels"][3]["description"] = Value::Null;
        let faults = lint(&broken).join("\n");
        for fault in ["lies on", "has a gap", "has no description"] {
            assert!(faults.contains(fault), "{faults}");
        }
    }
}
