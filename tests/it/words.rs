//! Plain words: no sentence begins with a word that puts its subject off, in no document, comment or message.

mod files;
mod texts;

pub(crate) use files::every_document;
use files::{File, every_file};
use texts::{Text, texts};

/// A sentence that begins so comes to its subject late, or has it in the sentence before.
const OPENERS: [&str; 6] = ["Of", "What", "Whoever", "Those", "It", "Its"];

/// A sentence, and the line where it begins, from 1.
#[derive(Debug, PartialEq, Eq)]
struct Sentence {
    line: usize,
    text: String,
}

impl Sentence {
    /// A question may begin with "What".
    fn begins_late(&self) -> bool {
        if self.text.trim_end_matches(['*', '_', ')', ']', '"', '”']).ends_with('?') {
            return false;
        }
        let first = self.text.trim_start_matches(['*', '_', '(', '[']);
        let word: String = first.chars().take_while(|c| c.is_alphanumeric()).collect();
        OPENERS.contains(&word.as_str())
    }
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

/// The sentences of a text that begin so, by their lines in its file.
fn late_in(text: &Text) -> impl Iterator<Item = Sentence> {
    late(&text.text).into_iter().map(|s| Sentence { line: text.line + s.line - 1, ..s })
}

#[test]
fn no_sentence_puts_its_subject_off() {
    let mut faults = Vec::new();
    let mut sentences_read = 0;
    // The strings of a test are what it tells others, or what it expects of them.
    let is_test = |file: &File| file.name.starts_with("tests/it/") || file.name.ends_with("tests.rs");
    for file in every_file() {
        let mut all = texts(&file.text(), file.writing);
        all.truncate(if is_test(&file) { 1 } else { all.len() });
        sentences_read += all.iter().map(|text| text.text.matches(". ").count()).sum::<usize>();
        let late = all.iter().flat_map(late_in);
        faults.extend(late.map(|s| format!("{}:{}: {}", file.name, s.line, s.text)));
    }
    assert!(sentences_read > 2_000, "{sentences_read}");
    assert!(
        faults.is_empty(),
        "say who or what does it first; {} sentences begin with one of {OPENERS:?}:\n{}",
        faults.len(),
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
    assert_eq!(lines("- a\n  Of it.\n  What's new.\n"), [3], "a line is no sentence");
    assert_eq!(lines("A broker. It pushes.\nIts agents wait.\n"), [1, 2], "the subject is a sentence away");
}

#[test]
fn what_is_no_such_sentence_is_left_alone() {
    let passed_over = "# What it is\n\n> Of others.\n\n<!-- Of a comment. -->\n\nOffline agents. Whatever comes, of those what waits.\n\
                       \n```text\nOf code.\n```\n\n    What code.\n\nRun `a. What b` twice.\nA list: Of it one.\n\n- **What now?** Whatever.\n";
    assert_eq!(late(passed_over), []);
}
