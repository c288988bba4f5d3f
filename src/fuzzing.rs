//! Promises that hold for any bytes. Each function panics where its promise does not hold; `fuzz/` calls them with what libFuzzer finds, and
//! the tests here with what proptest makes up and with the files of `fuzz/corpus`.

mod session;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::broker::config::{Config, SETTINGS};
use crate::store::DatabaseUrl;
use postbell_client::protocol::codec::{LineError, LineReader};
use postbell_client::protocol::frame::push_line;
use postbell_client::protocol::{ClientFrame, ServerFrame};

pub use session::session;

/// Lines of at most this are read in [`lines`]: small, so that any input goes over it.
const LINE_BYTES_MAX: usize = 64;
/// Two passwords of one form: what is shown must not tell them apart.
const PASSWORDS: [&str; 2] = ["hunter2", "gatherer"];

/// Any line is a frame or a refusal, on both sides; and a frame that was read is written as one that reads the same.
pub fn frames(bytes: &[u8]) {
    for line in bytes.split(|b| *b == b'\n') {
        let _ = ServerFrame::decode(line);
        let Ok(frame) = ClientFrame::decode(line) else { continue };
        let once = written(&frame);
        let again = written(&ClientFrame::decode(&once).expect("what was read can be written and read"));
        assert_eq!(once, again);
        assert!(!once.contains(&b'\n'), "a frame is one line");
    }
}

fn written(frame: &ClientFrame) -> Vec<u8> {
    let mut line = Vec::new();
    push_line(&mut line, frame);
    line.pop();
    line
}

/// Lines are the same however the bytes arrive, and a line without an end is not gathered.
pub fn lines(bytes: &[u8]) {
    let (cuts, stream) = cuts_and_stream(bytes);
    assert_eq!(lines_of(vec![stream]), lines_of(cut(cuts, stream)));
}

/// The lines, and whether one was too long.
fn lines_of(pieces: Vec<&[u8]>) -> (Vec<Vec<u8>>, bool) {
    let largest = pieces.iter().map(|p| p.len()).max().unwrap_or(0);
    let mut reader = LineReader::new(Pieces(pieces.into()), LINE_BYTES_MAX);
    let runtime = runtime();
    let mut lines = Vec::new();
    loop {
        let next = runtime.block_on(reader.next_line());
        // Twice what was there, as vectors grow; never the stream.
        assert!(reader.held_bytes() <= 2 * (LINE_BYTES_MAX + largest.min(4_096) + 4_096), "it gathers");
        match next {
            Ok(Some(line)) => lines.push(line.to_vec()),
            Ok(None) => return (lines, false),
            Err(LineError::TooLong(_)) => return (lines, true),
            Err(LineError::Io(e)) => panic!("{e}"),
        }
    }
}

/// A source that gives one piece a read.
struct Pieces<'a>(std::collections::VecDeque<&'a [u8]>);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while let Some(piece) = self.0.pop_front() {
            if piece.is_empty() {
                continue;
            }
            let (now, later) = piece.split_at(piece.len().min(buf.remaining()));
            buf.put_slice(now);
            if !later.is_empty() {
                self.0.push_front(later);
            }
            break;
        }
        Poll::Ready(Ok(()))
    }
}

/// Any text is a URL or a sentence about it, and none shows the password.
pub fn urls(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = DatabaseUrl::parse(&text);
    if let Ok(address) = postbell_client::address(&text) {
        assert!(address.contains(':'), "{address} has no port");
    }
    // The rest of the URL is the text: what follows the password must not bring it out.
    let shown =
        PASSWORDS.map(|password| match DatabaseUrl::parse(&format!("postgres://u:{password}@{text}")) {
            Ok(url) => format!("{url} {url:?} {} {:?}", url.host(), url.ignored()),
            Err(e) => format!("{e} {e:?}"),
        });
    assert_eq!(shown[0], shown[1]);
}

/// Any settings are a configuration or a sentence that names one of them. A line is a setting: a byte for which, then
/// its text.
pub fn settings(bytes: &[u8]) {
    let shown = PASSWORDS.map(|password| {
        let mut given = vec![("DATABASE_URL", format!("postgres://u:{password}@localhost/d"))];
        for line in bytes.split(|b| *b == b'\n') {
            let Some((which, text)) = line.split_first() else { continue };
            let setting = &SETTINGS[usize::from(*which) % SETTINGS.len()];
            given.push((setting.env, String::from_utf8_lossy(text).into_owned()));
        }
        match Config::parse(|env| given.iter().rev().find(|(k, _)| *k == env).map(|(_, v)| v.clone())) {
            Ok(config) => {
                assert!((2..=50).contains(&config.pool_size) && !config.ack_deadline.is_zero());
                assert!(!config.name.is_empty() && !config.name.contains('\n'));
                format!("{config:?}")
            }
            Err(e) => {
                let sentence = e.to_string();
                assert!(SETTINGS.iter().any(|s| sentence.contains(s.env)), "{sentence}");
                sentence
            }
        }
    });
    assert_eq!(shown[0], shown[1]);
}

/// The first byte says how many cuts there are, the next ones how far they are apart, and the rest is the stream.
fn cuts_and_stream(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.split_first() {
        Some((count, rest)) => rest.split_at(usize::from(count % 32).min(rest.len())),
        None => (&[], &[]),
    }
}

/// The last distance goes on to the end, so that one cut of 1 is byte by byte.
fn cut<'a>(cuts: &[u8], mut stream: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut distances = cuts.iter().map(|c| usize::from(*c).max(1));
    let mut distance = stream.len();
    while !stream.is_empty() {
        distance = distances.next().unwrap_or(distance);
        let (piece, rest) = stream.split_at(distance.min(stream.len()));
        pieces.push(piece);
        stream = rest;
    }
    pieces
}

/// A runtime whose clock stands still: what takes long on a slow machine is no silence.
fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime")
}
