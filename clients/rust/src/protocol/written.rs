//! How large JSON is once Postgres has turned it into `jsonb` and writes it out again.
//!
//! A recipient gets the text that the database writes, not the text that was sent. White space is normal; of
//! two members with one key the last is kept; escapes are the shortest; numbers are written out, so that
//! `1e131071`, eight bytes, has 131,072. This counts without writing anything, in a time that depends only on
//! the length of the text.

use std::collections::HashMap;

/// The bytes of the text that Postgres writes for this JSON, which must be valid. A number that Postgres would
/// refuse counts as if Postgres wrote it.
pub fn written_bytes(json: &str) -> u64 {
    let mut scan = Scan { rest: json.as_bytes(), open: Vec::new(), whole: 0 };
    while let Some((first, rest)) = scan.rest.split_first() {
        match first {
            b'[' => scan.open(rest, None),
            b'{' => scan.open(rest, Some(Members::default())),
            b']' | b'}' => scan.close(rest),
            b'"' => scan.string(),
            b'-' | b'0'..=b'9' => scan.number(),
            b't' | b'n' => scan.word(4),
            b'f' => scan.word(5),
            _ => scan.rest = rest,
        }
    }
    scan.whole
}

/// Whether [`written_bytes`] is at most this. A look at the text often suffices: without an exponent only white
/// space is added, a byte for each comma and colon.
pub fn fits(json: &str, most: usize) -> bool {
    let has_exponent =
        json.as_bytes().windows(2).any(|w| w[0].is_ascii_digit() && matches!(w[1], b'e' | b'E'));
    (!has_exponent && json.len().saturating_mul(2) <= most) || written_bytes(json) <= most as u64
}

/// An object's members by their keys; of two with one key, the last is kept.
#[derive(Default)]
struct Members {
    sizes: HashMap<Vec<u8>, u64>,
    key: Option<(Vec<u8>, u64)>,
}

/// An array or an object that is not closed yet.
struct Open {
    /// The bytes of its values and, in an object, of its keys.
    bytes: u64,
    values: u64,
    members: Option<Members>,
}

struct Scan<'a> {
    rest: &'a [u8],
    open: Vec<Open>,
    whole: u64,
}

impl<'a> Scan<'a> {
    fn open(&mut self, rest: &'a [u8], members: Option<Members>) {
        self.rest = rest;
        self.open.push(Open { bytes: 0, values: 0, members });
    }

    fn close(&mut self, rest: &'a [u8]) {
        self.rest = rest;
        let Some(open) = self.open.pop() else { return };
        // The brackets, and a comma and a space between two values.
        self.value(open.bytes.saturating_add(2 + 2 * open.values.saturating_sub(1)));
    }

    fn word(&mut self, length: usize) {
        self.rest = self.rest.get(length..).unwrap_or_default();
        self.value(length as u64);
    }

    /// Adds a value of this size to the array or object around it.
    fn value(&mut self, bytes: u64) {
        let Some(open) = self.open.last_mut() else {
            self.whole = bytes;
            return;
        };
        let Some(members) = &mut open.members else {
            open.bytes = open.bytes.saturating_add(bytes);
            open.values += 1;
            return;
        };
        let Some((key, key_bytes)) = members.key.take() else { return };
        // A colon and a space.
        let member = bytes.saturating_add(key_bytes + 2);
        match members.sizes.insert(key, member) {
            Some(old) => open.bytes = open.bytes.saturating_sub(old),
            None => open.values += 1,
        }
        open.bytes = open.bytes.saturating_add(member);
    }

    fn string(&mut self) {
        let mut decoded = Vec::new();
        let is_key =
            self.open.last().is_some_and(|open| open.members.as_ref().is_some_and(|m| m.key.is_none()));
        let bytes = self.characters(|bytes| {
            if is_key {
                decoded.extend_from_slice(bytes);
            }
        });
        match self.open.last_mut().and_then(|open| open.members.as_mut()).filter(|_| is_key) {
            Some(members) => members.key = Some((decoded, bytes)),
            None => self.value(bytes),
        }
    }

    /// Reads a string to its end; returns its size with the quotes.
    fn characters(&mut self, mut each: impl FnMut(&[u8])) -> u64 {
        let mut bytes = 2;
        self.rest = self.rest.get(1..).unwrap_or_default();
        while let Some((first, rest)) = self.rest.split_first() {
            self.rest = rest;
            match first {
                b'"' => break,
                b'\\' => {
                    let found = self.escape();
                    let mut buffer = [0; 4];
                    let text = found.encode_utf8(&mut buffer).as_bytes();
                    bytes += written(found);
                    each(text);
                }
                byte => {
                    bytes += 1;
                    each(&[*byte]);
                }
            }
        }
        bytes
    }

    /// Reads the character that an escape stands for, after the backslash.
    fn escape(&mut self) -> char {
        let Some((kind, rest)) = self.rest.split_first() else { return '?' };
        self.rest = rest;
        match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode(),
            other => char::from(*other),
        }
    }

    fn unicode(&mut self) -> char {
        let first = self.hex();
        if !(0xd800..0xdc00).contains(&first) || !self.rest.starts_with(b"\\u") {
            return char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER);
        }
        self.rest = &self.rest[2..];
        let second = self.hex();
        let joined = 0x10000 + ((first - 0xd800) << 10) + (second.wrapping_sub(0xdc00) & 0x3ff);
        char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    fn hex(&mut self) -> u32 {
        let (digits, rest) = self.rest.split_at(self.rest.len().min(4));
        self.rest = rest;
        digits.iter().fold(0, |n, digit| n << 4 | char::from(*digit).to_digit(16).unwrap_or(0))
    }

    fn number(&mut self) {
        let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let end = self.rest.iter().position(|b| !is_part(b)).unwrap_or(self.rest.len());
        let (number, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.value(number_bytes(number));
    }
}

/// The bytes of a character as Postgres's `escape_json` writes it.
fn written(c: char) -> u64 {
    match c {
        '"' | '\\' | '\u{8}' | '\u{c}' | '\n' | '\r' | '\t' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8() as u64,
    }
}

/// The bytes of a number as Postgres's `numeric` writes it: every digit before the point, and as many after it
/// as were given.
fn number_bytes(number: &[u8]) -> u64 {
    let (is_negative, number) = match number.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, number),
    };
    let at = number.iter().position(|b| matches!(b, b'e' | b'E')).unwrap_or(number.len());
    let (mantissa, exponent) = number.split_at(at);
    let point = mantissa.iter().position(|b| *b == b'.').unwrap_or(mantissa.len());
    let after = mantissa.len().saturating_sub(point + 1) as i64;
    let exponent = parse_exponent(exponent);
    let digits = || mantissa.iter().filter(|b| **b != b'.');
    let zeros = digits().take_while(|b| **b == b'0').count();
    let is_zero = zeros == digits().count();
    let before = match is_zero {
        true => 1,
        false => (point as i64).saturating_add(exponent).saturating_sub(zeros as i64).max(1),
    };
    let scale = after.saturating_sub(exponent).max(0);
    let sign = u64::from(is_negative && !is_zero);
    sign + before.unsigned_abs() + scale.unsigned_abs() + u64::from(scale > 0)
}

/// Reads the exponent, bounded whatever its digits are.
fn parse_exponent(text: &[u8]) -> i64 {
    const MOST: i64 = 1 << 40;
    let (sign, digits) = match text.get(1..).unwrap_or_default() {
        [b'-', digits @ ..] => (-1, digits),
        [b'+', digits @ ..] => (1, digits),
        digits => (1, digits),
    };
    sign * digits.iter().fold(0, |n: i64, d| (n * 10 + i64::from(d.wrapping_sub(b'0'))).min(MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_long_as_postgres_writes_it() {
        // Each as `select octet_length(x::jsonb::text)` says.
        for (json, written) in [
            ("null", "null"),
            (r#"[1,2 ,true,false]"#, "[1, 2, true, false]"),
            (r#"{"b":1,"a":{}, "b" : 22}"#, r#"{"a": {}, "b": 22}"#),
            ("[]", "[]"),
            ("1e5", "100000"),
            ("1.50e1", "15.0"),
            ("-0", "0"),
            ("-0.00", "0.00"),
            ("0e-3", "0.000"),
            ("-1.5E-3", "-0.0015"),
            ("0.001e2", "0.1"),
            ("12e-1", "1.2"),
            (r#""\u0041\/\n\u0001\ud83d\ude00""#, "\"A/\\n\\u0001😀\""),
            (r#"{"\u0061":1,"a":2}"#, r#"{"a": 2}"#),
            (r#"{"\ud83d\ude00":1,"😀":2}"#, r#"{"😀": 2}"#),
            (r#""\u0020""#, r#"" ""#),
        ] {
            assert_eq!(written_bytes(json), written.len() as u64, "{json}");
        }
    }

    #[test]
    fn a_number_costs_nothing_to_measure() {
        assert_eq!(written_bytes("1e131071"), 131_072);
        assert!(written_bytes("1e999999999999999999999") > 1 << 30);
        assert!(written_bytes("[1e-999999999999999999999]") > 1 << 30);
        assert!(!fits(&format!("[{}]", ["1e131071"; 8].join(",")), 1 << 20));
        assert!(fits("[\"3e5\", 1]", 20));
        assert!(fits("[1,2]", 6) && !fits("[1,2]", 5), "a space follows the comma");
    }

    #[test]
    fn depth_is_no_matter() {
        let deep = "[".repeat(300_000) + &"]".repeat(300_000);
        assert_eq!(written_bytes(&deep), 600_000);
    }
}
