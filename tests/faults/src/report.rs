//! The report: a row for each fault, the balance beneath, and the promises that were broken. As text and as JSON.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::checker::{Balance, End};
use crate::episode::Episode;
use crate::measure::Effect;
use crate::watch::Late;

/// A longer delay that no fault explains is a defect. The bound is wide, since the machine may be busy.
const QUIET_MS_MAX: u32 = 5_000;
/// A `send` is answered within this, whatever the answer: the client's own limit, and a little.
const SEND_MS_MAX: u64 = 31_000;

/// A fault and its effects.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The fault, when it began and how long it lasted.
    #[serde(flatten)]
    pub episode: Episode,
    /// The fault's effect on deliveries.
    #[serde(flatten)]
    pub effect: Effect,
    /// The milliseconds in which delivery had to resume.
    pub limit_ms: u32,
    /// Messages that were in flight at the fault and were handled twice.
    pub duplicated: u64,
    /// Rows that the tail found late and that the fault excuses.
    pub late: u64,
}

impl Row {
    /// Gathers everything that belongs to a fault.
    pub fn new(episode: Episode, effect: Effect, balance: &Balance, late: &[Late]) -> Self {
        let duplicated = balance.duplicates_by_fault.get(&episode.planned.number).copied().unwrap_or(0);
        let late = late.iter().filter(|l| episode.excuses_late(l.at_ms)).map(|l| l.rows).sum();
        let (_, limit_ms) = episode.promise();
        Self { episode, effect, limit_ms, duplicated, late }
    }
}

/// The report of a campaign.
#[derive(Debug, Serialize)]
#[expect(missing_docs, reason = "README.md says what each number means")]
pub struct Report {
    pub seed: u64,
    pub lasting_s: f64,
    pub rate: f64,
    pub only: Vec<String>,
    pub outage: bool,
    pub timed: bool,
    pub build: &'static str,
    pub rows: Vec<Row>,
    pub balance: Balance,
    pub late: Vec<Late>,
    pub quiet_longest_ms: u32,
    pub strangers: u64,
    pub drained_in_ms: Option<u64>,
    pub longest_send_ms: u64,
    pub sends_refused: u64,
    pub sends_unanswered: u64,
    pub memory_bytes_max: u64,
    pub end: Option<String>,
}

impl Report {
    /// Adds how the stage was struck.
    pub fn with_end(mut self, struck: anyhow::Result<()>) -> Self {
        self.end = struck.err().map(|e| format!("{e:#}"));
        self
    }

    /// Each promise that was broken, in a sentence.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut unless = |holds: bool, sentence: String| {
            if !holds {
                failures.push(sentence);
            }
        };
        for end in [End::Lost, End::Phantom, End::Waiting] {
            let count = self.balance.count(end);
            unless(count == 0, format!("{count} messages are {}", format!("{end:?}").to_lowercase()));
        }
        let unexplained = self.balance.unexplained();
        unless(unexplained == 0, format!("{unexplained} duplicates were in flight at no fault"));
        for row in self.rows.iter().filter(|row| row.episode.skipped.is_none()) {
            let name = format!("fault {}, {}", row.episode.planned.number, row.episode.name);
            match row.effect.resumed_ms {
                Some(ms) => unless(
                    ms <= row.limit_ms || !self.timed,
                    format!("{name}: delivery resumed after {ms} ms, not {} ms", row.limit_ms),
                ),
                None => unless(false, format!("{name}: delivery did not resume")),
            }
            if let Some(defect) = &row.episode.defect {
                unless(false, format!("{name}: {defect}"));
            }
        }
        let excused = |late: &Late| self.rows.iter().any(|row| row.episode.excuses_late(late.at_ms));
        let late: u64 = self.late.iter().filter(|late| !excused(late)).map(|late| late.rows).sum();
        unless(late == 0, format!("the tail was late with {late} rows though nothing killed the bell"));
        let quiet = self.quiet_longest_ms;
        unless(
            quiet <= QUIET_MS_MAX || !self.timed,
            format!("a message took {quiet} ms while nothing was broken"),
        );
        unless(self.strangers == 0, format!("{} deliveries had a number nobody gave", self.strangers));
        unless(self.longest_send_ms <= SEND_MS_MAX, format!("a send hung for {} ms", self.longest_send_ms));
        if let Some(end) = &self.end {
            unless(false, format!("at the end: {end}"));
        }
        failures
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, to: &mut String) -> std::fmt::Result {
        writeln!(
            to,
            "{:>3}  {:<44} {:>8} {:>8} {:>9} {:>8} {:>5} {:>4}",
            "", "fault", "begun s", "ended s", "resumed", "longest", "twice", "late"
        )?;
        for row in &self.rows {
            let e = &row.episode;
            write!(to, "{:>3}  {:<44} {:>8.1} ", e.planned.number, e.name, seconds(e.begun_ms))?;
            if let Some(why) = &e.skipped {
                writeln!(to, "skipped: {why}")?;
                continue;
            }
            let resumed = row.effect.resumed_ms.map_or("never".to_owned(), |ms| format!("{ms} ms"));
            let longest = format!("{} ms", row.effect.longest_ms);
            write!(
                to,
                "{:>8.1} {resumed:>9} {longest:>8} {:>5} {:>4}",
                seconds(e.ended_ms),
                row.duplicated,
                row.late
            )?;
            writeln!(to, "  {}", e.note.as_deref().unwrap_or(""))?;
        }
        let of = |end| self.balance.count(end);
        writeln!(
            to,
            "\n{} acknowledged, {} dead with a reason ({} by faults alone), {} expired",
            of(End::Acknowledged),
            of(End::Dead),
            self.balance.dead_by_faults,
            of(End::Expired)
        )?;
        writeln!(
            to,
            "{} not answered and not stored, {} refused or rolled back",
            of(End::NotStored),
            of(End::Refused)
        )?;
        writeln!(
            to,
            "{} lost, {} phantoms, {} waiting at the end",
            of(End::Lost),
            of(End::Phantom),
            of(End::Waiting)
        )?;
        writeln!(
            to,
            "{} redelivered, {} duplicated ({} after their confirmed ack), {} of these in flight at no fault",
            self.balance.redelivered,
            self.balance.duplicated,
            self.balance.after_confirmed,
            self.balance.unexplained()
        )?;
        writeln!(
            to,
            "longest delivery while nothing was broken {} ms, longest wait for the answer to a send {} ms ({} refused, {} unanswered)",
            self.quiet_longest_ms, self.longest_send_ms, self.sends_refused, self.sends_unanswered
        )?;
        writeln!(to, "broker's memory at most {} MB", self.memory_bytes_max / 1_000_000)?;
        for failure in self.failures() {
            writeln!(to, "FAILED: {failure}")?;
        }
        Ok(())
    }

    /// Writes `report.txt` and `report.json`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, out: &Path) -> anyhow::Result<()> {
        let put = |name: &str, text: String| {
            let path = out.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        put("report.txt", self.text())?;
        put("report.json", serde_json::to_string_pretty(self)?)
    }

    /// The command that runs the same campaign again.
    pub fn replay(&self) -> String {
        let minutes = self.lasting_s / 60.0;
        let mut only: String = self.only.iter().map(|name| format!(" --only '{name}'")).collect();
        if self.outage {
            only.push_str(" --outage");
        }
        let release = if self.build == "release" { "--release " } else { "" };
        format!(
            "cargo run {release}-p faults --bin soak -- --minutes {minutes} --seed {} --rate {}{only} --out target/faults",
            self.seed, self.rate
        )
    }
}

fn seconds(ms: u32) -> f64 {
    f64::from(ms) / 1_000.0
}
