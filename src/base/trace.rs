//! Whether messages are searched for traces at all.

use postbell_client::message::Trace;

/// The trace that a message's headers name. Without the feature `otel` no span is sent, so nothing is parsed.
pub(crate) fn named_by(headers: Option<&str>) -> Option<Trace> {
    if cfg!(feature = "otel") { headers.and_then(Trace::from_headers) } else { None }
}
