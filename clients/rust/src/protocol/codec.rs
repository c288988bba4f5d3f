//! Lines over a socket: the only file of the protocol that knows tokio.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The room for one read; 10,000 idle sessions must not cost 10,000 large buffers.
const READ_BYTES_MIN: usize = 1024;

/// Why no further line can be read.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The peer sent more than the limit without a newline.
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
}

/// Splits a byte stream into lines. Holds at most one line, and the bytes that one read gave beyond it.
pub struct LineReader<R> {
    source: R,
    buffer: BytesMut,
    /// The bytes of `buffer` that were searched already, so that a long line in small pieces is searched once.
    searched: usize,
    line_bytes_max: usize,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    /// Reads lines of at most `line_bytes_max` bytes, not counting the newline.
    pub fn new(source: R, line_bytes_max: usize) -> Self {
        Self { source, buffer: BytesMut::new(), searched: 0, line_bytes_max }
    }

    /// Changes the longest line from now on, in bytes without the newline.
    pub fn set_limit(&mut self, line_bytes_max: usize) {
        self.line_bytes_max = line_bytes_max;
    }

    /// The capacity of the buffer in bytes, for the tests that bound it.
    #[cfg(any(test, fuzzing, feature = "fuzzing"))]
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Waits for the next line, and returns it without its newline; `None` at the end of the stream. A last
    /// line without a newline may be cut, so it is dropped. Cancel-safe: the bytes read stay in the buffer.
    ///
    /// # Errors
    /// See [`LineError`]; the reader cannot be used afterwards.
    pub async fn next_line(&mut self) -> Result<Option<Bytes>, LineError> {
        loop {
            if let Some(line) = self.buffered_line()? {
                return Ok(Some(line));
            }
            self.buffer.reserve(READ_BYTES_MIN);
            if self.source.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Whether the stream has ended already, with nothing behind the last line. Reads what is there and does not wait.
    pub async fn has_ended(&mut self) -> bool {
        if !self.buffer.is_empty() {
            return false;
        }
        self.buffer.reserve(READ_BYTES_MIN);
        let mut read = pin!(self.source.read_buf(&mut self.buffer));
        poll_fn(|cx| Poll::Ready(matches!(read.as_mut().poll(cx), Poll::Ready(Ok(0) | Err(_))))).await
    }

    /// A line that has arrived already; `None` if none is whole yet.
    ///
    /// # Errors
    /// [`LineError::TooLong`].
    pub fn buffered_line(&mut self) -> Result<Option<Bytes>, LineError> {
        let end = self.buffer[self.searched..].iter().position(|&b| b == b'\n');
        let Some(end) = end.map(|i| i + self.searched) else {
            self.searched = self.buffer.len();
            if self.buffer.len() > self.line_bytes_max {
                return Err(LineError::TooLong(self.line_bytes_max));
            }
            return Ok(None);
        };
        if end > self.line_bytes_max {
            return Err(LineError::TooLong(self.line_bytes_max));
        }
        let mut line = self.buffer.split_to(end + 1);
        self.searched = 0;
        line.truncate(end);
        if line.last() == Some(&b'\r') {
            line.truncate(end - 1);
        }
        Ok(Some(line.freeze()))
    }
}

/// Hands all bytes to the system. TLS holds back the end of a write while the socket is full, and only the next
/// write would push that end along: hence the flush.
///
/// # Errors
/// The socket failed.
pub async fn write_whole(target: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    target.write_all(bytes).await?;
    target.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines that the reader makes of `pieces`, which arrive one by one; true if it ended with a line that
    /// is too long.
    fn lines_of(pieces: Vec<Vec<u8>>, limit: usize) -> (Vec<Bytes>, bool) {
        let mut mock = Pieces(pieces.into());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let mut reader = LineReader::new(&mut mock, limit);
            let mut lines = Vec::new();
            loop {
                match reader.next_line().await {
                    Ok(Some(line)) => lines.push(line),
                    Ok(None) => return (lines, false),
                    Err(LineError::TooLong(_)) => return (lines, true),
                    Err(LineError::Io(e)) => panic!("{e}"),
                }
            }
        })
    }

    struct Pieces(std::collections::VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buf: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            while let Some(mut piece) = self.0.pop_front() {
                if piece.is_empty() {
                    continue;
                }
                let rest = piece.split_off(piece.len().min(buf.remaining()));
                buf.put_slice(&piece);
                if !rest.is_empty() {
                    self.0.push_front(rest);
                }
                break;
            }
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn the_limit_counts_the_line_and_not_its_newline() {
        assert_eq!(lines_of(vec![b"12345\n".to_vec()], 5), (vec![Bytes::from("12345")], false));
        assert_eq!(lines_of(vec![b"123456\n".to_vec()], 5), (vec![], true));
        assert_eq!(lines_of(vec![b"12345".to_vec(), b"6".to_vec()], 5), (vec![], true));
    }

    #[test]
    fn a_carriage_return_goes_and_a_cut_line_is_dropped() {
        assert_eq!(lines_of(vec![b"a\r\n\nb".to_vec()], 9), (vec![Bytes::from("a"), Bytes::new()], false));
    }

    #[tokio::test]
    async fn a_stream_that_goes_on_or_has_more_lines_has_not_ended() {
        let (mut far, near) = tokio::io::duplex(64);
        let mut reader = LineReader::new(near, 9);
        far.write_all(b"a\n").await.expect("room");
        assert_eq!(reader.next_line().await.expect("open").as_deref(), Some(&b"a"[..]));
        assert!(!reader.has_ended().await);
        far.write_all(b"b\nc\n").await.expect("room");
        drop(far);
        assert!(!reader.has_ended().await, "there is a line to read");
        for line in [b"b", b"c"] {
            assert_eq!(reader.next_line().await.expect("open").as_deref(), Some(&line[..]));
        }
        assert!(reader.has_ended().await);
    }

    #[tokio::test]
    async fn a_longer_line_is_read_once_the_limit_is_higher_and_the_buffer_is_small() {
        let lines = [&b"12345\n"[..], b"123456789\n"];
        let mut source = Pieces(lines.map(<[u8]>::to_vec).into());
        let mut reader = LineReader::new(&mut source, 5);
        assert_eq!(reader.next_line().await.expect("short").as_deref(), Some(&b"12345"[..]));
        reader.set_limit(9);
        assert_eq!(reader.next_line().await.expect("short enough").as_deref(), Some(&b"123456789"[..]));
        assert!(matches!(reader.next_line().await, Ok(None)));
        assert!((READ_BYTES_MIN..=2 * READ_BYTES_MIN).contains(&reader.held_bytes()));
    }

    #[tokio::test]
    async fn nothing_of_a_write_is_held_back() {
        let mut buffered = tokio::io::BufWriter::new(Vec::new());
        write_whole(&mut buffered, b"a line\n").await.expect("writes");
        assert_eq!(buffered.get_ref(), b"a line\n");
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_arrive(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..20),
            limit in 0usize..40,
        ) {
            let whole = lines_of(vec![bytes.clone()], limit);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|w| bytes[w[0]..w[1]].to_vec()).collect();
            prop_assert_eq!(lines_of(pieces, limit), whole);
        }
    }
}
