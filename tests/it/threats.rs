//! The threat model of SECURITY.md names every op, and every column that a writer of the tables may set. A new one
//! must be judged there.

use std::collections::BTreeSet;

const SECURITY: &str = include_str!("../../SECURITY.md");
const FRAMES: &str = include_str!("../../clients/rust/src/protocol/frame.rs");
const SCHEMA: &str = include_str!("../../sql/schema.sql");

/// The text between the end of `from` and the next `to`.
#[track_caller]
fn between<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no {from}"));
    rest.split_once(to).unwrap_or_else(|| panic!("no {to} after {from}")).0
}

/// The words in backticks in the first cell of each row of the table under this heading.
fn judged(heading: &str) -> BTreeSet<&'static str> {
    let section = between(SECURITY, &format!("\n## {heading}\n"), "\n## ");
    let cells = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// The lines of a block, trimmed.
fn lines(block: &str) -> impl Iterator<Item = &str> {
    block.lines().map(str::trim).filter(|line| !line.is_empty())
}

#[test]
fn every_op_is_judged_and_no_other() {
    let variants = lines(between(FRAMES, "pub enum ClientFrame {", "\n}"));
    let name = |line: &str| line.split(['(', ' ']).next().unwrap_or_default().to_lowercase();
    let ops: BTreeSet<String> = variants.map(name).collect();
    assert!(ops.contains("hello") && ops.contains("bye"), "{ops:?}");
    let judged = judged("What an agent can cost others");
    let missing: Vec<_> = ops.iter().filter(|op| !judged.contains(op.as_str())).collect();
    assert!(missing.is_empty(), "SECURITY.md does not say what these ops can cost others: {missing:?}");
    // A row may also name an op's field or target; the row begins with the op.
    let fields = ["to_instance", "ordering_key", "group:…"];
    let unknown: Vec<_> = judged.iter().filter(|op| !ops.contains(**op) && !fields.contains(op)).collect();
    assert!(unknown.is_empty(), "SECURITY.md judges what is no op: {unknown:?}");
}

#[test]
fn every_column_of_a_message_and_every_table_of_the_mesh_is_judged() {
    let judged = judged("What a row can cost others");
    let columns = lines(between(SCHEMA, "create table public.agent_messages (", "\n)"));
    let columns = columns.filter(|line| !line.starts_with("constraint ")).map(|line| between(line, "", " "));
    let tables =
        SCHEMA.lines().filter_map(|line| line.strip_prefix("create table public.")?.strip_suffix(" ("));
    // The columns of this table have rows of their own.
    let names: Vec<&str> = columns.chain(tables.filter(|table| *table != "agent_messages")).collect();
    assert!(names.contains(&"payload") && names.contains(&"agent_metrics"), "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !judged.contains(**name)).collect();
    assert!(missing.is_empty(), "SECURITY.md does not say what these can cost others: {missing:?}");
}
