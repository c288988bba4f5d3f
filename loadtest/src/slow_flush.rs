//! A server whose write-ahead log is slow to flush: a small library, compiled on the spot and preloaded (Linux).

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

const SOURCE: &str = include_str!("slow_flush.c");

/// The environment in which a server flushes so many milliseconds slower. The library stays in `folder`.
///
/// # Errors
/// This is not Linux, or no C compiler is installed.
pub(crate) fn environment(folder: &Path, ms: f64) -> anyhow::Result<Vec<(String, String)>> {
    if ms <= 0.0 {
        return Ok(Vec::new());
    }
    if !cfg!(target_os = "linux") {
        bail!("--slow-flush needs Linux, where a library can be preloaded");
    }
    let (source, library) = (folder.join("slow_flush.c"), folder.join("slow_flush.so"));
    std::fs::write(&source, SOURCE).with_context(|| format!("cannot write {}", source.display()))?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let made = Command::new(&compiler)
        .args(["-O2", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .context("--slow-flush needs a C compiler (cc, or the one that CC names)")?;
    if !made.status.success() {
        bail!("the delaying library could not be compiled: {}", String::from_utf8_lossy(&made.stderr).trim());
    }
    let micros = (ms * 1_000.0).round() as u64;
    Ok(vec![
        ("LD_PRELOAD".to_owned(), library.display().to_string()),
        ("LOADTEST_SLOW_FLUSH_MICROS".to_owned(), micros.to_string()),
    ])
}
