//! Lists the files of `sql/` and `triggers/` as Rust, so that a new file needs no line elsewhere, a name that no file has
//! does not compile, and the compiler finds a query that nobody asks for. `src/store/sql.rs` and
//! `src/store/migrate/embedded.rs` take in what is written here.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The end of the name of a migration whose statements run one by one, outside of a transaction.
const CONCURRENTLY: &str = ".concurrently";

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let [queries, policies, beforehand, migrations, triggers] =
        ["sql/queries", "sql/policies", "sql/beforehand", "sql/migrations", "triggers"]
            .map(|folder| names(&root.join(folder)));
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

    let mut embedded = embedded_migrations(&migrations?, beforehand?)?;
    embedded.push_str("\n/// Every trigger.\npub const TRIGGERS: &[Trigger] = &[\n");
    for name in triggers? {
        writeln!(embedded, "Trigger {{ name: {name:?}, sql: {} }},", text("triggers", &name))?;
    }
    embedded.push_str("];\n");
    fs::write(out.join("embedded.rs"), embedded)?;
    Ok(())
}

/// The list of migrations. `beforehand` are the names of those that have steps before them.
fn embedded_migrations(migrations: &[String], mut beforehand: Vec<String>) -> Result<String, Box<dyn Error>> {
    let mut list =
        String::from("/// Every migration, oldest first.\npub const MIGRATIONS: &[Migration] = &[\n");
    for (file, wanted) in migrations.iter().zip(1..) {
        let name = file.strip_suffix(CONCURRENTLY).unwrap_or(file);
        let (version, label) = name.split_once('_').ok_or_else(|| format!("{file}.sql has no number"))?;
        if version.parse() != Ok(wanted) {
            return Err(format!("sql/migrations/{file}.sql stands where number {wanted} belongs").into());
        }
        let has_steps = beforehand.iter().position(|steps| steps == name).map(|at| beforehand.remove(at));
        let steps = has_steps.map_or("\"\"".to_owned(), |steps| text("sql/beforehand", &steps));
        let (text, concurrently) = (text("sql/migrations", file), name.len() < file.len());
        writeln!(
            list,
            "Migration {{ version: {wanted}, name: {label:?}, sql: {text}, beforehand: {steps}, concurrently: {concurrently} }},"
        )?;
    }
    if let Some(stray) = beforehand.first() {
        return Err(format!("sql/beforehand/{stray}.sql comes before no migration of that name").into());
    }
    list.push_str("];\n");
    Ok(list)
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
