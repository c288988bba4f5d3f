//! The Python library's own tests, which start the broker that was just built. A target of its own: it runs by itself,
//! after the others, and its waits are not theirs.
//!
//! `POSTBELL_PYTHON` names another interpreter than `python3`, such as that of a virtual environment with pytest in it; where
//! there is no pytest, `unittest` runs the same tests. A machine without a Python that the library can run on tests nothing,
//! and says so or fails: see `it/require.rs`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "it/require.rs"]
mod require;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::thread;

/// The files that run side by side. Each has a broker and a Postgres of its own, and mostly waits.
const SIDE_BY_SIDE: usize = 4;

#[test]
fn the_tests_of_the_python_library_pass() {
    let python = std::env::var("POSTBELL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if let Err(why) = usable(&python) {
        return require::missing(&format!("the Python library is not tested: {why}"));
    }
    let has_pytest = ask(&python, "import pytest").is_ok_and(|found| found.status.success());
    let waiting = Mutex::new(files());
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                loop {
                    // The lock must not be held while the file runs.
                    let next = waiting.lock().unwrap().pop();
                    let Some(file) = next else { return };
                    if let Err(said) = test(&python, has_pytest, &file) {
                        failures.lock().unwrap().push(said);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The files of tests, the longest last, which begins first: a long one that begins late would run alone.
fn files() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/tests");
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut files: Vec<(u64, String)> = entries
        .map(|entry| (entry.metadata().unwrap().len(), entry.file_name().into_string().unwrap()))
        .filter(|(_, name)| name.starts_with("test_") && name.ends_with(".py"))
        .collect();
    assert!(!files.is_empty());
    files.sort();
    files.into_iter().map(|(_, name)| name).collect()
}

/// Runs one file. Returns what it said if a test of it failed, or if it has none.
fn test(python: &str, has_pytest: bool, file: &str) -> Result<(), String> {
    let (path, module) = (format!("tests/{file}"), format!("tests.{}", file.trim_end_matches(".py")));
    let runner: &[&str] =
        if has_pytest { &["-m", "pytest", "-q", &path] } else { &["-m", "unittest", "-q", &module] };
    let tested = command(python).args(runner).output().unwrap();
    let said = format!("{}{}", text(&tested.stdout), text(&tested.stderr));
    let has_run = !said.contains("no tests ran") && !said.contains("Ran 0 tests");
    match tested.status.success() && has_run {
        true => Ok(()),
        false => Err(format!("{python} {}:\n{said}", runner.join(" "))),
    }
}

fn command(python: &str) -> Command {
    let mut command = Command::new(python);
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python"))
        .env("POSTBELL_BIN", env!("CARGO_BIN_EXE_postbell"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn ask(python: &str, code: &str) -> std::io::Result<Output> {
    command(python).args(["-c", code]).output()
}

/// Whether the library can run there, or a sentence why not.
fn usable(python: &str) -> Result<(), String> {
    let found = ask(python, "import sys; print('.'.join(map(str, sys.version_info[:2])))")
        .map_err(|e| format!("{python} cannot be started: {e}"))?;
    let version = text(&found.stdout).trim().to_owned();
    let number =
        version.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match number {
        Some(number) if number >= (3_u32, 10_u32) => Ok(()),
        Some(_) => Err(format!("{python} is Python {version}, and it needs 3.10 or newer")),
        None => Err(format!("{python} does not say its version: {}", text(&found.stderr).trim())),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
