//! A line of the broker that cannot be read: finds out which message or request it is about, so that it costs
//! that one alone and not the client.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::protocol::Tag;

/// The subject of such a line, as far as it can be made out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// A delivery. Without its tag no outcome can be sent, so its deadline passes.
    Msg { tag: Option<Tag>, reason: String },
    /// The answer to this request.
    Answer { reference: String },
    /// Neither can be made out.
    Line,
}

/// The beginning of every `msg` line of a broker; the rest may be broken.
const HEAD: &str = r#"{"op":"msg","tag":"#;

impl Unreadable {
    /// Makes out the subject of a line.
    pub(super) fn of(line: &[u8]) -> Self {
        let text = String::from_utf8_lossy(line);
        let Ok(fields) = serde_json::from_str::<HashMap<String, &RawValue>>(&text) else {
            return match text.trim_start().strip_prefix(HEAD) {
                Some(rest) => {
                    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
                    Self::Msg { tag: digits.parse().ok().map(Tag), reason: sentence("its line is no JSON") }
                }
                None => Self::Line,
            };
        };
        if get::<String>(&fields, "op").as_deref() == Some("msg") {
            return Self::Msg { tag: get(&fields, "tag"), reason: sentence(&fault(&fields, line)) };
        }
        match get(&fields, "ref") {
            Some(reference) => Self::Answer { reference },
            None => Self::Line,
        }
    }
}

fn sentence(fault: &str) -> String {
    format!("the client cannot read the message: {fault}")
}

fn get<'a, T: Deserialize<'a>>(fields: &HashMap<String, &'a RawValue>, name: &str) -> Option<T> {
    serde_json::from_str(fields.get(name)?.get()).ok()
}

/// Names the first field that is not as the protocol says.
fn fault(fields: &HashMap<String, &RawValue>, line: &[u8]) -> String {
    if std::str::from_utf8(line).is_err() {
        return "its line is no UTF-8".to_owned();
    }
    type Reads = fn(&RawValue) -> bool;
    let reads: [(&str, Reads); 11] = [
        ("attempt", is::<u32>),
        ("deadline_ms", is::<u64>),
        ("id", is::<Uuid>),
        ("from", is::<String>),
        ("type", is::<String>),
        ("priority", is::<u8>),
        ("created_at", is::<String>),
        ("topic", is::<Option<String>>),
        ("group", is::<Option<String>>),
        ("correlation_id", is::<Option<String>>),
        ("payload", |_| true),
    ];
    for (name, reads) in reads {
        match fields.get(name) {
            None if !matches!(name, "topic" | "group" | "correlation_id") => {
                return format!("{name} is missing");
            }
            Some(value) if !reads(value) => return format!("{name} is not what it should be"),
            _ => {}
        }
    }
    "a field is there twice".to_owned()
}

fn is<T: for<'a> Deserialize<'a>>(value: &RawValue) -> bool {
    serde_json::from_str::<T>(value.get()).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::ServerFrame;

    fn msg(rest: &str) -> String {
        format!(
            r#"{{"op":"msg","tag":7,"attempt":1,"deadline_ms":30000,"id":"{}","from":"s","type":"data","priority":5,"created_at":"t"{rest}}}"#,
            Uuid::nil()
        )
    }

    fn reason_of(line: &[u8]) -> (Option<Tag>, String) {
        match Unreadable::of(line) {
            Unreadable::Msg { tag, reason } => (tag, reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_is_known_by_its_tag_and_its_fault_by_name() {
        let good = msg(r#","payload":1"#);
        for (line, tag, fault) in [
            (msg(""), Some(Tag(7)), "payload is missing"),
            (good.replace(r#""priority":5"#, r#""priority":500"#), Some(Tag(7)), "priority is not"),
            (good.replace(r#""from":"s""#, r#""from":null"#), Some(Tag(7)), "from is not"),
            (good.replace(r#""from":"s""#, r#""from":"\ud800""#), Some(Tag(7)), "from is not"),
            (good.replace(r#""tag":7"#, r#""tag":"7""#), None, "twice"),
            (msg(r#","from":"t","payload":1"#), Some(Tag(7)), "twice"),
            (msg(r#","payload":"\x""#), Some(Tag(7)), "no JSON"),
            (msg(r#","payload":01"#), Some(Tag(7)), "no JSON"),
            (good[..60].to_owned(), Some(Tag(7)), "no JSON"),
        ] {
            let (found, reason) = reason_of(line.as_bytes());
            assert!(found == tag && reason.contains(fault), "{line}: {found:?} {reason}");
        }
        let bytes = [&good.as_bytes()[..good.len() - 2], b"\"\xff\"}"].concat();
        assert_eq!(reason_of(&bytes).0, Some(Tag(7)));
    }

    #[test]
    fn an_answer_is_known_by_its_ref_and_anything_else_is_a_line() {
        let of = |line: &str| Unreadable::of(line.as_bytes());
        assert_eq!(of(r#"{"op":"sent","ref":"3","id":7}"#), Unreadable::Answer { reference: "3".to_owned() });
        for line in ["", "HTTP/1.1 400", r#"{"op":"sent","id":7}"#, r#"{"op":3}"#, "[1]"] {
            assert_eq!(of(line), Unreadable::Line, "{line}");
        }
    }

    proptest! {
        /// However a message was spoilt on its way, it costs that message alone: it can be read, or its tag is
        /// known.
        #[test]
        fn a_message_that_was_spoilt_is_known_still(
            at in HEAD.len() + 2..200usize,
            by in proptest::collection::vec(any::<u8>(), 1..4),
            cut in any::<bool>(),
        ) {
            let mut line = msg(r#","payload":{"a":[1,"b"]}"#).into_bytes();
            let at = at.min(line.len() - by.len());
            line[at..at + by.len()].copy_from_slice(&by);
            if cut {
                line.truncate(at);
            }
            if ServerFrame::decode(&line).is_err() {
                let (tag, reason) = reason_of(&line);
                prop_assert_eq!(tag, Some(Tag(7)), "{}", reason);
            }
        }

        #[test]
        fn any_bytes_are_something(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            Unreadable::of(&line);
        }
    }
}
