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

#[test]
fn the_tests_of_the_python_library_pass() {
    let python = std::env::var("POSTBELL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if let Err(why) = usable(&python) {
        return require::missing(&format!("the Python library is not tested: {why}"));
    }
    let runner: &[&str] = match ask(&python, "import pytest") {
        Ok(found) if found.status.success() => &["-m", "pytest", "-q"],
        _ => &["-m", "unittest", "-q"],
    };
    let tested = command(&python).args(runner).output().unwrap();
    let said = format!("{}{}", text(&tested.stdout), text(&tested.stderr));
    assert!(tested.status.success(), "{python} {}:\n{said}", runner.join(" "));
    assert!(!text(&tested.stdout).contains("no tests ran") && !said.contains("Ran 0 tests"), "{said}");
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
