//! The protocol's limits. The welcome tells a client the limits that it must keep.

use std::time::Duration;

/// The protocol's version, in `hello` and `welcome`.
pub const PROTO: u32 = 1;
/// The longest line before `hello`: authentication must not cost memory.
pub const HELLO_LINE_BYTES_MAX: usize = 8 * 1024;
/// The longest line after `hello`, in both directions, without its newline.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;
/// The largest payload, in bytes of JSON text.
pub const PAYLOAD_BYTES_MAX: usize = LINE_BYTES_MAX - ENVELOPE_BYTES_MAX;
/// The most bytes of a `msg` or `send` line besides its payload: ids, names, headers, keys.
pub const ENVELOPE_BYTES_MAX: usize = 64 * 1024;
/// The most bytes of a `msg` line for the part that differs from push to push: op, tag, attempt, deadline_ms.
pub const PUSH_HEAD_BYTES_MAX: usize = 128;
/// How long a connection may take to say `hello`.
pub const HELLO_WAIT: Duration = Duration::from_secs(3);
/// The window of a session that does not ask for one.
pub const WINDOW_DEFAULT: u32 = 32;
/// The largest window a session gets.
pub const WINDOW_MAX: u32 = 10_000;
/// The most tags in one `ack` or `begun`.
pub const ACK_TAGS_MAX: usize = WINDOW_MAX as usize;
/// The heartbeat of a session that does not ask for one.
pub const HEARTBEAT_MS_DEFAULT: u32 = 15_000;
/// The shortest heartbeat that a session may ask for, in milliseconds.
pub const HEARTBEAT_MS_MIN: u32 = 1_000;
/// The longest: ten minutes, for a person at `nc`.
pub const HEARTBEAT_MS_MAX: u32 = 600_000;
/// Silence for this many heartbeats closes a connection, on either side.
pub const HEARTBEATS_MISSED_MAX: u32 = 2;
/// The longest agent name, correlation id, dedupe key and `ref`, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// The shortest time for which a lock may be asked for: a second.
pub const LOCK_MS_MIN: u64 = 1_000;
/// The longest time for which a lock may be asked for at once: an hour.
pub const LOCK_MS_MAX: u64 = 3_600_000;
/// The most tokens of a topic: a message's subscribers are looked up under 2^(n+1) patterns.
pub const TOPIC_TOKENS_MAX: usize = 8;
/// The longest reason of a `nack`, in bytes; a longer one is cut.
pub const REASON_BYTES_MAX: usize = 1_000;
/// The most dead letters of one answer, and how many a client gets that gives no limit.
pub const DEAD_LETTERS_MAX: usize = 100;
/// The most bytes of the letters in a `dead_letters` line: nothing is pushed to the session while the line is
/// written.
pub const DEAD_LETTERS_BYTES_MAX: usize = 64 * 1024;
/// The longest payload that a dead letter shows, in bytes; a longer one is left out.
pub const DEAD_PAYLOAD_BYTES_MAX: usize = 4 * 1024;
/// The most dead letters of one `redrive` or `purge`, which is one transaction and must be short.
pub const DEAD_IDS_MAX: usize = 1_000;
/// The longest delay, time to live or extension that a client may ask for: a week.
pub const DURATION_MS_MAX: u64 = 7 * 24 * 3_600 * 1_000;

/// The longest hold over a link whose broker does not name one, since it is of an older version.
pub const HOLD_DEFAULT: Duration = Duration::from_secs(6 * 3_600);
/// The bound on `role_limits.hold_seconds`: a hundred years; a longer hold is not told apart.
pub const HOLD_SECONDS_MAX: u64 = 100 * 365 * 86_400;

const _: () = assert!(HELLO_LINE_BYTES_MAX < LINE_BYTES_MAX);
const _: () = assert!(PAYLOAD_BYTES_MAX > LINE_BYTES_MAX / 2);
const _: () = assert!(PUSH_HEAD_BYTES_MAX + 12 * NAME_BYTES_MAX < ENVELOPE_BYTES_MAX);
const _: () = assert!(REASON_BYTES_MAX < HELLO_LINE_BYTES_MAX);
// An ack of a whole window with 20-digit tags must fit into a line.
const _: () = assert!(ACK_TAGS_MAX * 21 + PUSH_HEAD_BYTES_MAX < LINE_BYTES_MAX);
const _: () = assert!(DEAD_LETTERS_BYTES_MAX + ENVELOPE_BYTES_MAX < LINE_BYTES_MAX);
// As many ids as may be named, with 20 digits and a comma each, must fit into a line.
const _: () = assert!(DEAD_IDS_MAX * 21 + 8 * NAME_BYTES_MAX < LINE_BYTES_MAX);
const _: () = assert!(HEARTBEAT_MS_MIN < HEARTBEAT_MS_DEFAULT);
const _: () = assert!(HEARTBEAT_MS_DEFAULT < HEARTBEAT_MS_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    /// A client in another language has the figures from there.
    #[test]
    fn each_figure_is_the_one_of_the_specification() {
        let page = include_str!("PROTOCOL.md");
        let kib = |bytes: usize| bytes / 1024;
        let (hello, letters) = (kib(HELLO_LINE_BYTES_MAX), kib(DEAD_LETTERS_BYTES_MAX));
        let (line, payload, hold) = (LINE_BYTES_MAX, PAYLOAD_BYTES_MAX, HOLD_DEFAULT.as_millis());
        for figure in [
            format!(
                r#"{{"line_bytes":{line},"payload_bytes":{payload},"window":{WINDOW_MAX},"hold_ms":{hold}}}"#
            ),
            format!("within {} s, at most {hello} KiB", HELLO_WAIT.as_secs()),
            format!("An answer holds at most {letters} KiB of letters"),
            format!("\n{} KiB, so that a page stays small", kib(DEAD_PAYLOAD_BYTES_MAX)),
        ] {
            assert!(page.contains(&figure), "PROTOCOL.md does not say: {figure}");
        }
        let days = |n: u64| Duration::from_secs(n * 24 * 3_600);
        assert_eq!(Duration::from_millis(DURATION_MS_MAX), days(7), "delay_ms and ttl_ms are at most a week");
        assert_eq!(Duration::from_secs(HOLD_SECONDS_MAX), days(36_500), "a hundred years");
    }
}
