//! The summary of a job: a page of Markdown that GitHub Actions shows and to which every step appends. Names and
//! reasons come from outside, and must stay text within their cells.

use std::fmt::Write as _;
use std::io::Write as _;

use super::reason::{cut, harmless};
use super::tally::Failing;

/// The variable that names the summary's file.
const VARIABLE: &str = "GITHUB_STEP_SUMMARY";
/// At most so many failures are named; the log has all of them.
const NAMED_MAX: usize = 20;
/// A cell's text, before it is escaped.
const CELL_BYTES_MAX: usize = 200;
// GitHub refuses a step's summary of more than a megabyte. A character takes 10 bytes at most.
const _: () = assert!(NAMED_MAX * 4 * CELL_BYTES_MAX * 10 < 500_000);

/// Appends to the job's summary, if this runs in a job. A summary that cannot be written is no failure of the job.
pub(in crate::cli) fn append(text: impl FnOnce() -> String) {
    let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) else { return };
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(&path);
    if let Err(e) = opened.and_then(|mut file| file.write_all(text().as_bytes())) {
        tracing::warn!(error = %e, "the job's summary ({VARIABLE}) cannot be written");
    }
}

/// The counts and the failures of an agent, as Markdown of its own.
pub(super) fn markdown(agent: &str, counts: &[(&str, u64)], failing: &[&Failing]) -> String {
    // A blank line ends any block that the step before left open.
    let mut out = format!("\n\n### postbell listen: {}\n\n", cell(agent));
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    out.push_str(&row(counts.iter().map(|(name, _)| (*name).to_owned()).collect()));
    out.push_str(&row(counts.iter().map(|_| "---:".to_owned()).collect()));
    out.push_str(&row(counts.iter().map(|(_, count)| count.to_string()).collect()));
    if !failing.is_empty() {
        out.push_str("\n| failed | type | from | reason |\n| --- | --- | --- | --- |\n");
    }
    for Failing { of, reason } in failing.iter().take(NAMED_MAX) {
        let cells = [&of.id.to_string(), &of.message_type, &of.from, reason];
        out.push_str(&row(cells.into_iter().map(|text| cell(text)).collect()));
    }
    if let Some(more) = failing.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        let _ = writeln!(out, "\n{more} more are in the log.");
    }
    out.push('\n');
    out
}

/// The text of a cell: every character that could mean something to Markdown or HTML is written by its number.
pub(in crate::cli) fn cell(text: &str) -> String {
    let mut out = String::new();
    for c in cut(&harmless(text), CELL_BYTES_MAX).chars() {
        if c.is_alphanumeric() || matches!(c, ' ' | ',' | '…') {
            out.push(c);
        } else {
            let _ = write!(out, "&#{};", u32::from(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::listen::tally::Of;
    use proptest::prelude::*;

    fn failing(text: &str) -> Failing {
        let of = Of::named(text);
        Failing { of, reason: text.to_owned() }
    }

    #[test]
    fn names_from_outside_are_text() {
        let hostile = "a|b\n\n# big\n```\n<img src=x> [link](http://x) ![i](http://y) @user *b* `c` &lt; https://x.example";
        let text = markdown("agent", &[("handled", 1)], &[&failing(hostile)]);
        for sign in ["# big", "```", "<", "](", "@user", "*b*", "`", "http:", "b\n"] {
            assert!(!text.contains(sign), "{sign}: {text}");
        }
        assert!(text.contains("### postbell listen: agent\n") && text.contains("| 1 |"), "{text}");
    }

    #[test]
    fn only_the_first_failures_are_named() {
        let all: Vec<Failing> = (0..NAMED_MAX + 3).map(|n| failing(&n.to_string())).collect();
        let text = markdown("agent", &[("failed", 23)], &all.iter().collect::<Vec<_>>());
        assert!(text.contains("\n3 more are in the log."), "{text}");
    }

    proptest! {
        /// No name changes the number of the page's lines and cells.
        #[test]
        fn no_name_changes_the_shape_of_the_page(name in "\\PC{0,40}|[|`<>#*_\\[\\]()!\n\r&\\\\~-]{0,40}") {
            let shape = |text: &str| {
                let text = markdown(text, &[("handled", 1), ("failed", 1)], &[&failing(text)]);
                text.lines().map(|line| line.matches(['|', '`', '<', '*', '[', '\\']).count()).collect::<Vec<_>>()
            };
            prop_assert_eq!(shape(&name), shape("x"));
        }
    }
}
