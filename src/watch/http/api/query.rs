//! Words of a path or a query. Pure.

use super::Refusal;

/// The parameters of a query.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            // A form writes a space so; a path does not.
            Ok((decode(&name.replace('+', " "))?, decode(&value.replace('+', " "))?))
        });
        Ok(Self(pairs.collect::<Result<_, Refusal>>()?))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, Refusal> {
        let number = |text: &str| {
            text.parse().map_err(|_| Refusal::bad(format!("{name} must be a whole number, not {text:?}")))
        };
        self.text(name).map(number).transpose()
    }
}

/// Percent-decodes a word; what it makes must be UTF-8 that Postgres takes.
pub(super) fn decode(word: &str) -> Result<String, Refusal> {
    let bad = || Refusal::bad(format!("{word:?} is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else { return Err(bad()) };
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_decoded_once() {
        assert_eq!(decode("a%2Fb%20%C3%BC%2525").expect("a word"), "a/b ü%25");
        for bad in ["%", "%2", "%zz", "%ff", "a%00b"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_query_has_texts_and_numbers() {
        let query = Query::parse("inbox=a+b&limit=7&x&before=&inbox=c").expect("a query");
        assert_eq!(query.text("inbox"), Some("a b"));
        assert_eq!(query.number("limit").expect("a number"), Some(7));
        assert_eq!(query.number("before").expect("none"), None);
        assert!(query.number("inbox").is_err() && query.text("y").is_none());
    }
}
