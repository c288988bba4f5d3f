//! Keeps tokens out of `Debug` and out of log lines that quote a client.

use std::borrow::Cow;
use std::fmt;

use super::frame::Hello;

/// The beginning of every token, by which a secret scanner and [`redact`] find tokens.
pub const TOKEN_PREFIX: &str = "pb_";

/// The text with every token cut out. A refusal may quote a token, because the client mixed up its fields or
/// gave its token as its agent.
pub fn redact(text: &str) -> Cow<'_, str> {
    if !text.contains(TOKEN_PREFIX) {
        return text.into();
    }
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(TOKEN_PREFIX) {
        let (before, token) = rest.split_at(at + TOKEN_PREFIX.len());
        safe.push_str(before);
        let end = token.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_'));
        let (token, after) = token.split_at(end.unwrap_or(token.len()));
        safe.push_str(if token.is_empty() { "" } else { "…" });
        rest = after;
    }
    safe.push_str(rest);
    safe.into()
}

impl fmt::Debug for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each field is named, so that a new one is shown, or hidden, on purpose.
        let Self {
            proto,
            agent,
            token: _,
            instance,
            client,
            group,
            broker,
            rank,
            hold_ms,
            window,
            heartbeat_ms,
            environment,
            capabilities,
            version,
        } = self;
        f.debug_struct("Hello")
            .field("proto", proto)
            .field("agent", &redact(agent))
            .field("token", &"…")
            .field("instance", instance)
            .field("client", client)
            .field("group", group)
            .field("broker", broker)
            .field("rank", rank)
            .field("hold_ms", hold_ms)
            .field("window", window)
            .field("heartbeat_ms", heartbeat_ms)
            .field("environment", environment)
            .field("capabilities", capabilities)
            .field("version", version)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ClientFrame;

    #[test]
    fn a_token_is_cut_wherever_it_stands() {
        assert_eq!(redact("no op \"pb_Ab-3_x\", pb_y and pb_"), "no op \"pb_…\", pb_… and pb_");
        assert!(matches!(redact("nothing here"), Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_debugged_shows_no_token() {
        let line = br#"{"op":"hello","agent":"pb_secret1","token":"pb_secret2"}"#;
        let frame = ClientFrame::decode(line).expect("a hello");
        let shown = format!("{frame:?}");
        assert!(shown.contains("Hello {") && !shown.contains("secret"), "{shown}");
    }
}
