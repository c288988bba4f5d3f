//! Two minutes of faults with a fixed seed, on a debug build: nothing may be lost. How fast delivery resumes is
//! judged by `soak`, on a machine that does nothing else.

#[path = "../../it/require.rs"]
mod require;

use std::path::PathBuf;
use std::time::Duration;

use faults::campaign::{Wanted, run};
use faults::schedule::TEST_SEED;

const LASTING: Duration = Duration::from_secs(120);
/// A load that two cores carry beside other tests.
const RATE: f64 = 100.0;

#[tokio::test(flavor = "multi_thread")]
async fn two_minutes_of_faults_lose_nothing() {
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("campaign");
    let wanted = Wanted {
        program: env!("CARGO_BIN_EXE_soak").into(),
        seed: TEST_SEED,
        lasting: LASTING,
        rate: RATE,
        only: Vec::new(),
        outage_ends: None,
        timed: false,
        out: out.clone(),
        tell: |_| {},
    };
    let report = run(&wanted).await.unwrap_or_else(|e| panic!("{e:#}; logs are in {}", out.display()));
    report.save(&out).expect("the report is written");
    let text = report.text();
    println!("{text}");
    for fault in text.lines().filter(|line| line.contains("skipped: ")) {
        // A file system of one's own takes rights that no package brings.
        let say = if fault.contains("needs root") { require::skipped } else { require::missing };
        say(fault);
    }
    let failures = report.failures();
    assert!(
        failures.is_empty(),
        "{}\nlogs are in {}; again: {}",
        failures.join("\n"),
        out.display(),
        report.replay()
    );
    std::fs::remove_dir_all(&out).expect("the logs of what went well are removed");
}
