//! OTLP over gRPC: spans as they end, metrics now and then.
//!
//! Spans are handed to a bounded queue that a thread of its own empties; what does
//! not fit is left out. A collector that is slow, gone or never was takes nothing
//! from the server but those spans, and at most some seconds at its end.

mod convert;

use std::convert::Infallible;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::time::{MissedTickBehavior, interval_at, timeout};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use crate::clock::Clock;
use crate::rpc::Handle;

/// Longest wait for a connection to the collector.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the collector to take what it is sent.
const EXPORT_MAX: Duration = Duration::from_secs(10);
/// Longest wait for it when the server ends.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// Headers of every request, as OpenTelemetry's specification writes them:
/// `name=value`, separated by commas, values percent-encoded.
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";

/// The way to a collector.
pub struct Exporter {
    provider: SdkTracerProvider,
    channel: Channel,
    resource: Resource,
    headers: MetadataMap,
}

impl Exporter {
    /// Towards `endpoint`; nothing is connected yet. `Err`: one sentence.
    pub fn new(endpoint: &str, service_name: &str) -> Result<Self, String> {
        let channel = channel(endpoint)?;
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_channel(channel.clone())
            .build()
            .map_err(|error| format!("otel.endpoint {endpoint}: {error}"))?;
        let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
        let resource = Resource::builder()
            .with_service_name(service_name.to_owned())
            .with_attribute(version)
            .build();
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.clone())
            .with_batch_exporter(exporter)
            .build();
        global::set_tracer_provider(provider.clone());
        Ok(Self {
            provider,
            channel,
            resource,
            headers: headers(&std::env::var(HEADERS).unwrap_or_default()),
        })
    }

    /// What hands our spans over. Events stay in the log.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("claudepool"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|meta| {
                meta.is_span()
                    && meta.target().starts_with("claudepool")
                    && *meta.level() <= Level::INFO
            }))
    }

    /// Sends a server's metrics every `interval`, for ever; zero: never.
    pub async fn push_metrics(&self, handle: &Handle, interval: Duration) -> Infallible {
        if interval.is_zero() {
            return std::future::pending().await;
        }
        let mut ticks = interval_at(tokio::time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fails = false;
        loop {
            ticks.tick().await;
            let sent = timeout(EXPORT_MAX, self.send_metrics(handle)).await;
            let error = match sent {
                Ok(Ok(())) => None,
                Ok(Err(status)) => Some(status.message().to_owned()),
                Err(_) => Some("no answer".to_owned()),
            };
            // Once, not at every try.
            if let Some(error) = error.as_ref().filter(|_| !fails) {
                tracing::warn!(%error, "the OpenTelemetry collector does not take metrics");
            }
            fails = error.is_some();
        }
    }

    async fn send_metrics(&self, handle: &Handle) -> Result<(), tonic::Status> {
        let text = handle.metrics().await;
        let request = convert::request(&text, &self.resource, Clock::system().now());
        let mut request = tonic::Request::new(request);
        request.metadata_mut().clone_from(&self.headers);
        let mut client = MetricsServiceClient::new(self.channel.clone());
        client.export(request).await.map(drop)
    }

    /// Sends what is left.
    pub async fn flush(self, handle: &Handle) {
        let provider = self.provider.clone();
        let spans = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_MAX));
        // A collector that does not answer is not waited for.
        let metrics = timeout(FLUSH_MAX, self.send_metrics(handle));
        let (ended, _) = tokio::join!(spans, metrics);
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

fn channel(endpoint: &str) -> Result<Channel, String> {
    let wrong = |error: tonic::transport::Error| format!("otel.endpoint {endpoint}: {error}");
    let to = Endpoint::from_shared(endpoint.to_owned())
        .map_err(wrong)?
        .connect_timeout(CONNECT_MAX)
        .timeout(EXPORT_MAX);
    if !endpoint.starts_with("https:") {
        return Ok(to.connect_lazy());
    }
    #[cfg(feature = "tls")]
    {
        let tls = tonic::transport::ClientTlsConfig::new().with_enabled_roots();
        Ok(to.tls_config(tls).map_err(wrong)?.connect_lazy())
    }
    #[cfg(not(feature = "tls"))]
    Err(format!(
        "otel.endpoint {endpoint}: this claudepool was built without the feature `tls`"
    ))
}

/// What cannot be a header is left out.
fn headers(text: &str) -> MetadataMap {
    let mut headers = MetadataMap::new();
    for (name, value) in text.split(',').filter_map(|pair| pair.split_once('=')) {
        let name = name.trim().to_ascii_lowercase();
        let name = AsciiMetadataKey::from_bytes(name.as_bytes());
        let value = AsciiMetadataValue::try_from(decoded(value.trim()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Without percent-encoding.
fn decoded(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.extend_from_slice(before.as_bytes());
        let code = after
            .get(..2)
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(byte) => decoded.push(byte),
            None => decoded.push(b'%'),
        }
        rest = match code {
            Some(_) => after.get(2..).unwrap_or_default(),
            None => after,
        };
    }
    decoded.extend_from_slice(rest.as_bytes());
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_the_specification_writes_them() {
        let headers = headers("Authorization=Basic%20abc%3D, x-a = 1%,no,b\u{fc}d=1");

        assert_eq!(headers.len(), 2);
        assert_eq!(headers.get("authorization").expect("there"), "Basic abc=");
        assert_eq!(headers.get("x-a").expect("there"), "1%");
    }
}
