//! Every statement describes itself: its header names each parameter, one a line, as `-- $1 inboxes text[]`, with the type as
//! Postgres prints it. An explanation may follow after a colon.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::harness::{TestDb, migrated};

/// Files that are not one statement, and why.
const UNPREPARED: &[(&str, &str)] = &[
    ("session", "several statements, said as one message while a connection is opened"),
    ("session_planner", "the same"),
    ("session_looking_on", "the same"),
];

/// The statements by name.
fn statements() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/queries");
    let files = fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let stem = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files.map(|path| (stem(&path), fs::read_to_string(&path).expect("text"))).collect()
}

/// The types that a header gives its parameters, in order; or the line that is not as it should be.
fn described(text: &str) -> Result<Vec<String>, String> {
    let header = text.lines().map_while(|line| line.strip_prefix("--"));
    let mut types = Vec::new();
    for line in header.filter_map(|line| line.trim_start().strip_prefix('$')) {
        let odd = || format!("line `${line}` is not `$number name type: explanation`, the next number first");
        let facts = line.split_once(": ").map_or(line, |(facts, _)| facts);
        let (number, rest) = facts.split_once(' ').ok_or_else(odd)?;
        let (name, of_type) = rest.split_once(' ').ok_or_else(odd)?;
        let is_name =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c));
        if number.parse() != Ok(types.len() + 1) || !is_name {
            return Err(odd());
        }
        types.push(of_type.to_owned());
    }
    Ok(types)
}

/// How the header of a statement differs from the server's own description of the statement.
async fn faults(db: &TestDb, statements: &BTreeMap<String, String>) -> Vec<String> {
    let sql = db.sql().await;
    sql.batch_execute("set search_path = public, pg_temp").await.expect("the path");
    let mut faults = Vec::new();
    for (name, text) in statements {
        if UNPREPARED.iter().any(|(file, _)| file == name) {
            if sql.prepare(text).await.is_ok() || described(text) != Ok(vec![]) {
                faults.push(format!("{name} can be prepared, or has parameters: it is listed for no reason"));
            }
            continue;
        }
        let statement = match sql.prepare(text).await {
            Ok(statement) => statement,
            Err(e) => {
                faults.push(format!("{name} cannot be prepared: {e:?}"));
                continue;
            }
        };
        let oids: Vec<u32> = statement.params().iter().map(|t| t.oid()).collect();
        let print = "select coalesce(array_agg(format_type(oid, null) order by n), '{}')
                     from unnest($1::oid[]) with ordinality t (oid, n)";
        let server: Vec<String> = sql.query_one(print, &[&oids]).await.expect("names of types").get(0);
        match described(text) {
            Ok(header) if header == server => {}
            Ok(header) => faults.push(format!("{name}: the header says {header:?}, the server {server:?}")),
            Err(line) => faults.push(format!("{name}: {line}")),
        }
    }
    faults
}

#[tokio::test]
async fn every_header_names_its_parameters_as_the_server_does() {
    let db = migrated().await;
    let mut statements = statements();
    let listed = UNPREPARED.iter().filter(|(file, _)| !statements.contains_key(*file));
    assert_eq!(listed.collect::<Vec<_>>(), Vec::<&(&str, &str)>::new(), "these files are no more");
    assert_eq!(faults(&db, &statements).await, Vec::<String>::new());

    // Headers that are wrong, so that this can fail: another type, one too few, one too many, out of order, without a name.
    let lie = "select $1::text, $2::bigint[]";
    statements.clear();
    for (name, header) in [
        ("another type", "-- $1 name text\n-- $2 ids integer[]: of them\n"),
        ("one too few", "-- $1 name text\n"),
        ("one too many", "-- $1 name text\n-- $2 ids bigint[]\n-- $3 more text\n"),
        ("out of order", "-- $2 ids bigint[]\n-- $1 name text\n"),
        ("no name", "-- $1 text\n-- $2 bigint[]\n"),
    ] {
        statements.insert(name.to_owned(), format!("{header}{lie}"));
    }
    statements.insert("right".to_owned(), format!("-- $1 name text\n-- $2 ids bigint[]: of them\n{lie}"));
    let found = faults(&db, &statements).await;
    assert_eq!(found.len(), 5, "{found:?}");
    assert!(found.iter().all(|fault| !fault.starts_with("right")), "{found:?}");
}
