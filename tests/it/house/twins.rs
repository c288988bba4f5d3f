//! Parts of statements that stand in several files say the same in each.

use std::fs;
use std::path::Path;

/// Where a part stands first, the words that it begins and ends with, and where it stands again. A function that all
/// could call would be a migration, and no plan would see into it.
const TWINS: &[(&str, &str, &str, &[&str])] = &[
    (
        "settle_retry",
        "and pg_sequence_last_value('postbell.bell'::regclass)",
        "(select pg_notify('postbell', '') where exists (",
        &["settle_relane", "settle_each"],
    ),
    ("reap_expired", "removed as ( delete", "do nothing )", &["reap_expired_these"]),
    ("alerts_escalate", "select null::text as agent_id", "('alerts.escalated')))", &["alerts_whom"]),
    ("alerts_escalate", "select case when pg_column_size(e)", "true) end as said offset 0", &["alerts_tell"]),
];

/// A statement without its header, each run of blanks as one.
fn statement(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("sql/queries/{name}.sql"));
    let text = fs::read_to_string(file).unwrap();
    let words = text.lines().filter(|line| !line.trim_start().starts_with("--"));
    words.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_stands_in_several_statements_is_the_same_in_each() {
    for (first, begins, ends, others) in TWINS {
        let text = statement(first);
        let from = text.find(begins).unwrap_or_else(|| panic!("{first} has no {begins}"));
        let length = text[from..].find(ends).unwrap_or_else(|| panic!("{first} has no {ends}")) + ends.len();
        let part = &text[from..from + length];
        for other in *others {
            assert!(statement(other).contains(part), "{other} differs from {first}: {part}");
        }
    }
}
