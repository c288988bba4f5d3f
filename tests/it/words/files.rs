//! The files of the repository, and how each of them is written.

use std::fs;
use std::path::Path;

use super::texts::Writing;

/// Folders of others' files, beside every hidden one that is not in [`OURS`]: what is fetched or built, and inputs that
/// a fuzzer has found.
const OTHERS: [&str; 7] = ["target", "node_modules", "corpus", "build", "dist", "venv", "__pycache__"];

const OURS: [&str; 3] = [".github", ".ci", ".railway"];

/// A released migration is never edited, and `schema.sql` is what the migrations make.
const NEVER_EDITED: [&str; 2] = ["sql/migrations", "sql/schema.sql"];

/// How each file is written, by the end of its name. Other files hold no sentences of ours.
const WRITINGS: [(&str, Writing); 17] = [
    (".md", Writing::Document),
    (".rs", Writing::Rust),
    (".py", Writing::Python),
    (".sql", Writing::Sql),
    (".toml", Writing::Toml),
    (".yml", Writing::Yaml),
    (".yaml", Writing::Yaml),
    (".js", Writing::Script),
    (".mjs", Writing::Script),
    (".ts", Writing::Script),
    (".c", Writing::Script),
    (".css", Writing::Css),
    (".html", Writing::Html),
    (".sh", Writing::Shell),
    ("justfile", Writing::Shell),
    ("Dockerfile", Writing::Shell),
    ("ignore", Writing::Shell),
];

/// A file, by its path in the repository.
#[derive(Debug)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) writing: Writing,
}

impl File {
    pub(super) fn text(&self) -> String {
        let path = repository().join(&self.name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that holds sentences of ours.
pub(super) fn every_file() -> Vec<File> {
    let (mut found, mut folders) = (Vec::new(), vec![repository().to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(repository()).unwrap().to_string_lossy().into_owned();
            if path.is_symlink() || NEVER_EDITED.contains(&name.as_str()) {
                continue;
            }
            if path.is_file() {
                found.extend(writing(&path).map(|writing| File { name, writing }));
            } else if is_ours(&path) {
                folders.push(path);
            }
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

fn is_ours(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    OURS.contains(&&*name) || !name.starts_with('.') && !OTHERS.contains(&&*name)
}

fn writing(file: &Path) -> Option<Writing> {
    let name = file.file_name()?.to_string_lossy();
    let known = WRITINGS.iter().find(|(end, _)| name.ends_with(end)).map(|(_, writing)| *writing);
    // A program without an ending says in its first line what reads it.
    let is_shell = || !name.contains('.') && fs::read(file).is_ok_and(|text| text.starts_with(b"#!"));
    known.or_else(|| is_shell().then_some(Writing::Shell))
}

/// Every Markdown file of the repository, by its path in it.
pub(crate) fn every_document() -> Vec<String> {
    every_file().into_iter().filter(|f| f.writing == Writing::Document).map(|f| f.name).collect()
}

#[test]
fn the_files_that_are_read_are_ours() {
    let all: Vec<String> = every_file().into_iter().map(|file| file.name).collect();
    for name in [
        ".ci/run",
        ".github/workflows/ci.yml",
        "Cargo.toml",
        "Dockerfile",
        "README.md",
        "agents/examples/reporting.toml",
        "clients/python/postbell/driver.py",
        "dashboards/source/broker.py",
        "sql/policies/claims.sql",
        "src/main.rs",
        "src/watch/http/page/index.html",
        "tests/page/run.mjs",
        "triggers/route.sql",
    ] {
        assert!(all.iter().any(|found| found == name), "{name} is not read");
    }
    for others in ["target/", "node_modules/", "sql/migrations/", "sql/schema.sql", ".git/"] {
        assert!(!all.iter().any(|found| found.contains(others)), "{others} is read");
    }
}
