//! Spans of what the broker does with messages that belong to a trace, for OpenTelemetry. Without the feature `otel` there is
//! none and it costs nothing; with it, a look at each message's headers, also where no endpoint is set.

#[cfg(feature = "otel")]
mod otel;

use std::time::Duration;

use postbell_client::message::Trace;

/// Where spans go. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    #[cfg(feature = "otel")]
    tracer: Option<otel::Tracer>,
}

/// What a span says of a message.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// What was done: `send` or `deliver`.
    pub name: &'static str,
    /// Which agent sent the message, or got it.
    pub agent: &'a str,
    /// For how long it was done, until now.
    pub took: Duration,
    /// Which attempt of a delivery, from 1; 0 for none.
    pub attempt: u32,
}

impl Spans {
    /// Sends them to this URL, by OTLP over HTTP; without one nowhere.
    pub fn to(url: Option<&str>, broker: &str) -> Self {
        let Some(url) = url else { return Self::default() };
        #[cfg(feature = "otel")]
        match otel::Tracer::to(url, broker) {
            Ok(tracer) => return Self { tracer: Some(tracer) },
            Err(sentence) => tracing::warn!("{sentence}"),
        }
        #[cfg(not(feature = "otel"))]
        tracing::warn!(url, broker, "this postbell was built without the feature otel: no spans are sent");
        Self::default()
    }

    /// A step is done that belongs to a trace.
    pub fn done(&self, trace: &Trace, step: Step<'_>) {
        #[cfg(feature = "otel")]
        if let Some(tracer) = &self.tracer {
            tracer.record(trace, step);
        }
        #[cfg(not(feature = "otel"))]
        let _ = (trace, step);
    }

    /// Sends what is left; blocks for as long as that takes, some seconds at most.
    pub fn close(&self) {
        #[cfg(feature = "otel")]
        if let Some(tracer) = &self.tracer {
            tracer.close();
        }
    }
}
