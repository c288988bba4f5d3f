//! Variables of the environment that hold absurd values: one sentence that names the variable, and nothing as it came.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;

use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::Ended;
use crate::mesh::PATIENCE;
use crate::terminal::is_harmless;

/// Nobody reads more.
const SAID_BYTES_MAX: usize = 8_000;
/// Each does something by itself, with nothing that answers.
const COMMANDS: &[&[&str]] = &[
    &["serve"],
    &["dev"],
    &["migrate"],
    &["agent", "add", "x"],
    &["agent", "rotate", "x"],
    &["dead", "list"],
    &["dead", "purge"],
    &["aside", "list"],
    &["policies", "show"],
    &["doctor"],
    &["health"],
    &["ping"],
    &["tail"],
    &["send", "--to", "x", "1"],
    &["listen"],
    &["once", "k", "--", "true"],
];

async fn run(folder: &TempDir, args: &[&str], name: &str, value: &OsStr) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postbell"));
    command.args(args).env_clear().kill_on_drop(true).stdin(Stdio::null()).current_dir(folder.path());
    command.env("DATABASE_URL", "postgres://x:x@127.0.0.1:1/x").env("POSTBELL_URL", "tcp://127.0.0.1:1");
    command.env("POSTBELL_HTTP_URL", "http://127.0.0.1:1").env("POSTBELL_HTTP", "127.0.0.1:1");
    command.env("POSTBELL_PG_BIN", "/nowhere").env("POSTBELL_AGENT", "a").env("POSTBELL_TOKEN", "t");
    command.env(name, value);
    let output =
        timeout(PATIENCE, command.output()).await.unwrap_or_else(|_| panic!("{args:?}: {name} never ends"));
    let output = output.expect("runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended {
        status: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// The variables that the help of a command names, and where the help is asked for.
async fn variables(folder: &TempDir) -> Vec<(&'static [&'static str], String)> {
    let mut found: BTreeMap<String, Vec<&[&str]>> = BTreeMap::new();
    for args in COMMANDS {
        // The words that name the command, and no more.
        let words = args.iter().take(
            if args.len() > 1 && ["agent", "dead", "aside", "policies"].contains(&args[0]) { 2 } else { 1 },
        );
        let help: Vec<&str> = words.copied().chain(["--help"]).collect();
        let help = run(folder, &help, "NO_COLOR", OsStr::new("1")).await;
        assert_eq!(help.status, 0, "{args:?}: {}", help.stderr);
        for part in help.stdout.split("[env:").skip(1) {
            let name: String = part
                .trim_start()
                .chars()
                .take_while(|c| c.is_ascii_uppercase() || "_0123456789".contains(*c))
                .collect();
            assert!(!name.is_empty(), "{part}");
            let places = found.entry(name).or_default();
            // The same name may be asked for in two ways; what all share is tried twice as well.
            if places.len() < 2 {
                places.push(args);
            }
        }
    }
    assert!(found.len() > 60, "{found:?}");
    found
        .into_iter()
        .flat_map(|(name, places)| places.into_iter().map(move |args| (args, name.clone())))
        .collect()
}

fn absurd() -> Vec<OsString> {
    let hostile = "\u{1b}[2J\u{202e}\nFORGED\r";
    vec![
        OsString::new(),
        OsString::from_vec(b"\xff\xfe".to_vec()),
        format!("{hostile}{}", "x".repeat(100_000)).into(),
        hostile.repeat(2_000).into(),
    ]
}

/// These take any bytes, being paths; and `--to` is on the command line.
const ANY_BYTES: &[&str] = &[
    "POSTBELL_CA",
    "POSTBELL_TOKEN_FILE",
    "POSTBELL_CLIENT_CERT",
    "POSTBELL_CLIENT_KEY",
    "POSTBELL_DATA_DIR",
    "POSTBELL_PG_BIN",
    "POSTBELL_TO",
];

async fn is_refused_well(folder: &TempDir, args: &[&str], name: &str, value: &OsStr) {
    let said = run(folder, args, name, value).await;
    let what = format!("{args:?} with {name}: {}, {}{}", said.status, said.stdout, said.stderr);
    is_harmless(&said, &[args, &[name]].concat());
    assert!((0..=1).contains(&said.status) || said.status == 64, "{what}");
    assert!(said.stdout.len() + said.stderr.len() <= SAID_BYTES_MAX, "{what}");
    assert!(!what.contains("panicked"), "{what}");
    assert!(said.status != 64 || said.stderr.contains(name), "{what}");
    let is_text = value.to_str().is_some();
    assert!(is_text || said.status == 64 || ANY_BYTES.contains(&name), "{what}");
    let lines = said.stderr.lines().count();
    assert!(said.status != 64 || lines == 1, "{what}");
}

#[tokio::test]
async fn absurd_values_are_named_and_never_shown_as_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    let values = absurd();
    let variables = variables(&folder).await;
    // In turn, since each run is a process: most variables are asked for in two places, and so get two values.
    let all = variables.iter().zip(values.iter().cycle());
    futures_util::stream::iter(all.map(|((args, name), value)| (args, name, value)))
        .for_each_concurrent(4, |(args, name, value)| is_refused_well(&folder, args, name, value))
        .await;
}

/// The shell would run nothing, and every message would count as handled.
#[tokio::test]
async fn a_blank_command_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for blank in ["", " "] {
        let said = run(&folder, &["listen"], "POSTBELL_EXEC", OsStr::new(blank)).await;
        assert!(said.status == 64 && said.stderr.contains("POSTBELL_EXEC"), "{}", said.stderr);
        let said = run(&folder, &["listen", "--exec", blank], "NO_COLOR", OsStr::new("1")).await;
        assert!(said.status == 64 && said.stderr.contains("--exec"), "{}", said.stderr);
    }
}
