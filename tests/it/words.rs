//! Plain words: no sentence of a document begins with a word that puts its subject off.
//!
//! [`sentences`] cuts any numbered lines of running text, so that it can be given the comments of a program as well.

use std::fs;
use std::path::{Path, PathBuf};

/// A sentence that begins so comes to its subject late.
const OPENERS: [&str; 4] = ["Of", "What", "Whoever", "Those"];

/// Documents that are not plain yet. One that has become plain must leave the list.
const NOT_YET: &[&str] = &[];

/// Folders of others' documents, beside every hidden one but `.github`.
const OTHERS: [&str; 2] = ["target", "node_modules"];

/// A sentence, and the line where it begins, from 1.
#[derive(Debug, PartialEq, Eq)]
struct Sentence {
    line: usize,
    text: String,
}

impl Sentence {
    fn begins_late(&self) -> bool {
        let first = self.text.trim_start_matches(['*', '_', '(', '[']);
        let word: String = first.chars().take_while(|c| c.is_alphanumeric()).collect();
        OPENERS.contains(&word.as_str())
    }
}

/// Every Markdown file of the repository, by its path in it.
pub(crate) fn every_document() -> Vec<String> {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut found, mut folders) = (Vec::new(), vec![repository.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_others = OTHERS.contains(&&*name) || (name.starts_with('.') && name != ".github");
            if path.is_dir() && !path.is_symlink() && !is_others {
                folders.push(path);
            } else if path.is_file() && path.extension().is_some_and(|e| e == "md") {
                found.push(path.strip_prefix(repository).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// The running text of a document: paragraphs, items of lists and cells of tables, each as its numbered lines. Headings,
/// code, quotations and comments are left out.
fn paragraphs(document: &str) -> Vec<Vec<(usize, &str)>> {
    let mut found = vec![Vec::new()];
    let (mut is_fenced, mut is_code, mut is_after_blank, mut is_in_list) = (false, false, true, false);
    for (number, line) in (1..).zip(document.lines()) {
        let text = line.trim();
        let is_fence = text.starts_with("```") || text.starts_with("~~~");
        is_in_list = item(text).is_some() || is_in_list && (text.is_empty() || line.starts_with(' '));
        is_code = line.starts_with("    ") && (is_code || is_after_blank) && !is_in_list;
        is_after_blank = text.is_empty();
        let is_no_text = text.is_empty() || text.starts_with(['#', '>']) || text.starts_with("<!--");
        if is_fence || is_fenced || is_code || is_no_text {
            is_fenced ^= is_fence;
            found.push(Vec::new());
        } else if let Some(cells) = text.strip_prefix('|') {
            found.extend(cells.split('|').map(|cell| vec![(number, cell)]));
            found.push(Vec::new());
        } else if let Some(item) = item(text) {
            found.push(vec![(number, item)]);
        } else if let Some(last) = found.last_mut() {
            last.push((number, text));
        }
    }
    found.retain(|paragraph| !paragraph.is_empty());
    found
}

/// The text of an item of a list, without its mark.
fn item(line: &str) -> Option<&str> {
    let digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let marks = if digits.len() < line.len() { [". ", ") "] } else { ["- ", "* "] };
    marks.iter().find_map(|mark| digits.strip_prefix(mark))
}

/// The sentences of one paragraph. A full stop within code ends none, nor does one before a small letter.
fn sentences(paragraph: &[(usize, &str)]) -> Vec<Sentence> {
    let mut found: Vec<Sentence> = Vec::new();
    let (mut is_at_end, mut is_code) = (true, false);
    for (line, text) in paragraph {
        for word in text.split_whitespace() {
            let first = word.trim_start_matches(['*', '_', '(', '[']);
            let is_new = is_at_end && !is_code && !first.starts_with(char::is_lowercase);
            match found.last_mut().filter(|_| !is_new) {
                Some(sentence) => {
                    sentence.text.push(' ');
                    sentence.text.push_str(word);
                }
                None => found.push(Sentence { line: *line, text: word.to_owned() }),
            }
            is_code ^= word.matches('`').count() % 2 == 1;
            let last = word.trim_end_matches(['*', '_', ')', ']', '"', '”']);
            is_at_end = !is_code && last.ends_with(['.', '!', '?']);
        }
    }
    found
}

/// The sentences of a document that begin with one of the [`OPENERS`].
fn late(document: &str) -> Vec<Sentence> {
    let all = paragraphs(document);
    let all = all.iter().flat_map(|paragraph| sentences(paragraph));
    all.filter(Sentence::begins_late).collect()
}

/// The comments of a source as a document, each at its own line.
fn comments(source: &str, mark: &str) -> String {
    let text = |line: &str| {
        let comment = line.trim_start().strip_prefix(mark)?;
        Some(comment.trim_start_matches(['/', '!']).to_owned())
    };
    let lines: Vec<String> = source.lines().map(|line| text(line).unwrap_or_default()).collect();
    lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

/// Files below these folders whose comments are read, with what a comment begins with.
const COMMENTED: [(&str, &str, &str); 7] = [
    ("src", "rs", "//"),
    ("clients/rust", "rs", "//"),
    ("crates/engine", "rs", "//"),
    ("tests", "rs", "//"),
    ("loadtest", "rs", "//"),
    ("fuzz/fuzz_targets", "rs", "//"),
    ("sql/queries", "sql", "--"),
];

#[test]
fn no_sentence_of_a_comment_puts_its_subject_off() {
    let mut faults = Vec::new();
    let mut sentences_read = 0;
    for (folder, ending, mark) in COMMENTED {
        for file in super::house::files(folder, ending) {
            let document = comments(&fs::read_to_string(&file).unwrap(), mark);
            sentences_read += document.matches(". ").count();
            faults
                .extend(late(&document).iter().map(|s| format!("{}:{}: {}", file.display(), s.line, s.text)));
        }
    }
    assert!(sentences_read > 1_000, "{sentences_read}");
    assert!(faults.is_empty(), "say who or what does it first:\n{}", faults.join("\n"));
}

#[test]
fn a_comment_is_read_as_a_document() {
    let source = "//! What a page is.\nlet x = 1; // Of this line nothing is read.\n    /// A lane. Those of others\n    /// are not it.\n";
    let found: Vec<usize> = late(&comments(source, "//")).iter().map(|s| s.line).collect();
    assert_eq!(found, [1, 3]);
    assert!(late(&comments("/// ```\n/// Of code nothing.\n/// ```\nlet of = 1;\n", "//")).is_empty());
}

#[test]
fn no_sentence_of_a_document_puts_its_subject_off() {
    let all = every_document();
    assert!(all.len() > 20, "{all:?}");
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    for document in &all {
        let found = late(&fs::read_to_string(repository.join(document)).unwrap());
        if !NOT_YET.contains(&document.as_str()) {
            faults.extend(found.iter().map(|s| format!("{document}:{}: {}", s.line, s.text)));
        } else if found.is_empty() {
            faults.push(format!("{document} is plain now: take it out of NOT_YET"));
        }
    }
    for listed in NOT_YET.iter().filter(|listed| !all.contains(&(**listed).to_owned())) {
        faults.push(format!("{listed} is in NOT_YET and is not there"));
    }
    assert!(
        faults.is_empty(),
        "say who or what does it first; these sentences begin with one of {OPENERS:?}:\n{}",
        faults.join("\n")
    );
}

#[test]
fn such_a_sentence_is_found_wherever_it_stands() {
    let lines = |document: &str| late(document).iter().map(|s| s.line).collect::<Vec<_>>();
    assert_eq!(lines("Of two brokers one pushes.\n"), [1]);
    assert_eq!(lines("# A\n\nA broker\npushes. What waits\nis read.\n"), [4]);
    assert_eq!(lines("One (of many). **Whoever** comes.\n\n- Those wait.\n  1. What ends.\n"), [1, 3, 4]);
    assert_eq!(lines("**A rule.** Of it one.\n**Those** of it.\nHe said \"no.\" Those left.\n"), [1, 2, 3]);
    assert_eq!(lines("| a | Of it one |\n|---|---|\n| b | c. What d |\n"), [1, 3]);
    assert_eq!(lines("- a\n  - b\n\n    Those of b.\n"), [4], "within a list an indent is no code");
    assert_eq!(lines("- a\n  Of it.\n  What's new?\n"), [3], "a line is no sentence");
}

#[test]
fn what_is_no_such_sentence_is_left_alone() {
    let passed_over = "# What it is\n\n> Of others.\n\n<!-- Of a comment. -->\n\nOffline agents. Whatever comes, of those what waits.\n\
                       \n```text\nOf code.\n```\n\n    What code.\n\nRun `a. What b` twice.\nA list: Of it one.\n";
    assert_eq!(late(passed_over), []);
}
