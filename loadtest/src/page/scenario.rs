//! One scenario: what it asks, what came, how it was measured.

use super::plot;
use super::ruler::Scale;
use super::text::{anchor, count, duration, escape, noise, number, percent, range};
use super::{figures, percentiles};
use crate::report::{Count, Latency, Measure, Scenario};

/// The scenario's section of the page.
pub(crate) fn section(scenario: &Scenario, times_count: bool) -> String {
    let plots: String = scenario.plots.iter().map(|p| plot::figure(p, Scale::of(&p.x))).collect();
    let plots = percentiles::figure(&scenario.latencies) + &plots;
    format!(
        "<section class=\"scenario\" id=\"{}\">\n<h2>{} <small>{}</small></h2>\n<p class=\"about\">{}</p>\n\
         {}{}{}{}{}{}{}</section>\n",
        anchor(&scenario.name),
        escape(&scenario.name),
        duration(scenario.seconds),
        escape(&scenario.about),
        titled("Figures", figures::of_scenario(scenario, times_count)),
        titled("Numbers", measures(&scenario.measures)),
        titled("Latency", latencies(&scenario.latencies)),
        if plots.is_empty() { plots } else { format!("<div class=\"plots\">\n{plots}</div>\n") },
        titled("Method", paragraph(&scenario.method)),
        titled("Notes", notes(&scenario.notes)),
        titled("Ledger", ledger(scenario.ledger)),
    )
}

fn titled(title: &str, content: String) -> String {
    if content.is_empty() { content } else { format!("<h3>{title}</h3>\n{content}") }
}

fn paragraph(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("<p>{}</p>\n", escape(text)) }
}

fn notes(notes: &[String]) -> String {
    let items: String = notes.iter().map(|note| format!("<li>{}</li>\n", escape(note))).collect();
    if items.is_empty() { items } else { format!("<ul class=\"notes\">\n{items}</ul>\n") }
}

fn measures(measures: &[Measure]) -> String {
    if measures.is_empty() {
        return String::new();
    }
    // If nothing was measured more than once, there is no spread to show.
    let several = measures.iter().any(|m| m.rounds.len() > 1);
    let heads: &[&str] = if several { &["Median", "Min", "Max", "Noise", "Rounds"] } else { &["Value"] };
    let heads: String = heads.iter().map(|head| format!("<th class=\"n\">{head}</th>")).collect();
    let rows: String = measures.iter().map(|m| measure(m, several)).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr><th>What</th><th>Unit</th>{heads}</tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

fn measure(measure: &Measure, with_spread: bool) -> String {
    let median = measure.median();
    let spread = if with_spread { spread(measure, median) } else { String::new() };
    format!(
        "<tr><td>{}</td><td class=\"unit\">{}</td><td class=\"n main\">{}</td>{spread}</tr>\n",
        escape(&measure.name),
        escape(&measure.unit),
        number(median),
    )
}

fn spread(measure: &Measure, median: f64) -> String {
    let (low, high) = range(&measure.rounds);
    // A single round has no least and greatest worth repeating.
    let (low, high) = if measure.rounds.len() > 1 { (number(low), number(high)) } else { Default::default() };
    let noise =
        noise(&measure.rounds, median).map(|share| format!("± {}", percent(share))).unwrap_or_default();
    let rounds = measure.rounds.iter().map(|v| number(*v)).collect::<Vec<_>>().join(" · ");
    format!(
        "<td class=\"n\">{low}</td><td class=\"n\">{high}</td><td class=\"n\">{noise}</td>\
         <td class=\"n\" title=\"{rounds}\">{}</td>",
        measure.rounds.len()
    )
}

fn latencies(latencies: &[Latency]) -> String {
    const SHOWN: [(f64, &str); 5] =
        [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9"), (100.0, "max")];
    if latencies.is_empty() {
        return String::new();
    }
    let row = |latency: &Latency| {
        let values = SHOWN.map(|(p, _)| format!("<td class=\"n\">{}</td>", number(latency.at(p)))).concat();
        format!(
            "<tr><td>{}</td>{values}<td class=\"n\">{}</td></tr>\n",
            escape(&latency.label),
            count(latency.count)
        )
    };
    let heads = SHOWN.map(|(_, head)| format!("<th class=\"n\">{head}</th>")).concat();
    let rows: String = latencies.iter().map(row).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead><tr><th>In ms</th>{heads}<th class=\"n\">Count</th></tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

fn ledger(counted: Count) -> String {
    if counted == Count::default() {
        return "<p class=\"muted\">No messages.</p>\n".to_owned();
    }
    let lost = match counted.lost {
        0 => "<span class=\"ok\">✓ 0</span> lost".to_owned(),
        n => format!("<b class=\"bad\">✗ {} LOST</b>", count(n)),
    };
    let Count { sent, received, duplicated, .. } = counted;
    format!(
        "<p class=\"ledger\">{} sent · {} received · {lost} · {} duplicated</p>\n",
        count(sent),
        count(received),
        count(duplicated)
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_section_has_the_numbers_of_its_scenario() {
        let page = section(&sample::report().scenarios[0], true);
        for part in ["<h2>idle-latency ", "± 10 %", "p99.9", "<svg", "✓ 0</span> lost", "1,000 sent"] {
            assert!(page.contains(part), "no {part} in {page}");
        }
    }

    #[test]
    fn single_rounds_have_no_spread() {
        let mut single = sample::report().scenarios[0].measures.clone();
        assert!(measures(&single).contains("Noise"));
        single[0].rounds.truncate(1);
        assert!(measures(&single).contains("Value") && !measures(&single).contains("Noise"));
    }

    #[test]
    fn a_lost_message_stands_out() {
        let count = Count { sent: 3, received: 2, lost: 1, duplicated: 0 };
        assert!(ledger(count).contains("✗ 1 LOST"));
        assert!(ledger(Count::default()).contains("No messages."));
    }

    #[test]
    fn what_a_scenario_does_not_have_has_no_title() {
        let mut scenario = sample::report().scenarios.remove(1);
        scenario.figures.clear();
        scenario.measures.clear();
        scenario.latencies.clear();
        scenario.plots.clear();
        scenario.notes.clear();
        let page = section(&scenario, true);
        for part in ["Figures", "Numbers", "Latency", "Notes", "<table", "<svg"] {
            assert!(!page.contains(part), "{part} in {page}");
        }
    }
}
