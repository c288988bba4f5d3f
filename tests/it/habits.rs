//! A stranger expects this of an open project: licences in what ships, documents whose paths exist, tests that say when they skip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LICENCES: [&str; 2] = ["LICENSE-MIT", "LICENSE-APACHE"];
/// Packages that are published: their folders.
const SHIPPED: [&str; 5] = [".", "clients/rust", "crates/engine", "clients/python", "agents"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Files below a folder with one of these endings; empty where a folder of that name is not there.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![root().join(folder)];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            if !path.ends_with("node_modules") && !path.ends_with("target") {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        } else if path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
            found.push(path);
        }
    }
    found
}

#[test]
fn every_package_that_ships_holds_both_licences() {
    for package in SHIPPED {
        for licence in LICENCES {
            let copy = text(&format!("{package}/{licence}"));
            assert_eq!(copy, text(licence), "{package}/{licence} differs from the one at the top");
        }
        if root().join(package).join("pyproject.toml").exists() {
            let manifest = text(&format!("{package}/pyproject.toml"));
            assert!(manifest.contains(r#"license-files = ["LICENSE-APACHE", "LICENSE-MIT"]"#), "{package}");
        }
    }
    assert!(text("LICENSE-MIT").contains("Copyright (c) The Postbell authors"));
    assert!(text("LICENSE-APACHE").contains("Version 2.0, January 2004"));
}

/// The licences, the changelog, and nothing that is large: what `cargo publish` would send.
#[test]
fn the_crates_hold_the_licences() {
    for package in ["postbell", "postbell-client", "postbell-engine"] {
        let listed = Command::new(env!("CARGO"))
            .args(["package", "--list", "--allow-dirty", "--offline", "-p", package])
            .current_dir(root())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&listed.stdout).into_owned();
        assert!(listed.status.success(), "{said}{}", String::from_utf8_lossy(&listed.stderr));
        for wanted in LICENCES.into_iter().chain(["README.md"]) {
            assert!(said.lines().any(|line| line == wanted), "{wanted} is not in {package}:\n{said}");
        }
    }
}

/// The README of the client names what comes with it, with and without TLS.
#[test]
fn the_clients_readme_names_what_it_depends_on() {
    let readme = text("clients/rust/README.md");
    let said: Vec<Vec<&str>> = readme
        .split("```text\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap().lines().collect())
        .collect();
    let features: [&[&str]; 2] = [&[], &["--no-default-features", "--features", "client"]];
    assert_eq!(said.len(), features.len());
    for (said, features) in said.iter().zip(features) {
        let tree = Command::new(env!("CARGO"))
            .args([
                "tree",
                "-p",
                "postbell-client",
                "-e",
                "normal",
                "--depth",
                "1",
                "--prefix",
                "none",
                "--offline",
            ])
            .args(features)
            .current_dir(root())
            .output()
            .unwrap();
        assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
        let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
        let names: Vec<&str> = tree.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(*said, names, "{features:?}");
        assert!(["backoff", "humantime", "futures-util"].iter().all(|name| !names.contains(name)));
    }
}

/// The names and paths between the marks of CONTRIBUTING.md's table.
fn table(contributing: &str) -> Vec<(&str, Vec<&str>)> {
    let rows = contributing.split("<!-- paths -->").nth(1).unwrap().split("<!-- /paths -->").next().unwrap();
    rows.lines().filter(|line| line.starts_with("| *")).map(row).collect()
}

fn row(line: &str) -> (&str, Vec<&str>) {
    let mut cells = line.split('|').skip(1).map(str::trim);
    let name = cells.next().unwrap().trim_matches('*');
    (name, cells.next().unwrap().split('`').skip(1).step_by(2).collect())
}

#[test]
fn contributing_names_files_that_are_there_and_names_them_once() {
    let contributing = text("CONTRIBUTING.md");
    let rows = table(&contributing);
    assert!(rows.len() > 20, "{rows:?}");
    let rest: String = {
        let (before, after) = contributing.split_once("<!-- paths -->").unwrap();
        format!("{before}{}", after.split_once("<!-- /paths -->").unwrap().1)
    };
    for (name, paths) in &rows {
        assert!(!paths.is_empty(), "{name} has no path");
        for path in paths {
            assert!(root().join(path).exists(), "CONTRIBUTING.md: {name} is {path}, which is not there");
        }
        assert!(rest.contains(&format!("*{name}*")), "CONTRIBUTING.md: nothing refers to {name}");
    }
    // A list that names a path of its own would be forgotten when that file moves.
    let lists = rest.split("\n### ").skip(1).collect::<String>();
    let own = lists.split('`').skip(1).step_by(2).find(|word| word.starts_with("src/"));
    assert_eq!(own, None, "CONTRIBUTING.md: this path belongs into the table");
    for name in lists.split('*').skip(1).step_by(2).filter(|n| !n.is_empty() && !n.contains('\n')) {
        assert!(
            rows.iter().any(|(known, _)| *known == name),
            "CONTRIBUTING.md: *{name}* is not in the table"
        );
    }
}

#[test]
fn contributing_names_commands_that_are_there() {
    let (contributing, justfile) = (text("CONTRIBUTING.md"), text("justfile"));
    for document in [&contributing, &justfile] {
        for script in document.split("bash ").skip(1) {
            let script = script.split(|c: char| c.is_whitespace() || c == '`').next().unwrap();
            assert!(root().join(script).is_file(), "{script} is not there");
        }
    }
    for name in ["CHANGELOG.md", "CONTRIBUTING.md"] {
        assert!(text("README.md").contains(name), "the README does not lead to {name}");
    }
}

/// One helper a language turns "it is not here" into a line or a failure; whoever prints for himself is green for nothing.
#[test]
fn nobody_skips_by_himself() {
    // The fault campaign says in its report which faults a machine cannot have; its test looks at that.
    let helpers = ["require.rs", "require.py", "missing", "habits.rs", "faults/src/report.rs", "campaign.rs"];
    let marks = [
        "\"skipped: ",
        "\"SKIPPED",
        "\"not checked: ",
        "\"not run: ",
        "skipUnless",
        "skipIf",
        "importorskip",
    ];
    let mut faults = Vec::new();
    let sources =
        ["tests", "clients", "agents", "loadtest"].iter().flat_map(|f| files(f, &["rs", "py", "mjs"]));
    let scripts = [".ci/run", ".ci/deploy-files", ".ci/fast", ".ci/tools"].map(|f| root().join(f));
    for file in sources.chain(scripts) {
        if helpers.iter().any(|helper| file.ends_with(helper)) {
            continue;
        }
        let source = fs::read_to_string(&file).unwrap();
        for (n, line) in (1..).zip(source.lines()) {
            if marks.iter().any(|mark| line.contains(mark)) && !line.trim_start().starts_with("//") {
                faults.push(format!("{}:{n}: {}", file.display(), line.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "these skip without the helper:\n{}", faults.join("\n"));
}

/// This test binary again, on one test that needs `python3`, without a PATH.
fn without_tools(require: &str) -> (bool, String) {
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "watch::the_dashboards_are_what_their_source_makes"])
        .env("PATH", "/nonexistent")
        .env("POSTBELL_TEST_REQUIRE", require)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    (run.status.success(), said)
}

#[test]
fn a_skip_is_a_failure_where_all_is_required() {
    let (passed, said) = without_tools("all");
    assert!(!passed && said.contains("python3 is not installed"), "{said}");
    let (passed, said) = without_tools("none");
    assert!(passed && said.contains("SKIPPED: python3 is not installed"), "{said}");
    let (passed, said) = without_tools("ALL");
    assert!(!passed && said.contains("all or none"), "{said}");
}

#[test]
fn a_missing_tool_fails_a_step_of_the_gate_where_all_is_required() {
    for (require, status, said) in
        [("all", 1, "FAILED: x"), ("none", 0, "SKIPPED: x"), ("ALL", 64, "all or none")]
    {
        let run = Command::new("bash")
            .arg(root().join(".ci/missing"))
            .arg("x")
            .env("POSTBELL_TEST_REQUIRE", require)
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(status), "{require}");
        assert!(String::from_utf8_lossy(&run.stderr).contains(said), "{require}");
    }
}

/// A test that this server is too old for passes; so the gate runs it on a newer one.
#[test]
fn what_an_older_server_cannot_do_is_run_by_the_gate_on_a_newer_one() {
    let gate = text(".ci/run");
    for file in files("tests/it", &["rs"]).into_iter().filter(|file| !file.ends_with("habits.rs")) {
        let source = fs::read_to_string(&file).unwrap();
        if source.contains("require::skipped") || source.contains("use crate::require::skipped") {
            let module = file.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(gate.contains(&format!("{module}::")), ".ci/run does not run {module} on a newer server");
        }
    }
}

/// A tag may be moved to other code; a commit may not.
#[test]
fn actions_are_pinned_by_commit_and_say_their_version() {
    let mut pinned = 0;
    for file in files(".github/workflows", &["yml"]) {
        let workflow = fs::read_to_string(&file).unwrap();
        for action in workflow.lines().filter_map(|line| line.split("uses: ").nth(1)) {
            let (reference, version) = action.split_once(" # v").unwrap_or((action, ""));
            let commit = reference.split_once('@').map_or("", |(_, commit)| commit);
            let is_commit = commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
            assert!(is_commit && version.contains('.'), "{}: {action}", file.display());
            pinned += 1;
        }
    }
    assert!(pinned > 10, "{pinned}");
}

/// The versions that the documents promise are the versions that are tried.
#[test]
fn the_workflow_tries_the_versions_that_are_promised() {
    let workflow = text(".github/workflows/versions.yml");
    for (versions, promise) in [
        (r#"["13", "14", "15", "16", "17", "18"]"#, "Postgres"),
        (r#"["3.10", "3.11", "3.12", "3.13", "3.14"]"#, "Python"),
        (r#"["20", "22", "24"]"#, "Node"),
    ] {
        assert!(workflow.contains(versions), "{promise}: {versions}");
    }
    assert!(text("clients/python/pyproject.toml").contains(r#"requires-python = ">=3.10""#));
    assert!(text("tests/page/package.json").contains(r#""node": ">=20""#));
    let fuzzed = text(".github/workflows/nightly.yml");
    for target in files("fuzz/fuzz_targets", &["rs"]) {
        let name = target.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(fuzzed.contains(&name), "nightly.yml does not run the fuzz target {name}");
    }
    // The gate's jobs allow no skip.
    for file in ["ci.yml", "versions.yml"] {
        assert!(
            text(&format!(".github/workflows/{file}")).contains("\n  POSTBELL_TEST_REQUIRE: all\n"),
            "{file}"
        );
    }
}
