//! Lists the files of `sql/` and `triggers/` as Rust, so that a new file needs no line elsewhere, a name that no file has
//! does not compile, and the compiler finds a query that nobody asks for. `src/store/sql.rs` and
//! `src/store/migrate/embedded.rs` take in what is written here.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let [queries, policies, migrations, triggers] =
        ["sql/queries", "sql/policies", "sql/migrations", "triggers"].map(|folder| names(&root.join(folder)));
    let mut sql = String::new();
    for (module, folder, names) in
        [("queries", "sql/queries", queries?), ("policies", "sql/policies", policies?)]
    {
        writeln!(sql, "pub(crate) mod {module} {{")?;
        for name in names {
            writeln!(sql, "pub(crate) const {}: &str = {};", name.to_uppercase(), text(folder, &name))?;
        }
        writeln!(sql, "}}")?;
    }
    fs::write(out.join("sql.rs"), sql)?;

    let mut embedded =
        String::from("/// Every migration, oldest first.\npub const MIGRATIONS: &[Migration] = &[\n");
    for (name, wanted) in migrations?.iter().zip(1..) {
        let (version, label) = name.split_once('_').ok_or_else(|| format!("{name}.sql has no number"))?;
        if version.parse() != Ok(wanted) {
            return Err(format!("sql/migrations/{name}.sql stands where number {wanted} belongs").into());
        }
        let text = text("sql/migrations", name);
        writeln!(embedded, "Migration {{ version: {wanted}, name: {label:?}, sql: {text} }},")?;
    }
    embedded.push_str("];\n\n/// Every trigger.\npub const TRIGGERS: &[Trigger] = &[\n");
    for name in triggers? {
        writeln!(embedded, "Trigger {{ name: {name:?}, sql: {} }},", text("triggers", &name))?;
    }
    embedded.push_str("];\n");
    fs::write(out.join("embedded.rs"), embedded)?;
    Ok(())
}

/// The names of a folder's SQL files, without ending, in order.
fn names(folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        if let Some(name) = entry?.file_name().to_string_lossy().strip_suffix(".sql") {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A file's text, as an expression that the compiler evaluates.
fn text(folder: &str, name: &str) -> String {
    format!("include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/{folder}/{name}.sql\"))")
}
