//! The running text within a source: its comments, and the strings that people read.

/// How a file writes down what people read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    Document,
    Rust,
    Python,
    Sql,
    Toml,
    Yaml,
    Script,
    Css,
    Html,
    Shell,
}

/// Text that is read as a Markdown document, from `line` of its file on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) line: usize,
    pub(super) text: String,
}

/// The texts of a source.
pub(super) fn texts(source: &str, writing: Writing) -> Vec<Text> {
    match writing {
        Writing::Document => vec![Text { line: 1, text: source.to_owned() }],
        Writing::Yaml => vec![Text { line: 1, text: values(source) }],
        Writing::Html => vec![Text { line: 1, text: without_tags(source) }],
        Writing::Shell => {
            let is_comment = |line: &&str| line.trim_start().starts_with('#');
            let lines = source.lines().map(|line| Some(line).filter(is_comment).map_or("", uncommented));
            vec![Text { line: 1, text: lines.collect::<Vec<_>>().join("\n") }]
        }
        _ => Lexer { rest: source, line: 1, comments: Vec::new(), strings: Vec::new() }.texts(writing),
    }
}

/// A comment's line without its marks.
fn uncommented(line: &str) -> &str {
    let text = line.trim_start().trim_start_matches(['/', '!', '#', ':', '-', '*']);
    text.strip_prefix(' ').unwrap_or(text)
}

/// The comments and values of a file of YAML: each key's value is an item of a list.
fn values(source: &str) -> String {
    let value = |line: &str| {
        let text = line.trim_start().trim_start_matches("- ");
        let is_key = |c: char| c.is_alphanumeric() || "_-".contains(c);
        match text.split_once(": ") {
            _ if text.starts_with('#') => uncommented(text).to_owned(),
            Some((key, value)) if key.chars().all(is_key) => format!("- {}", value.trim_matches(['"', '\''])),
            _ if text.ends_with(':') => String::new(),
            _ => text.to_owned(),
        }
    };
    source.lines().map(value).collect::<Vec<_>>().join("\n")
}

/// The text of a page between its tags, each piece an item of a list.
fn without_tags(source: &str) -> String {
    let mut text = String::new();
    let mut is_tag = false;
    for c in source.chars() {
        is_tag = c == '<' || is_tag && c != '>';
        match c {
            '>' => text.push_str(". "),
            _ if c == '\n' || !is_tag => text.push(c),
            _ => {}
        }
    }
    text.lines().map(str::trim_start).collect::<Vec<_>>().join("\n")
}

/// Reads a source from its start to its end, and keeps what people read.
struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    /// Comments by their line. One behind code is an item of a list, so that it goes on with no other.
    comments: Vec<(usize, String)>,
    strings: Vec<Text>,
}

impl<'a> Lexer<'a> {
    fn texts(mut self, writing: Writing) -> Vec<Text> {
        let (mark, block, quotes): (&str, &str, &[&str]) = match writing {
            Writing::Python | Writing::Toml => ("#", "", &["\"\"\"", "'''", "\"", "'"]),
            Writing::Sql => ("--", "/*", &["'"]),
            Writing::Script => ("//", "/*", &["\"", "'", "`"]),
            Writing::Css => ("/*", "/*", &[]),
            _ => ("//", "/*", &["\""]),
        };
        let mut is_behind_code = false;
        while let Some(first) = self.rest.chars().next() {
            if !block.is_empty() && self.rest.starts_with(block) {
                let (line, comment) = self.until(block, "*/", false);
                self.comment(line, comment, is_behind_code);
            } else if self.rest.starts_with(mark) {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                let line = self.line;
                let comment = self.take(end);
                self.comment(line, comment, is_behind_code);
            } else if writing == Writing::Rust && self.passes_over_raw_or_char() {
                is_behind_code = true;
            } else if let Some(quote) = quotes.iter().find(|quote| self.rest.starts_with(**quote)) {
                // Such a quote may be a part of something else: the next line begins anew.
                let ends_with_line = matches!(writing, Writing::Python | Writing::Toml | Writing::Script)
                    && ["\"", "'"].contains(quote);
                let (line, string) = self.until(quote, quote, ends_with_line);
                self.strings.push(Text { line, text: dedented(string) });
                is_behind_code = true;
            } else {
                is_behind_code = first != '\n' && (is_behind_code || !first.is_whitespace());
                self.take(first.len_utf8());
            }
        }
        let count = self.line;
        let mut lines = vec![String::new(); count + 1];
        for (line, comment) in self.comments {
            lines[line] = comment;
        }
        self.strings.insert(0, Text { line: 0, text: lines.join("\n") });
        self.strings
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    /// Takes the text between two marks; returns the line where the text begins, and the text. A mark behind a backslash
    /// ends no string.
    fn until(&mut self, from: &str, to: &str, ends_with_line: bool) -> (usize, &'a str) {
        let line = self.line;
        self.take(from.len());
        let mut end = 0;
        let mut is_escaped = false;
        for (at, c) in self.rest.char_indices() {
            end = at;
            let is_line_end = c == '\n' && ends_with_line;
            if !is_escaped && (is_line_end || self.rest[at..].starts_with(to)) {
                break;
            }
            is_escaped = c == '\\' && !is_escaped && to != "*/";
            end = at + c.len_utf8();
        }
        let taken = self.take(end);
        if self.rest.starts_with(to) {
            self.take(to.len());
        }
        (line, taken)
    }

    fn comment(&mut self, line: usize, comment: &str, is_behind_code: bool) {
        for (number, text) in (line..).zip(comment.lines()) {
            let text = uncommented(text);
            self.comments.push((number, if is_behind_code { format!("- {text}") } else { text.to_owned() }));
        }
    }

    /// Takes a raw string, which is SQL or JSON, or a character: their quotes would be mistaken for those of a string.
    fn passes_over_raw_or_char(&mut self) -> bool {
        let hashes = self.rest.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len());
        if let Some(hashes) = hashes.filter(|hashes| self.rest[1 + hashes..].starts_with('"')) {
            let end = format!("\"{}", "#".repeat(hashes));
            let length = self.rest[hashes + 2..].find(&end).map_or(0, |at| at + end.len());
            self.take(hashes + 2 + length);
            return true;
        }
        let Some(quoted) = self.rest.strip_prefix('\'') else { return false };
        let mut inside = quoted.char_indices();
        let is_escaped = inside.next().is_some_and(|(_, c)| c == '\\');
        let end = if is_escaped {
            quoted[2..].find('\'').map(|at| at + 2)
        } else {
            inside.next().map(|(at, _)| at)
        };
        let end = end.filter(|end| quoted[*end..].starts_with('\''));
        // Otherwise it is a lifetime.
        self.take(end.map_or(1, |end| end + 2));
        true
    }
}

/// A string whose lines stand as far left as they can, so that an indent is no code.
fn dedented(string: &str) -> String {
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let least = string.lines().skip(1).filter(|line| !line.trim().is_empty()).map(|l| indent(&l)).min();
    let mut lines: Vec<&str> =
        string.lines().map(|line| line.get(least.unwrap_or(0)..).unwrap_or("")).collect();
    if let (Some(first), Some(line)) = (lines.first_mut(), string.lines().next()) {
        *first = line;
    }
    lines.join("\n")
}

/// The texts of a source that hold something, each with its first line.
fn found(source: &str, writing: Writing) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for text in texts(source, writing) {
        let lines = (text.line..).zip(text.text.lines());
        found.extend(lines.filter(|(_, l)| !l.trim().is_empty()).map(|(n, l)| (n, l.trim().to_owned())));
    }
    found
}

#[test]
fn comments_and_strings_are_read_and_code_is_not() {
    let read = |source: &str, writing| {
        found(source, writing).into_iter().map(|(n, l)| format!("{n} {l}")).collect::<Vec<_>>()
    };
    let rust = "//! One.\nlet a = \"two \\\"2\\\"\\\n    and\"; // three\nlet (b, c) = ('\"', r#\"no\"#); /* four */\nfn d<'a>(e: &'a str) {}\n";
    assert_eq!(
        read(rust, Writing::Rust),
        ["1 One.", "3 - three", "4 - four", "2 two \\\"2\\\"\\", "3 and"],
        "{rust}"
    );
    let python = "def a():\n    \"\"\"One.\n\n    Two.\"\"\"\n    b = 'three'  # four\n    #: five\n";
    assert_eq!(read(python, Writing::Python), ["5 - four", "6 five", "2 One.", "4 Two.", "5 three"]);
    assert!(!texts(python, Writing::Python)[1].text.contains("    Two"), "a docstring's indent is no code");
    let sql = "-- One.\nselect 'two' || a from b -- three\n/* four */;\n";
    assert_eq!(read(sql, Writing::Sql), ["1 One.", "2 - three", "3 four", "2 two"]);
    let script = "// One's.\nconst a = /'/; // two\n/** three\n * four */\nb(`five`);\n";
    assert_eq!(read(script, Writing::Script), ["1 One's.", "3 three", "4 four", "2 /; // two", "5 five"]);
    assert_eq!(read("a = \"one\" # two\n# three\n", Writing::Toml), ["1 - two", "2 three", "1 one"]);
    assert_eq!(
        read("# One.\na:\n  - b: \"two\"\n  c: |\n    three\n", Writing::Yaml),
        ["1 One.", "3 - two", "4 - |", "5 three"]
    );
    assert_eq!(read("#!/bin/sh\n# One.\necho two # three\n", Writing::Shell), ["1 bin/sh", "2 One."]);
    assert_eq!(read("a { b: c } /* one */\n", Writing::Css), ["1 - one"]);
    assert_eq!(read("<p>One\n<b>two</b></p>\n", Writing::Html), ["1 . One", "2 . two. ."]);
}
