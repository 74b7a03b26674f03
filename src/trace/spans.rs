//! Spans under a caller's trace. Without the feature `otel` nothing is exported
//! and each of these does nothing.

use tracing::Span;

use super::TraceContext;
use crate::clock::Timestamp;

#[cfg(feature = "otel")]
mod exported {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use opentelemetry::propagation::{Extractor, TextMapPropagator};
    use opentelemetry::trace::{Span as _, TraceContextExt, Tracer};
    use opentelemetry::{Context, KeyValue, global};
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use super::{Span, Timestamp, TraceContext};

    impl Extractor for TraceContext {
        fn get(&self, key: &str) -> Option<&str> {
            match key {
                "traceparent" => Some(self.parent()),
                "tracestate" => Some(self.state()),
                _ => None,
            }
        }

        fn keys(&self) -> Vec<&str> {
            vec!["traceparent", "tracestate"]
        }
    }

    fn remote(context: &TraceContext) -> Context {
        TraceContextPropagator::new().extract_with_context(&Context::new(), context)
    }

    pub fn adopt(span: &Span, parent: &TraceContext) {
        // It fails where the span is not exported: then it has no parent either.
        let _ = span.set_parent(remote(parent));
    }

    pub fn of(span: &Span) -> Option<TraceContext> {
        let context = span.context();
        let span = context.span();
        let span = span.span_context();
        if !span.is_valid() {
            return None;
        }
        let parent = format!(
            "00-{}-{}-{:02x}",
            span.trace_id(),
            span.span_id(),
            span.trace_flags().to_u8()
        );
        let state = span.trace_state().header();
        TraceContext::parse(&parent, (!state.is_empty()).then_some(state.as_str()))
    }

    pub fn waited(parent: &TraceContext, task: &str, from: Timestamp, to: Timestamp) {
        let moment = |time: Timestamp| -> SystemTime {
            UNIX_EPOCH + Duration::from_micros(u64::try_from(time.0).unwrap_or_default())
        };
        let tracer = global::tracer("claudepool");
        let mut span = tracer
            .span_builder("queue")
            .with_start_time(moment(from))
            .with_attributes([KeyValue::new("task_id", task.to_owned())])
            .start_with_context(&tracer, &remote(parent));
        span.end_with_timestamp(moment(to.max(from)));
    }
}

/// Puts a span that has just been made under a remote parent.
pub fn adopt(span: &Span, parent: &TraceContext) {
    #[cfg(feature = "otel")]
    exported::adopt(span, parent);
    #[cfg(not(feature = "otel"))]
    let _ = (span, parent);
}

/// The place of a span in its trace; `None`: it is not exported. From now on its
/// parent is fixed.
pub fn of(span: &Span) -> Option<TraceContext> {
    #[cfg(feature = "otel")]
    return exported::of(span);
    #[cfg(not(feature = "otel"))]
    {
        let _ = span;
        None
    }
}

/// Exports the span `queue` of a task that waited from one moment to another.
pub fn waited(parent: &TraceContext, task: &str, from: Timestamp, to: Timestamp) {
    #[cfg(feature = "otel")]
    exported::waited(parent, task, from, to);
    #[cfg(not(feature = "otel"))]
    let _ = (parent, task, from, to);
}
