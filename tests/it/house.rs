//! The house: imports point downwards, files are rooms one can know by heart, SQL says who calls it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up. A module may use those of lower floors, and none of its own or above.
const FLOORS: &[&[&str]] = &[
    &["message", "moment", "pace", "devdb", "open_files", "sockets", "certificates"],
    &["protocol", "retry", "bucket"],
    &["client", "inbox", "bell", "metrics", "health", "guard", "spans"],
    &["postgres", "flow"],
    &["config", "dispatch", "presence", "reaper", "access", "agent_metrics"],
    &["settler", "refiller", "listener", "leaser", "tailer", "publisher", "dead_letters", "status"],
    &["session", "http"],
    &["server"],
    &["broker"],
    &["cli", "fuzzing"],
];

const LINES_MAX: usize = 500;

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// `src/inbox/lane.rs` belongs to `inbox`, `src/bell.rs` to `bell`.
fn module_of(file: &Path) -> String {
    let below = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    below.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn imports_point_downwards() {
    let mut faults = Vec::new();
    for file in files("src", "rs") {
        let module = module_of(&file);
        if matches!(module.as_str(), "lib" | "main") || file.ends_with("tests.rs") {
            continue;
        }
        let here =
            floor_of(&module).unwrap_or_else(|| panic!("{module} has no floor: give it one in this test"));
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for used in code.split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            match floor_of(&used) {
                Some(there) if used != module && there >= here => {
                    faults.push(format!("{} uses {used}, which is not below", file.display()));
                }
                _ => {}
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn only_the_postgres_folder_names_the_driver_and_only_pace_names_backoff() {
    for file in files("src", "rs") {
        let module = module_of(&file);
        let text = fs::read_to_string(&file).unwrap();
        let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        for (name, home) in [("tokio_postgres::", "postgres"), ("bb8::", "postgres"), ("backoff::", "pace")] {
            assert!(module == home || !code.contains(name), "{} names {name}", file.display());
        }
    }
}

/// A clock that is set while the broker or an agent runs must change nothing: deadlines, leases, retries and heartbeats are
/// counted on the clock that only goes forward, ages by the database's.
#[test]
fn nobody_decides_anything_by_the_wall_clock() {
    // The doctor compares the clocks, the demo shows a latency, `tail` when something passed, `agent list` how long an old
    // token is good for, a certificate expires, spans are for other machines, the tail takes it until the first row brings the database's; ids of
    // messages are ordered by nobody.
    let allowed = [
        "src/postgres/doctor/server.rs",
        "src/cli/demo.rs",
        "src/cli/agent.rs",
        "src/cli/tail.rs",
        "src/server/tls.rs",
        "src/spans/otel.rs",
        "src/cli/dev/ca.rs",
        "src/postgres/tail.rs",
    ];
    for file in files("src", "rs") {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let may = allowed.iter().any(|name| file.ends_with(name));
        assert!(may || !code.contains("SystemTime::now"), "{} reads the wall clock", file.display());
    }
}

#[test]
fn no_file_is_too_large_to_know_by_heart() {
    let all = [
        ("src", "rs"),
        ("tests", "rs"),
        ("loadtest/src", "rs"),
        ("loadtest/scenarios", "rs"),
        ("sql", "sql"),
        ("triggers", "sql"),
        ("dashboards", "py"),
    ];
    for file in all.iter().flat_map(|(folder, ending)| files(folder, ending)) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= LINES_MAX || file.ends_with("schema.sql"), "{}: {lines} lines", file.display());
    }
}

#[test]
fn every_statement_says_who_calls_it_and_is_called() {
    let sources: BTreeMap<PathBuf, String> = files("src", "rs")
        .into_iter()
        .chain(files("tests", "rs"))
        .map(|f| (f.clone(), fs::read_to_string(f).unwrap()))
        .collect();
    for file in files("sql/queries", "sql") {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        let header: String = text.lines().take_while(|l| l.starts_with("--")).collect();
        assert!(header.contains("alled by"), "{name} does not say who calls it");
        let callers: Vec<&PathBuf> =
            sources.iter().filter(|(_, source)| source.contains(&name)).map(|(file, _)| file).collect();
        assert!(!callers.is_empty(), "{name} is called by nobody");
        let truthful = callers.iter().any(|caller| {
            let short =
                caller.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_string_lossy().into_owned();
            header.contains(short.as_str())
        });
        assert!(truthful, "{name} names another caller than {callers:?}");
    }
}
