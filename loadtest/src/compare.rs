//! The changes from one report to another, and whether they are more than noise.

use crate::page::text::{count, moment, noise, number, percent, with_unit};
use crate::report::{Better, FORMAT, Figure, Latency, Measure, Report, Scenario};

const LEGEND: &str =
    "\nnoise: half the range of the rounds over their median; ?: a single round, so it is not known\n";

/// A plain-text table of what changed from A to B, a block for each scenario that both have.
///
/// # Errors
/// One of the reports has another format than this program writes.
pub(crate) fn text(a: &Report, b: &Report) -> anyhow::Result<String> {
    for (name, report) in [("first", a), ("second", b)] {
        anyhow::ensure!(
            report.format == FORMAT,
            "the {name} report has format {}, this program reads format {FORMAT}: compare with the loadtest that \
             wrote it, or run both anew with this one",
            report.format
        );
    }
    let mut text = warning(a, b);
    for (letter, report) in [("A", a), ("B", b)] {
        let versions = &report.versions;
        text.push_str(&format!(
            "{letter}  {}, postbell {} ({}), postgres {}\n",
            moment(&report.started_at),
            versions.postbell,
            if versions.commit.is_empty() { "commit unknown" } else { &versions.commit },
            versions.postgres
        ));
    }
    text.push_str(&settings(a, b));
    let in_b = |name: &str| b.scenarios.iter().find(|s| s.name == name);
    for scenario in &a.scenarios {
        if let Some(other) = in_b(&scenario.name) {
            text.push_str(&block(scenario, other));
        }
    }
    text.push_str(&alone("A", a, b));
    text.push_str(&alone("B", b, a));
    text.push_str(LEGEND);
    Ok(text)
}

/// Differences between the two runs, because of which the comparison means little.
fn warning(a: &Report, b: &Report) -> String {
    let facts = |r: &Report| {
        [
            ("processor", r.machine.cpu.clone()),
            ("cores", r.machine.cores.to_string()),
            ("memory", format!("{} MB", r.machine.memory_mb)),
            ("system", r.machine.system.clone()),
            ("build", r.versions.build.clone()),
            ("quick", if r.quick { "yes" } else { "no" }.to_owned()),
            ("slow flush", format!("{} ms", number(r.slow_flush_ms))),
        ]
    };
    let differ = facts(a).into_iter().zip(facts(b)).filter(|(old, new)| old.1 != new.1);
    let mut why: Vec<_> = differ.map(|(old, new)| format!("{} {} -> {}", old.0, old.1, new.1)).collect();
    if a.quick && b.quick {
        why.push("both are quick".to_owned());
    }
    if a.versions.build == "debug" && b.versions.build == "debug" {
        why.push("both are debug builds".to_owned());
    }
    if why.is_empty() {
        String::new()
    } else {
        format!("WARNING: this comparison means little: {}\n\n", why.join("; "))
    }
}

fn settings(a: &Report, b: &Report) -> String {
    let names: std::collections::BTreeSet<_> = a.settings.keys().chain(b.settings.keys()).collect();
    let of =
        |report: &Report, name: &str| report.settings.get(name).map_or("unset", String::as_str).to_owned();
    let differ =
        names.into_iter().map(|name| (name, of(a, name), of(b, name))).filter(|(_, old, new)| old != new);
    differ.map(|(name, old, new)| format!("setting {name}: {old} -> {new}\n")).collect()
}

fn alone(letter: &str, report: &Report, other: &Report) -> String {
    let is_alone = |s: &&Scenario| other.scenarios.iter().all(|o| o.name != s.name);
    let names: Vec<_> = report.scenarios.iter().filter(is_alone).map(|s| s.name.as_str()).collect();
    if names.is_empty() { String::new() } else { format!("\nonly in {letter}: {}\n", names.join(", ")) }
}

fn block(a: &Scenario, b: &Scenario) -> String {
    let mut rows = vec![["", "unit", "A", "B", "B/A", "noise A", "noise B", ""].map(str::to_owned)];
    for old in &a.measures {
        if let Some(new) = b.measures.iter().find(|m| m.name == old.name && m.unit == old.unit) {
            rows.push(measure(old, new));
        }
    }
    for old in &a.latencies {
        if let Some(new) = b.latencies.iter().find(|l| l.label == old.label) {
            rows.extend(latency(old, new));
        }
    }
    let mut text = format!("\n{}\n", a.name);
    if rows.len() > 1 {
        text.push_str(&aligned(&rows));
    }
    for old in &a.figures {
        let new = b.figures.iter().find(|f| f.asked == old.asked);
        if let Some(new) = new.filter(|new| new.is_met() != old.is_met()) {
            text.push_str(&flipped(old, new));
        }
    }
    let (old, new) = (a.ledger, b.ledger);
    let to = |old: u64, new: u64| format!("{} -> {}", count(old), count(new));
    let alarm = if new.lost > 0 { "  LOST MESSAGES IN B" } else { "" };
    text.push_str(&format!(
        "  lost {}, duplicated {}{alarm}\n",
        to(old.lost, new.lost),
        to(old.duplicated, new.duplicated)
    ));
    text
}

fn measure(a: &Measure, b: &Measure) -> [String; 8] {
    let (old, new) = (a.median(), b.median());
    let noises = [noise(&a.rounds, old), noise(&b.rounds, new)];
    let [noise_a, noise_b] =
        noises.map(|known| known.map_or("?".to_owned(), |share| format!("±{}", percent(share))));
    let verdict = verdict(old, new, noises, a.better).to_owned();
    [a.name.clone(), a.unit.clone(), number(old), number(new), ratio(old, new), noise_a, noise_b, verdict]
}

/// The word for a change. A change counts only if it is larger than the noise of both; a single round has no known
/// noise, so its word is `?`.
fn verdict(old: f64, new: f64, noises: [Option<f64>; 2], better: Better) -> &'static str {
    let [Some(noise_a), Some(noise_b)] = noises else { return "?" };
    let change = if old == new { 0.0 } else { ((new - old) / old).abs() };
    // Computed numbers differ in their last digits even if nothing changed. NaN counts as no change.
    let is_change = change > noise_a.max(noise_b) + 1e-9;
    if !is_change {
        return "same within the noise";
    }
    match better {
        Better::Neither => "changed",
        Better::Higher if new > old => "better",
        Better::Lower if new < old => "better",
        Better::Higher | Better::Lower => "worse",
    }
}

/// A report has one distribution a run, whose noise is not known, so there is no verdict.
fn latency(a: &Latency, b: &Latency) -> [[String; 8]; 3] {
    [(50.0, "p50"), (99.0, "p99"), (100.0, "max")].map(|(p, name)| {
        let (old, new) = (a.at(p), b.at(p));
        let name = format!("latency {}, {name}", a.label);
        [
            name,
            "ms".to_owned(),
            number(old),
            number(new),
            ratio(old, new),
            "?".to_owned(),
            "?".to_owned(),
            "?".to_owned(),
        ]
    })
}

fn flipped(old: &Figure, new: &Figure) -> String {
    let word = |figure: &Figure| if figure.is_met() { "reached" } else { "MISSED" };
    let value = |figure: &Figure| with_unit(&number(figure.value), &figure.unit);
    format!("  figure {}: {} ({}) -> {} ({})\n", old.asked, word(old), value(old), word(new), value(new))
}

fn ratio(old: f64, new: f64) -> String {
    if old == 0.0 && new == 0.0 { "1.00".to_owned() } else { format!("{:.2}", new / old) }
}

/// Columns as wide as their widest cell: words to the left, numbers to the right.
fn aligned(rows: &[[String; 8]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let line = |row: &[String; 8]| {
        let cell = |(column, text): (usize, &String)| {
            let width = widths[column];
            if matches!(column, 0 | 1 | 7) {
                format!("  {text:<width$}")
            } else {
                format!("  {text:>width$}")
            }
        };
        row.iter().enumerate().map(cell).collect::<String>().trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::sample;

    /// The line of the table that begins with this.
    fn line(text: &str, beginning: &str) -> String {
        text.lines().find(|l| l.trim_start().starts_with(beginning)).unwrap_or_default().to_owned()
    }

    #[test]
    fn a_change_counts_only_above_the_noise_of_both() {
        let known = |a, b| [Some(a), Some(b)];
        assert_eq!(verdict(100.0, 109.0, known(0.1, 0.0), Better::Higher), "same within the noise");
        assert_eq!(verdict(100.0, 109.0, known(0.0, 0.1), Better::Higher), "same within the noise");
        assert_eq!(verdict(100.0, 111.0, known(0.1, 0.1), Better::Higher), "better");
        assert_eq!(verdict(100.0, 111.0, known(0.1, 0.1), Better::Lower), "worse");
        assert_eq!(verdict(100.0, 89.0, known(0.1, 0.1), Better::Higher), "worse");
        assert_eq!(verdict(100.0, 89.0, known(0.1, 0.1), Better::Lower), "better");
        assert_eq!(verdict(100.0, 89.0, known(0.1, 0.1), Better::Neither), "changed");
        assert_eq!(verdict(100.0, 900.0, [None, Some(0.1)], Better::Higher), "?");
        assert_eq!(verdict(0.0, 0.0, known(0.0, 0.0), Better::Lower), "same within the noise");
        assert_eq!(verdict(0.0, 3.0, known(0.0, 0.0), Better::Lower), "worse");
        assert_eq!(verdict(f64::NAN, 3.0, known(0.0, 0.0), Better::Lower), "same within the noise");
    }

    #[test]
    fn the_table_tells_what_changed() {
        let (a, mut b) = (sample::report(), sample::report());
        let scenario = &mut b.scenarios[1];
        scenario.measures[0].rounds = vec![150.0, 151.0, 152.0];
        scenario.figures[0].value = 0.8;
        scenario.ledger.lost = 3;
        b.settings.insert("postgres fsync".to_owned(), "off".to_owned());
        let text = super::text(&a, &b).expect("a comparison");
        assert!(!text.contains("WARNING") && text.contains("setting postgres fsync: on -> off"));
        let (idle, burst) = text.split_once("\nburst\n").expect("a block for burst");
        assert!(line(idle, "delivered").ends_with("±10 %  same within the noise"), "{text}");
        assert!(line(burst, "delivered").contains("1.51    ±10 %   ±0.7 %  better"), "{text}");
        assert!(line(burst, "latency broker, p99").contains("0.900  0.900  1.00"), "{text}");
        assert_eq!(line(burst, "figure"), "  figure p99 ≤ 1 ms: MISSED (1.20 ms) -> reached (0.800 ms)");
        assert_eq!(line(burst, "lost"), "  lost 0 -> 3, duplicated 2 -> 2  LOST MESSAGES IN B");
    }

    #[test]
    fn other_circumstances_are_warned_of_first_and_other_scenarios_named() {
        let (mut a, mut b) = (sample::report(), sample::report());
        b.machine.cores = 4;
        b.quick = true;
        b.scenarios.remove(0);
        a.scenarios[0].name = "gone".to_owned();
        let text = super::text(&a, &b).expect("a comparison");
        assert!(
            text.starts_with("WARNING: this comparison means little: cores 2 -> 4; quick no -> yes\n"),
            "{text}"
        );
        assert!(text.contains("only in A: gone") && !text.contains("only in B"));
    }

    #[test]
    fn another_format_is_refused_with_what_to_do() {
        let (a, mut b) = (sample::report(), sample::report());
        b.format = FORMAT + 1;
        let error = super::text(&a, &b).expect_err("another format").to_string();
        assert!(error.contains("the second report") && error.contains("run both anew"), "{error}");
    }
}
