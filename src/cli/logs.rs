//! Where what happens is told: stderr, one line per event, and, if asked for, an
//! OpenTelemetry collector.

use std::future::Future;
use std::io::{self, Write};
use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::failure::Failure;
use crate::config::{Config, LogFormat};
use crate::rpc::Handle;

/// What is to be ended when the server has: the way to a collector.
#[cfg(feature = "otel")]
pub(super) type Exporter = crate::otel::Exporter;
/// There is none in this build.
#[cfg(not(feature = "otel"))]
pub(super) enum Exporter {}

/// Begins. Within the runtime.
pub(super) fn begin(config: &Config) -> Result<Option<Exporter>, Failure> {
    let log = &config.log;
    let filter = EnvFilter::try_new(&log.filter)
        .map_err(|error| Failure::usage(format!("log.filter {}: {error}", log.filter)))?;
    let lines = fmt::layer()
        .with_writer(|| OneLine(io::stderr()))
        .log_internal_errors(false) // They would end whoever says something.
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    let lines = match log.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter));
    let exporter = exporter(config)?;
    #[cfg(feature = "otel")]
    registry.with(exporter.as_ref().map(Exporter::layer)).init();
    #[cfg(not(feature = "otel"))]
    {
        registry.init();
        if config.otel.endpoint.is_some() {
            tracing::warn!(
                "otel.endpoint is set, and this claudepool was built without the feature `otel`: \
                 nothing is exported"
            );
        }
    }
    Ok(exporter)
}

#[cfg(feature = "otel")]
fn exporter(config: &Config) -> Result<Option<Exporter>, Failure> {
    let otel = &config.otel;
    let Some(endpoint) = &otel.endpoint else {
        return Ok(None);
    };
    let exporter = Exporter::new(endpoint, &otel.service_name).map_err(Failure::usage)?;
    Ok(Some(exporter))
}

#[cfg(not(feature = "otel"))]
fn exporter(_: &Config) -> Result<Option<Exporter>, Failure> {
    Ok(None)
}

/// Runs a server to its end, and sends what it does to the collector.
#[cfg(feature = "otel")]
pub(super) async fn exported<T>(
    exporter: Option<Exporter>,
    handle: &Handle,
    interval: Duration,
    server: impl Future<Output = T>,
) -> T {
    let Some(exporter) = exporter else {
        return server.await;
    };
    let ended = tokio::select! {
        ended = server => ended,
        never = exporter.push_metrics(handle, interval) => match never {},
    };
    exporter.flush(handle).await;
    ended
}

/// Runs a server to its end.
#[cfg(not(feature = "otel"))]
pub(super) async fn exported<T>(
    _: Option<Exporter>,
    _: &Handle,
    _: Duration,
    server: impl Future<Output = T>,
) -> T {
    server.await
}

/// Writes each event on one line, whatever line breaks callers or the CLI put
/// into it: nobody else's word looks like a line of ours. An event comes in one
/// piece, with its own line break at the end.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.write_all(event).map(|()| event.len())
    }

    fn write_all(&mut self, event: &[u8]) -> io::Result<()> {
        let (line, end) = match event.split_last() {
            Some((b'\n', line)) => (line, true),
            _ => (event, false),
        };
        if !end || !line.iter().any(|byte| is_break(*byte)) {
            return self.0.write_all(event);
        }
        let mut whole = Vec::with_capacity(event.len() + 16);
        for byte in line {
            match byte {
                b'\n' => whole.extend_from_slice(b"\\n"),
                b'\r' => whole.extend_from_slice(b"\\r"),
                byte => whole.push(*byte),
            }
        }
        whole.push(b'\n');
        self.0.write_all(&whole)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn is_break(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_with_line_breaks_in_it_is_one_line() {
        let mut told = OneLine(Vec::new());

        told.write_all(b"INFO said=a\r\nERROR all is lost\n")
            .expect("a vector takes it");

        assert_eq!(told.0, b"INFO said=a\\r\\nERROR all is lost\n");
    }
}
