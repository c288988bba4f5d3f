//! A test that finds something missing here: a tool, a file of the system, a network.
//!
//! Where `POSTBELL_TEST_REQUIRE` is `all`, as in the gate, the test fails. Elsewhere it passes, and a line says what it did not find.

use std::io::Write;

const VARIABLE: &str = "POSTBELL_TEST_REQUIRE";

/// Ends a test that cannot go on: `return missing("nc is not installed")`.
#[track_caller]
pub(crate) fn missing(what: &str) {
    match std::env::var(VARIABLE).as_deref() {
        Ok("all") => {
            panic!("{what}: {VARIABLE}=all wants it here; without that variable this test is skipped")
        }
        Ok("" | "none") | Err(_) => skipped(what),
        Ok(other) => panic!("{VARIABLE} is all or none, not {other:?}"),
    }
}

/// Says that a test does nothing here. The harness shows nothing of a test that passes, so the line goes past it.
pub(crate) fn skipped(why: &str) {
    // A caller that closed standard error wants to read nothing.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
