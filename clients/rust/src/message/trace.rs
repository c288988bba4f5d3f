//! The trace that a message belongs to: W3C's `traceparent`, in the message's headers.

use serde::Deserialize;

/// A trace, and the span in which the message was sent. <https://www.w3.org/TR/trace-context/>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The id of the trace.
    pub id: u128,
    /// The id of the sender's span.
    pub parent: u64,
    /// Bit 0: the trace is recorded.
    pub flags: u8,
}

#[derive(Deserialize)]
struct Headers {
    #[serde(default)]
    traceparent: Option<String>,
}

impl Trace {
    /// Reads the trace from a message's headers, a JSON object. Headers may hold anything: without a valid
    /// `traceparent` there is no trace.
    pub fn from_headers(headers: &str) -> Option<Self> {
        // Most messages have no trace, and parsing is slow.
        if !headers.contains("traceparent") {
            return None;
        }
        Self::parse(&serde_json::from_str::<Headers>(headers).ok()?.traceparent?)
    }

    /// Reads `00-<32 hex>-<16 hex>-<2 hex>`; a later version may have more parts.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let mut hex = |digits: usize| {
            let part = parts.next()?;
            let is_hex = part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            (part.len() == digits && is_hex).then_some(part)
        };
        let version = hex(2)?;
        let id = u128::from_str_radix(hex(32)?, 16).ok()?;
        let parent = u64::from_str_radix(hex(16)?, 16).ok()?;
        let flags = u8::from_str_radix(hex(2)?, 16).ok()?;
        let is_one = version != "ff" && id != 0 && parent != 0 && (version != "00" || parts.next().is_none());
        is_one.then_some(Self { id, parent, flags })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_anything_else_is_none() {
        let headers = format!(r#"{{"lang": "en", "traceparent": "{ONE}"}}"#);
        let trace = Trace::from_headers(&headers).expect("reads");
        assert_eq!(
            trace,
            Trace { id: 0x0af7651916cd43dd8448eb211c80319c, parent: 0xb7ad6b7169203331, flags: 1 }
        );
        for none in [r#"{}"#, r#"{"traceparent": 7}"#, r#"{"traceparent": null}"#, "not json traceparent"] {
            assert_eq!(Trace::from_headers(none), None, "{none}");
        }
        let zero = ONE.replace("b7ad6b7169203331", "0000000000000000");
        let upper = ONE.to_uppercase();
        let version = ONE.replacen("00", "ff", 1);
        for bad in ["", "00", &ONE[..54], &format!("{ONE}-x"), &zero, &upper, &version] {
            assert_eq!(Trace::parse(bad), None, "{bad}");
        }
        assert!(Trace::parse(&format!("{}-x", ONE.replacen("00", "01", 1))).is_some(), "a later version");
    }
}
