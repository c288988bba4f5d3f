//! The reason of a failed attempt: the last line that the command wrote to standard error, cut and made harmless.

use postbell_client::protocol::limits::REASON_BYTES_MAX;

/// At most so many bytes of a line are kept. The line is cut to its final length only after it was made harmless.
const LINE_BYTES_MAX: usize = 4 * REASON_BYTES_MAX;

/// The last line that is not blank, in a stream of any bytes, in bounded memory.
#[derive(Default)]
pub(super) struct LastLine {
    last: Vec<u8>,
    current: Vec<u8>,
}

impl LastLine {
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let is_whole = piece.ends_with(b"\n") || piece.ends_with(b"\r");
            let text = if is_whole { &piece[..piece.len() - 1] } else { piece };
            let room = LINE_BYTES_MAX - self.current.len();
            self.current.extend_from_slice(&text[..text.len().min(room)]);
            if is_whole {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        if !self.current.trim_ascii().is_empty() {
            std::mem::swap(&mut self.last, &mut self.current);
        }
        self.current.clear();
    }

    pub(super) fn text(mut self) -> Option<String> {
        self.end_line();
        let text = cut(&harmless(&String::from_utf8_lossy(&self.last)), REASON_BYTES_MAX);
        (!text.is_empty()).then_some(text)
    }
}

/// Text that changes nothing where it is shown: on one line, without sequences that colour or move a terminal, and
/// without characters that turn the direction of reading.
pub(super) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' | '\u{9b}' => skip_sequence(c, &mut chars),
            _ if is_turning(c) => out.push('\u{fffd}'),
            _ if c.is_control() => out.push(' '),
            _ => out.push(c),
        }
    }
    out.trim().to_owned()
}

/// Skips the rest of an escape sequence: `[` and parameters up to a letter, `]` and a text up to its end, or one
/// character.
fn skip_sequence(first: char, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let kind = if first == '\u{9b}' { Some('[') } else { chars.next() };
    match kind {
        Some('[') => while chars.next().is_some_and(|c| !('\u{40}'..='\u{7e}').contains(&c)) {},
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || c == '\u{9c}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
}

fn is_turning(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// The text, cut to `bytes_max` bytes; `…` marks the cut.
pub(super) fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let sign = '…';
    let end = text.floor_char_boundary(bytes_max.saturating_sub(sign.len_utf8()));
    format!("{}{sign}", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(bytes: &[u8]) -> Option<String> {
        let mut last = LastLine::default();
        last.feed(bytes);
        last.text()
    }

    #[test]
    fn it_is_the_last_line_that_says_something() {
        assert_eq!(of(b"first\nno such county\n\n  \n").as_deref(), Some("no such county"));
        assert_eq!(of(b"10 %\r20 %\rfailed").as_deref(), Some("failed"));
        assert_eq!(of(b""), None);
        assert_eq!(of(b"\x1b[0m\n"), None);
        assert_eq!(of(b"not \xff UTF-8").as_deref(), Some("not \u{fffd} UTF-8"));
    }

    #[test]
    fn what_it_does_to_a_terminal_is_left_out() {
        assert_eq!(of(b"\x1b[1;31mred\x1b[0m").as_deref(), Some("red"));
        assert_eq!(of(b"\x1b]0;a title\x07text\x1b]8;;x\x1b\\!").as_deref(), Some("text!"));
        assert_eq!(of(b"a\x08\x00b\x1b").as_deref(), Some("a  b"));
        assert_eq!(of("in\u{202e}out \u{9b}2Jx".as_bytes()).as_deref(), Some("in\u{fffd}out x"));
    }

    #[test]
    fn it_is_cut_between_two_characters() {
        let long = of("é".repeat(3_000).as_bytes()).expect("a reason");
        assert!(long.len() <= REASON_BYTES_MAX && long.len() > REASON_BYTES_MAX - 4 && long.ends_with('…'));
        assert_eq!(cut("abc", 3), "abc");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_harmless_reason(bytes in proptest::collection::vec(any::<u8>(), 0..6_000), at in 0usize..6_000) {
            let mut pieces = LastLine::default();
            let at = at.min(bytes.len());
            pieces.feed(&bytes[..at]);
            pieces.feed(&bytes[at..]);
            let text = pieces.text();
            prop_assert_eq!(&text, &of(&bytes));
            if let Some(text) = text {
                prop_assert!(text.len() <= REASON_BYTES_MAX && !text.chars().any(|c| c.is_control() || is_turning(c)));
            }
        }
    }
}
