//! The tour follows one message through the code by links to lines. Lines move, so this holds each link against its file.
//! `POSTBELL_BLESS=1` writes the numbers anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const TOUR: &str = "docs/explanation/tour.md";

struct Link<'a> {
    /// The name in the link's text: `round` of `Cursor::round`.
    name: &'a str,
    path: &'a str,
    line: usize,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

/// Links of the form `[`name`](path#L12)`.
fn links(page: &str) -> Vec<Link<'_>> {
    page.split("[`")
        .skip(1)
        .filter_map(|rest| {
            let (text, rest) = rest.split_once("`](../../")?;
            let (path, rest) = rest.split_once("#L")?;
            let line = rest.split(')').next()?.parse().ok()?;
            let name = text.rsplit("::").next()?;
            Some(Link { name, path, line })
        })
        .collect()
}

/// Where a step begins: the line that defines the name, else the first one outside comments that has it.
fn line_of(source: &str, name: &str) -> Option<usize> {
    let lines = || (1..).zip(source.lines());
    let is_comment = |line: &str| line.trim_start().starts_with("//") || line.trim_start().starts_with("--");
    let defines = |line: &str| {
        ["fn ", "struct ", "function postbell."].iter().any(|word| {
            let rest = line.split(&format!("{word}{name}")).nth(1);
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
    };
    let defined = lines().find(|(_, line)| defines(line));
    defined.or_else(|| lines().find(|(_, line)| line.contains(name) && !is_comment(line))).map(|(n, _)| n)
}

#[test]
fn each_step_of_the_tour_is_where_the_page_says() {
    let page = fs::read_to_string(root().join(TOUR)).unwrap();
    let mut blessed = page.clone();
    let mut faults = Vec::new();
    let found = links(&page);
    assert!(found.len() > 25, "{} links", found.len());
    for link in &found {
        let source =
            fs::read_to_string(root().join(link.path)).unwrap_or_else(|e| panic!("{}: {e}", link.path));
        let Some(line) = line_of(&source, link.name) else {
            faults.push(format!("{} has no {}", link.path, link.name));
            continue;
        };
        if line != link.line {
            faults.push(format!("{} is at {}:{line}, not {}", link.name, link.path, link.line));
            let (old, new) = (link.line, line);
            blessed = blessed.replace(
                &format!("{}`](../../{}#L{old})", link.name, link.path),
                &format!("{}`](../../{}#L{new})", link.name, link.path),
            );
        }
    }
    if std::env::var_os("POSTBELL_BLESS").is_some() {
        fs::write(root().join(TOUR), blessed).unwrap();
    } else {
        assert!(faults.is_empty(), "POSTBELL_BLESS=1 mends lines that moved:\n{}", faults.join("\n"));
    }
}

/// The walk's length, as the page counts it: the files on the way, and how often one comes to a file.
#[test]
fn the_walk_is_as_long_as_the_tour_says() {
    let page = fs::read_to_string(root().join(TOUR)).unwrap();
    let walk = page.split("## How long the walk is").next().unwrap();
    let mut stays: Vec<&str> = links(walk).iter().map(|link| link.path).collect();
    let files: BTreeSet<&str> = stays.iter().copied().collect();
    stays.dedup();
    let said = format!("\n{} files, {} stays:", files.len(), stays.len());
    assert!(page.contains(&said), "it is{said}");
}

#[test]
fn a_line_that_moved_is_found() {
    let source = "// round\nfn rounds() {}\npub async fn round(\n    round()\n";
    assert_eq!(line_of(source, "round"), Some(3));
    assert_eq!(line_of("-- rings\n  perform pg_notify('a')\n", "pg_notify"), Some(2));
    assert_eq!(line_of(source, "gone"), None);
}
