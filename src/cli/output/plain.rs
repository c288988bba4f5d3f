//! Text from outside, made harmless for a terminal: names, reasons, payloads and ids may hold characters that a
//! terminal obeys, or that turn letters round.

use std::borrow::Cow;
use std::fmt::Write;

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// Stands for a character that is not shown.
const INSTEAD: char = '\u{fffd}';

/// Whether a terminal obeys the character, or the character changes how the text around it looks: control characters,
/// formatting ones (the bidirectional, the invisible), and separators of lines.
pub(super) fn is_hostile(c: char) -> bool {
    // Nearly all text is decided here.
    if matches!(c, ' '..='~') {
        return false;
    }
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator};
    matches!(c.general_category(), Control | Format | LineSeparator | ParagraphSeparator)
}

/// A word of more characters is cut: a value from outside that stands in a sentence.
const WORD_CHARS_MAX: usize = 200;
/// A sentence of more characters is cut.
const TEXT_CHARS_MAX: usize = 4_000;
const CUT: char = '…';

/// As much of a sentence as anybody reads.
pub(in crate::cli) fn short(text: &str) -> Cow<'_, str> {
    if text.len() <= WORD_CHARS_MAX {
        return Cow::Borrowed(text);
    }
    let (mut kept, mut chars, mut word) = (String::new(), 0, 0);
    for c in text.chars() {
        word = if c.is_whitespace() { 0 } else { word + 1 };
        if word > WORD_CHARS_MAX + 1 {
            continue;
        }
        if chars == TEXT_CHARS_MAX {
            kept.push(CUT);
            break;
        }
        kept.push(if word > WORD_CHARS_MAX { CUT } else { c });
        chars += 1;
    }
    Cow::Owned(kept)
}

/// The text as one line: line ends and tabs become blanks, any other hostile character becomes [`INSTEAD`].
pub(in crate::cli) fn one_line(text: &str) -> Cow<'_, str> {
    replaced(text, |c| if c == '\t' || c == '\n' { ' ' } else { INSTEAD })
}

/// Like [`one_line`], but line ends and tabs stay: for text of our own.
pub(in crate::cli) fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| if c == '\t' || c == '\n' { c } else { INSTEAD })
}

fn replaced(text: &str, by: impl Fn(char) -> char) -> Cow<'_, str> {
    match text.contains(is_hostile) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.chars().map(|c| if is_hostile(c) { by(c) } else { c }).collect()),
    }
}

/// A JSON text as one line with the same meaning: hostile characters are escaped within strings, and become blanks
/// between tokens.
pub(in crate::cli) fn json(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    let mut units = [0; 2];
    for c in text.chars() {
        match c {
            // Within a string these are escaped already.
            '\n' | '\r' | '\t' => safe.push(' '),
            c if is_hostile(c) => {
                for unit in c.encode_utf16(&mut units) {
                    // Writing to a string cannot fail.
                    let _ = write!(safe, "\\u{unit:04x}");
                }
            }
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_replaced_and_the_rest_is_kept() {
        for text in ["Ünïcode, 漢字, עברית, 🙂, a\u{301}", "", "plain"] {
            assert!(matches!(one_line(text), Cow::Borrowed(same) if same == text), "{text}");
        }
        assert_eq!(one_line("a\x1b[2J\nb\u{9b}\u{202e}\u{2028}c"), "a\u{fffd}[2J b\u{fffd}\u{fffd}\u{fffd}c");
        assert_eq!(lines("a\tb\nc\r"), "a\tb\nc\u{fffd}");
    }

    #[test]
    fn what_nobody_reads_is_cut() {
        let words = "word ".repeat(700);
        assert_eq!(short(&words), words);
        assert_eq!(short(&words.repeat(100)).chars().count(), TEXT_CHARS_MAX + 1);
        let long = format!("a {} b", "é".repeat(100_000));
        assert_eq!(short(&long), format!("a {}… b", "é".repeat(WORD_CHARS_MAX)));
    }

    #[test]
    fn json_says_the_same() {
        let all: String = ('\0'..='\u{10ffff}').filter(|c| is_hostile(*c)).collect();
        assert!(all.chars().count() > 200, "the controls, the format characters, the separators");
        let value = serde_json::json!({ &all: [all] });
        let pretty = serde_json::to_string_pretty(&value).expect("json");
        let safe = json(&pretty);
        assert!(!safe.contains(is_hostile));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).expect("json"), value);
    }
}
