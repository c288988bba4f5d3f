//! The log's way to standard error: each event is one line, in which a terminal finds nothing to obey but our
//! colours.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

use super::plain;

/// The format of the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Kind {
    /// Text. The escapes of colours are the subscriber's own; it replaces escapes in values.
    Text {
        /// Whether there are colours.
        colourful: bool,
    },
    /// JSON.
    Json,
}

/// Standard error, made safe.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) struct Stderr(pub(in crate::cli) Kind);

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Event;

    fn make_writer(&'a self) -> Event {
        Event { kind: self.0, bytes: Vec::new() }
    }
}

/// One event; written whole when it is dropped.
pub(in crate::cli) struct Event {
    kind: Kind,
    bytes: Vec<u8>,
}

impl Write for Event {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            let line = safe(self.kind, &String::from_utf8_lossy(&self.bytes));
            // If the log cannot be written, there is nobody to tell.
            let _ = io::stderr().lock().write_all(line.as_bytes());
        }
    }
}

fn safe(kind: Kind, event: &str) -> String {
    let event = event.strip_suffix('\n').unwrap_or(event);
    let mut line = match kind {
        Kind::Json => plain::json(event).into_owned(),
        Kind::Text { colourful: false } => plain::one_line(event).into_owned(),
        Kind::Text { colourful: true } => {
            let parts: Vec<_> = event.split('\x1b').map(plain::one_line).collect();
            parts.join("\x1b")
        }
    };
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_obeys_nobody() {
        let text = |colourful, event| safe(Kind::Text { colourful }, event);
        assert_eq!(text(false, "a\nWARN forged\x1b[2J\n"), "a WARN forged\u{fffd}[2J\n");
        assert_eq!(text(true, "\x1b[2mtime\x1b[0m a\nb\u{202e}\n"), "\x1b[2mtime\x1b[0m a b\u{fffd}\n");
        assert_eq!(safe(Kind::Json, "{\"a\":\"\u{202e}\"}\n"), "{\"a\":\"\\u202e\"}\n");
    }
}
