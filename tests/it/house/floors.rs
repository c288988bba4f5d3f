//! Imports point downwards. Cargo keeps packages apart; within the broker's, this test reads every source as the
//! compiler does, without the parts that are compiled for tests alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, Item};

/// The floors from the ground up. A room may use rooms of lower floors, and none of its own floor or above. A name
/// stands for everything below it that has no line of its own.
const FLOORS: &[&[&str]] = &[
    &["base", "devdb", "watch::health"],
    &["store", "watch::flow", "watch::spans"],
    &["watch::metrics", "pipeline::alarm", "pipeline::rest", "pipeline::traffic"],
    &[
        "broker::config",
        "pipeline::dispatch",
        "pipeline::reaper",
        "agents::presence",
        "agents::access",
        "watch::agent_metrics",
    ],
    &[
        "pipeline::settler",
        "pipeline::refiller",
        "pipeline::listener",
        "pipeline::leaser",
        "pipeline::router",
        "pipeline::tailer",
        "pipeline::publisher",
        "pipeline::dead_letters",
        "watch::status",
    ],
    &["agents::session", "watch::http"],
    &["agents::server"],
    &["broker"],
    &["cli", "fuzzing"],
];

/// The room of a path, such as `store` for `[store, url]`, and its floor.
fn room(path: &[String]) -> Option<(usize, &'static str)> {
    let names = (1..=path.len()).rev().map(|n| path[..n].join("::"));
    names.into_iter().find_map(|name| {
        FLOORS
            .iter()
            .enumerate()
            .find_map(|(floor, rooms)| Some((floor, *rooms.iter().find(|room| **room == name)?)))
    })
}

/// Whether production leaves it out. `cfg(not(test))` and `cfg_attr` leave nothing out there.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|a| a.path().is_ident("cfg")).any(|a| {
        let text = a.to_token_stream().to_string();
        text.contains("test") && !text.contains("not")
    })
}

/// Whether this is no room, but rooms lie below: the root, or the page of a folder. A name for it is a way to all of them that
/// no path tells.
fn is_folder(path: &[String]) -> bool {
    let below = format!("{}::", path.join("::"));
    let is_above = |room: &&str| path.is_empty() || room.starts_with(&below);
    room(path).is_none() && FLOORS.iter().copied().flatten().any(is_above)
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

/// Adds every path of this package that is named, from its root: `crate::a::b`, `super::b`, `self::super::b`, also in groups and
/// within macros.
fn used(items: &[Item], here: &[String], found: &mut BTreeSet<Vec<String>>) {
    for item in items.iter().filter(|item| !is_for_tests(attributes(item))) {
        match item {
            Item::Mod(module) => {
                if let Some((_, items)) = &module.content {
                    used(items, &[here, &[module.ident.to_string()]].concat(), found);
                }
            }
            item => scan(item.to_token_stream(), here, found),
        }
    }
}

fn scan(tokens: TokenStream, here: &[String], found: &mut BTreeSet<Vec<String>>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        let is_path_start = !(at > 1 && is_colon(&tokens, at - 2));
        match &tokens[at] {
            TokenTree::Group(group) => scan(group.stream(), here, found),
            // The `crate` of `pub(crate)` is no path; `crate as c` and `extern crate self as c` name the root.
            TokenTree::Ident(word) if is_path_start && *word == "crate" => {
                let next =
                    |at: usize, word: &str| matches!(tokens.get(at), Some(TokenTree::Ident(i)) if *i == word);
                if is_colon(&tokens, at + 1) || next(at + 1, "as") || next(at + 1, "self") {
                    follow(&tokens, at + 1, &[], found);
                }
            }
            // The `super` of `pub(super)` is no path, nor is the `self` of a method.
            TokenTree::Ident(word)
                if is_path_start && is_colon(&tokens, at + 1) && (*word == "super" || *word == "self") =>
            {
                let from = if *word == "super" { parent(here) } else { here };
                follow(&tokens, at + 1, from, found);
            }
            _ => {}
        }
        at += 1;
    }
}

fn parent(module: &[String]) -> &[String] {
    module.split_last().map_or(module, |(_, above)| above)
}

fn is_colon(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |at: usize| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(at) && colon(at + 1)
}

/// Follows a path after its beginning: `::a::b`, `::super::b`, `::{self, a, b::c}`.
fn follow(tokens: &[TokenTree], mut at: usize, from: &[String], found: &mut BTreeSet<Vec<String>>) {
    let mut path = from.to_vec();
    while is_colon(tokens, at) {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(word)) => path = step(&path, &word.to_string()),
            Some(TokenTree::Group(group)) => {
                let parts: Vec<TokenTree> = group.stream().into_iter().collect();
                for part in parts.split(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == ',')) {
                    if let Some(TokenTree::Ident(word)) = part.first() {
                        follow(part, 1, &step(&path, &word.to_string()), found);
                    } else if !part.is_empty() {
                        // `*` brings everything that is below.
                        found.insert(path.clone());
                    }
                }
                return;
            }
            _ => break,
        }
        at += 3;
    }
    found.insert(path);
}

/// One word further along a path.
fn step(path: &[String], word: &str) -> Vec<String> {
    match word {
        "self" => path.to_vec(),
        "super" => parent(path).to_vec(),
        word => [path, &[word.to_owned()]].concat(),
    }
}

/// The items of a folder's page that are no modules: a name there would be a way past the floors.
fn faults_of_page(module: &[String], source: &str) -> Vec<String> {
    let parsed = syn::parse_file(source).expect("it compiles");
    let is_module = |item: &Item| matches!(item, Item::Mod(module) if module.content.is_none());
    let others = parsed.items.iter().filter(|item| !is_module(item) && !is_for_tests(attributes(item)));
    let name = |item: &Item| item.to_token_stream().to_string();
    others
        .map(|item| format!("the page {} holds more than modules: {}", module.join("::"), name(item)))
        .collect()
}

/// The imports of a file that do not point downwards.
fn faults(module: &[String], source: &str) -> Vec<String> {
    let parsed = syn::parse_file(source).expect("it compiles");
    let mut found = BTreeSet::new();
    used(&parsed.items, module, &mut found);
    let (floor, here) =
        room(module).unwrap_or_else(|| panic!("{module:?} has no floor: give it one in this test"));
    let above = |path: &Vec<String>| {
        if is_folder(path) {
            let folder = if path.is_empty() { "the root".to_owned() } else { path.join("::") };
            return Some(format!(
                "{} gives {folder} a name, by which it reaches every room",
                module.join("::")
            ));
        }
        let (there, name) = room(path)?;
        (name != here && there >= floor)
            .then(|| format!("{} uses {}, which is not below", module.join("::"), path.join("::")))
    };
    found.iter().filter_map(above).collect()
}

/// `src/store/url.rs` is `[store, url]`.
fn module_of(file: &Path) -> Vec<String> {
    let below =
        file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap().with_extension("");
    below.components().map(|c| c.as_os_str().to_string_lossy().into_owned()).collect()
}

#[test]
fn imports_point_downwards() {
    let mut all = Vec::new();
    for file in super::files("src", "rs") {
        let module = module_of(&file);
        let is_for_tests = file.ends_with("tests.rs") || module.iter().any(|part| part == "tests");
        if is_for_tests || ["lib", "main"].contains(&module[0].as_str()) {
            continue;
        }
        let source = fs::read_to_string(&file).unwrap();
        all.extend(if is_folder(&module) {
            faults_of_page(&module, &source)
        } else {
            faults(&module, &source)
        });
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn an_import_that_points_upwards_is_found_however_it_is_written() {
    let here = ["store".to_owned(), "url".to_owned()];
    for planted in [
        "use crate::cli::main;",
        "use crate::{base::pace, agents::session::Session};",
        "use crate::{base, watch::{health, http}};",
        "use super::super::broker::start;",
        "fn f() { let x = crate::pipeline::tailer::ROWS; }",
        "fn f() { tokio::select! { x = crate::agents::server::run() => x } }",
        "#[cfg(test)] mod tests { use super::*; } fn f(x: crate::broker::Broker) {}",
        "mod inner { use super::super::super::cli::main; }",
        "use self::super::super::cli::main;",
        "use self::{super::super::cli::main};",
        "use super::{pool, super::cli::main};",
        "use crate as c; fn f() { c::cli::main() }",
        "extern crate self as c; fn f() { c::cli::main() }",
        "use crate::*; fn f() { cli::main() }",
        "use crate::{base, *}; fn f() { cli::main() }",
        "use crate::agents; fn f() { agents::server::run() }",
        "use crate::agents as a; fn f() { a::server::run() }",
        "use crate::{base, agents::{self}}; fn f() { agents::server::run() }",
        "#[cfg(not(test))] fn f() { crate::cli::main() }",
        "#[cfg_attr(test, allow(unused))] fn f() { crate::cli::main() }",
    ] {
        assert_eq!(faults(&here, planted).len(), 1, "{planted}: {:?}", faults(&here, planted));
    }
    for fine in [
        "use crate::base::pace::Pace; use super::pool::Pool; use super::super::base::pace;",
        "#[cfg(test)] mod tests { use crate::cli::main; }",
        "#[cfg(any(test, fuzzing))] fn f() { crate::cli::main() }",
        "use other::crate_::cli; fn f() { x::agents::server::run() }",
        "pub(crate) fn f(&self) { self.cli::<main>() } pub(super) struct S; pub(in crate::store) struct T;",
        "use self::inner::*; use super::{self, pool}; use crate::store::*; use crate::watch::{health, health::Health};",
    ] {
        assert_eq!(faults(&here, fine), Vec::<String>::new(), "{fine}");
    }
}

#[test]
fn a_folders_page_holds_modules_alone() {
    let page = ["agents".to_owned()];
    for planted in [
        "pub use session::Session;",
        "pub use crate::cli::main;",
        "mod inner { pub use crate::cli::main; }",
        "pub(crate) fn f() { crate::cli::main() }",
    ] {
        assert_eq!(faults_of_page(&page, planted).len(), 1, "{planted}");
    }
    let fine =
        "//! A page.\npub mod access; pub(crate) mod session; #[cfg(test)] mod tests { use super::*; }";
    assert_eq!(faults_of_page(&page, fine), Vec::<String>::new());
    for (path, is_page) in [
        ("", true),
        ("agents", true),
        ("pipeline", true),
        ("watch", true),
        ("base", false),
        ("broker", false),
    ] {
        let path: Vec<String> = path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        assert_eq!(is_folder(&path), is_page, "{path:?}");
    }
}
