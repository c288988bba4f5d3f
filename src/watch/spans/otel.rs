//! OpenTelemetry's own library: it sends batches over HTTP, on a thread of its own.

use std::time::SystemTime;

use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::Step;
use postbell_client::message::Trace;

#[derive(Clone, Debug)]
pub(super) struct Tracer {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Tracer {
    pub(super) fn to(url: &str, broker: &str) -> Result<Self, String> {
        let exporter = SpanExporter::builder().with_http().with_endpoint(url).build();
        let exporter = exporter.map_err(|e| format!("no spans are sent: {url} cannot be sent to: {e}"))?;
        let resource = Resource::builder()
            .with_service_name("postbell")
            .with_attribute(KeyValue::new("service.instance.id", broker.to_owned()))
            .build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let tracer = provider.tracer("postbell");
        Ok(Self { provider, tracer })
    }

    pub(super) fn record(&self, trace: &Trace, step: Step<'_>) {
        let parent = SpanContext::new(
            TraceId::from(trace.id),
            SpanId::from(trace.parent),
            TraceFlags::new(trace.flags),
            true,
            TraceState::default(),
        );
        let (now, kind) = (
            SystemTime::now(),
            match step.name {
                "send" => SpanKind::Producer,
                _ => SpanKind::Consumer,
            },
        );
        let mut attributes = vec![
            KeyValue::new("messaging.system", "postbell"),
            KeyValue::new("messaging.operation.name", step.name),
            KeyValue::new("messaging.destination.name", step.agent.to_owned()),
        ];
        if step.attempt > 0 {
            attributes.push(KeyValue::new("postbell.attempt", i64::from(step.attempt)));
        }
        let started = now.checked_sub(step.took).unwrap_or(now);
        let builder = SpanBuilder::from_name(format!("{} {}", step.name, step.agent))
            .with_kind(kind)
            .with_start_time(started)
            .with_attributes(attributes);
        let context = Context::new().with_remote_span_context(parent);
        self.tracer.build_with_context(builder, &context).end_with_timestamp(now);
    }

    pub(super) fn close(&self) {
        if let Err(e) = self.provider.shutdown() {
            tracing::warn!(error = %e, "the last spans could not be sent");
        }
    }
}
