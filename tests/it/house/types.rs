//! A name is one type: always where the glossary tells it from others, elsewhere with listed exceptions.

mod several;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::files;
use several::SEVERAL;

/// The folders of the broker, its decisions and its client.
const SOURCES: [&str; 3] = ["src", "crates/engine/src", "clients/rust/src"];
/// The folders of the programs that test them.
const TOOLS: [&str; 3] = ["loadtest/src", "loadtest/scenarios", "tests/faults/src"];
const KEYWORDS: [&str; 4] = ["struct ", "enum ", "trait ", "type "];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The names of types in the rows of the tables from this sentence to the next heading.
fn names(page: &str) -> Vec<&str> {
    let from = page.find("Some words have a type").expect("the glossary has its tables of types");
    let part = &page[from..];
    let part = &part[..part.find("\n## ").unwrap_or(part.len())];
    let rows = part.lines().filter(|line| line.starts_with("| `"));
    let quoted = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let is_type =
        |name: &&str| name.starts_with(char::is_uppercase) && name.chars().all(char::is_alphanumeric);
    quoted.filter(is_type).collect()
}

/// The name that a line defines. Types within a function, an `impl` or a module of tests are nobody else's: their
/// lines are indented.
fn defined(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub").map_or(line, |rest| {
        let rest =
            rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest);
        rest.trim_start()
    });
    let rest = KEYWORDS.iter().find_map(|keyword| line.strip_prefix(keyword))?;
    rest.split(|c: char| !c.is_alphanumeric()).next()
}

/// Each file of these folders, and its text, but for the tests.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut sources = Vec::new();
    for folder in folders {
        for file in files(folder, "rs") {
            let within = file.strip_prefix(root().join(folder)).unwrap_or(&file);
            if !within.iter().any(|part| part == "tests" || part == "tests.rs") {
                sources.push((file.display().to_string(), fs::read_to_string(&file).unwrap()));
            }
        }
    }
    sources
}

/// Every name that these folders define outside of tests, and the files that do.
fn definitions(folders: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in sources(folders) {
        for name in text.lines().filter_map(defined) {
            places.entry(name.to_owned()).or_default().push(file.clone());
        }
    }
    places
}

#[test]
fn a_type_of_the_glossary_is_defined_once() {
    let page = fs::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let names = names(&page);
    assert!(names.len() > 30, "{names:?}");
    let defined = definitions(&SOURCES);
    let places = |name: &str| defined.get(name).map_or(&[][..], Vec::as_slice);
    let wrong: Vec<_> =
        names.into_iter().map(|name| (name, places(name))).filter(|(_, places)| places.len() != 1).collect();
    assert!(wrong.is_empty(), "these are not defined, or more than once: {wrong:#?}");
}

#[test]
fn a_name_has_several_types_only_where_that_is_allowed() {
    let allowed: Vec<(&str, usize)> = SEVERAL.iter().flat_map(|(_, names)| *names).copied().collect();
    let mut places = definitions(&[&SOURCES[..], &TOOLS].concat());
    places.retain(|_, places| places.len() > 1);
    for (name, times) in allowed {
        let found = places.remove(name).unwrap_or_default();
        assert_eq!(found.len(), times, "{name} is listed, and listed once? {found:#?}");
    }
    assert!(places.is_empty(), "name one after its purpose: {places:#?}");
}

/// The types of numbers and texts, which say nothing of what they are for.
const BARE: [&str; 13] = [
    "i16", "i32", "i64", "u8", "u16", "u32", "u64", "usize", "String", "&str", "Arc<str>", "Box<str>", "Uuid",
];

/// The name that a line gives to a bare number or text, or to a tuple with two of a kind: the compiler takes one for
/// the other all the same.
fn bare_alias(line: &str) -> Option<&str> {
    let name = defined(line)?;
    let (_, meaning) = line.split_once("type ")?.1.split_once(" = ")?;
    let meaning = meaning.trim_end_matches(';').replace("'static ", "");
    let parts: Vec<&str> = meaning.trim_matches(['(', ')']).split(", ").collect();
    let times = |bare: &&str| parts.iter().filter(|part| *part == bare).count();
    let is_bare = parts.len() == 1 && BARE.contains(&parts[0]);
    (is_bare || BARE.iter().any(|bare| times(bare) > 1)).then_some(name)
}

#[test]
fn no_number_and_no_text_has_another_name() {
    for (file, text) in sources(&SOURCES) {
        let wrong: Vec<&str> = text.lines().filter_map(bare_alias).collect();
        assert!(wrong.is_empty(), "{file}: make a struct of each, so that two cannot be swapped: {wrong:?}");
    }
    for line in
        ["pub type Tag = u64;", "type Name = &'static str;", "type Rows = (usize, usize, Vec<Entry>);"]
    {
        assert!(bare_alias(line).is_some(), "{line}");
    }
    for line in
        ["type Hash = [u8; 32];", "    type Err = String;", "type Row = (i64, String);", "struct A(u64);"]
    {
        assert_eq!(bare_alias(line), None, "{line}");
    }
}

#[test]
fn a_definition_is_found_however_it_is_visible() {
    for line in [
        "pub struct Push {",
        "pub(super) enum Push<'a> {",
        "type Push = u64;",
        "pub(in crate::a) struct Push(u8);",
    ] {
        assert_eq!(defined(line), Some("Push"), "{line}");
    }
    for line in ["    type Error = Push;", "use a::Push;", "/// struct Push", "impl Push {"] {
        assert_eq!(defined(line), None, "{line}");
    }
}
