//! Words of a path or a query. Pure.

use percent_encoding::percent_decode_str;

use super::Refusal;

/// The parameters of a query.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query as a form writes it: a space may be a plus.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
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

/// Percent-decodes a word, which must become UTF-8 that Postgres takes. A `%` without two digits is refused: the
/// library would keep it, and a mistyped name would look like one that nobody has.
pub(super) fn decode(word: &str) -> Result<String, Refusal> {
    let bad = || Refusal::bad(format!("{word:?} is not percent-encoded UTF-8"));
    let is_escape = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    if !word.split('%').skip(1).all(is_escape) {
        return Err(bad());
    }
    let text = percent_decode_str(word).decode_utf8().map_err(|_| bad())?;
    if text.contains('\0') { Err(bad()) } else { Ok(text.into_owned()) }
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
