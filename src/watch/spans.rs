//! Spans of the broker's work on messages that belong to a trace, for OpenTelemetry. Without the feature `otel` there
//! are none, at no cost. With the feature, each message's headers are looked at, even if no endpoint is set.

#[cfg(feature = "otel")]
mod otel;

use std::time::Duration;

use postbell_client::message::Trace;

/// The target of spans; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    #[cfg(feature = "otel")]
    tracer: Option<otel::Tracer>,
}

/// The content of a span.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// The step: `send` or `deliver`.
    pub name: &'static str,
    /// The agent that sent the message, or got it.
    pub agent: &'a str,
    /// The duration of the step, until now.
    pub took: Duration,
    /// The number of the delivery's attempt, from 1; 0 for a send.
    pub attempt: u32,
}

impl Spans {
    /// Sends spans to this URL, by OTLP over HTTP. Without a URL none are sent.
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

    /// Records a finished step of a trace.
    pub fn done(&self, trace: &Trace, step: Step<'_>) {
        #[cfg(feature = "otel")]
        if let Some(tracer) = &self.tracer {
            tracer.record(trace, step);
        }
        #[cfg(not(feature = "otel"))]
        let _ = (trace, step);
    }

    /// Sends the remaining spans. Blocks while that lasts, some seconds at most.
    pub fn close(&self) {
        #[cfg(feature = "otel")]
        if let Some(tracer) = &self.tracer {
            tracer.close();
        }
    }
}
