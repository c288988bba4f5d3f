//! The house: imports point downwards, files are short enough to know by heart, and SQL says who calls it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

mod floors;
mod twins;
mod types;

const LINES_MAX: usize = 500;

pub(crate) fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
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

/// The folder or file of a source below `src`: `store` of `src/store/url.rs`.
fn room_of(file: &Path) -> String {
    let below = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    below.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn only_the_store_names_the_driver_and_only_one_file_backoff() {
    for file in files("src", "rs") {
        let text = fs::read_to_string(&file).unwrap();
        let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        for name in ["tokio_postgres::", "bb8::"] {
            assert!(room_of(&file) == "store" || !code.contains(name), "{} names {name}", file.display());
        }
        assert!(file.ends_with("base/pace.rs") || !code.contains("backoff::"), "{}", file.display());
    }
}

/// Text from outside is made harmless for a terminal in one place, so everything that is printed passes that place.
#[test]
fn only_the_commands_output_and_its_log_print() {
    let places = ["src/cli/output.rs", "src/cli/output/log.rs"];
    // The bytes that a command itself writes to standard error are passed on as they are.
    let passes_on = "io::Write::write_all(&mut io::stderr(), &piece[..n])";
    let prints = ["print!(", "println!(", "dbg!(", "stdout()", "stderr()"];
    let is_test = |file: &Path| file.ends_with("tests.rs");
    for file in files("src", "rs") {
        if places.iter().any(|place| file.ends_with(place)) || is_test(&file) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            // To ask whether a stream is a terminal prints nothing; a child's streams are none of ours.
            let asks = line.contains("is_terminal()") || line.contains("is_colourful(");
            let ours = line.replace("family.stderr()", "").replace("use_stderr()", "");
            let found = prints.iter().find(|print| ours.contains(**print));
            let may = asks || line.contains(passes_on) || found.is_none();
            assert!(may, "{} prints past src/cli/output.rs: {line}", file.display());
        }
    }
}

/// A change of the wall clock while the broker or an agent runs must change nothing: deadlines, leases, retries and
/// heartbeats are counted on the monotonic clock, ages by the database's clock.
#[test]
fn nobody_decides_anything_by_the_wall_clock() {
    // Allowed are: the doctor compares the clocks; the demo shows a latency; `tail` shows the time of a line; `agent
    // list` shows how long an old token is still accepted; a certificate expires; spans are for other machines; the
    // tail starts with this clock until the first row brings the database's; ids of messages hold it, and nothing is
    // ordered by them.
    let allowed = [
        "src/store/doctor/server.rs",
        "src/cli/demo.rs",
        "src/cli/agent.rs",
        "src/cli/tail.rs",
        "src/agents/server/tls.rs",
        "src/watch/spans/otel.rs",
        "src/cli/dev/ca.rs",
        "src/store/tail.rs",
    ];
    let all = ["src", "clients/rust/src", "crates/engine/src"].map(|folder| files(folder, "rs"));
    for file in all.into_iter().flatten() {
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
        ("clients/rust", "rs"),
        ("crates/engine/src", "rs"),
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
        // The compiler finds what nobody calls; here, that the header names a caller.
        let constant = format!("queries::{}", name.trim_end_matches(".sql").to_uppercase());
        let is_called = |source: &str| {
            let mut rest = source;
            while let Some(at) = rest.find(&constant) {
                rest = &rest[at + constant.len()..];
                if !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_') {
                    return true;
                }
            }
            false
        };
        let callers: Vec<&PathBuf> =
            sources.iter().filter(|(_, source)| is_called(source)).map(|(file, _)| file).collect();
        assert!(!callers.is_empty(), "{name} is called by nobody");
        let truthful = callers.iter().any(|caller| {
            let short =
                caller.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_string_lossy().into_owned();
            header.contains(short.as_str())
        });
        assert!(truthful, "{name} names another caller than {callers:?}");
    }
}
