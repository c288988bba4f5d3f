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
    &["watch::metrics", "pipeline::alarm"],
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

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| {
        let text = a.to_token_stream().to_string();
        text.contains("cfg") && text.contains("test")
    })
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

/// Adds every path of this package that is named, from its root: `crate::a::b`, `super::b`, also in groups and within
/// macros.
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
            TokenTree::Ident(word) if is_path_start && *word == "crate" => {
                follow(&tokens, at + 1, &[], found)
            }
            TokenTree::Ident(word) if is_path_start && *word == "super" => {
                let is_super =
                    |at: usize| matches!(tokens.get(at), Some(TokenTree::Ident(word)) if *word == "super");
                let (mut from, mut last) = (parent(here), at);
                while is_colon(&tokens, last + 1) && is_super(last + 3) {
                    (from, last) = (parent(from), last + 3);
                }
                // The `super` of `pub(super)` is no path.
                if is_colon(&tokens, last + 1) {
                    follow(&tokens, last + 1, from, found);
                }
                at = last;
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

/// Follows a path after its beginning: `::a::b`, `::{a, b::c}`.
fn follow(tokens: &[TokenTree], mut at: usize, from: &[String], found: &mut BTreeSet<Vec<String>>) {
    let mut path = from.to_vec();
    while is_colon(tokens, at) {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(word)) => path.push(word.to_string()),
            Some(TokenTree::Group(group)) => {
                let parts: Vec<TokenTree> = group.stream().into_iter().collect();
                for part in parts.split(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == ',')) {
                    if let Some(TokenTree::Ident(word)) = part.first() {
                        follow(part, 1, &[&path[..], &[word.to_string()]].concat(), found);
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

/// The imports of a file that do not point downwards.
fn faults(module: &[String], source: &str) -> Vec<String> {
    let parsed = syn::parse_file(source).expect("it compiles");
    let mut found = BTreeSet::new();
    used(&parsed.items, module, &mut found);
    let (floor, here) =
        room(module).unwrap_or_else(|| panic!("{module:?} has no floor: give it one in this test"));
    let above = |path: &Vec<String>| {
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
        let is_folder_page =
            ["agents", "base", "pipeline", "watch"].contains(&module[0].as_str()) && module.len() == 1;
        let is_for_tests = file.ends_with("tests.rs") || module.iter().any(|part| part == "tests");
        if is_folder_page || is_for_tests || ["lib", "main"].contains(&module[0].as_str()) {
            continue;
        }
        all.extend(faults(&module, &fs::read_to_string(&file).unwrap()));
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
    ] {
        assert_eq!(faults(&here, planted).len(), 1, "{planted}: {:?}", faults(&here, planted));
    }
    for fine in [
        "use crate::base::pace::Pace; use super::pool::Pool; use super::super::base::pace;",
        "#[cfg(test)] mod tests { use crate::cli::main; }",
        "#[cfg(any(test, fuzzing))] fn f() { crate::cli::main() }",
        "use other::crate_::cli; fn f() { x::agents::server::run() }",
    ] {
        assert_eq!(faults(&here, fine), Vec::<String>::new(), "{fine}");
    }
}
