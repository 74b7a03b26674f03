//! Traces and metrics for an OpenTelemetry collector.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where traces and metrics are sent (OTLP over gRPC), if the program was built
/// with the feature `otel`. The other `OTEL_*` variables of the environment hold
/// too: `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`,
/// `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Otel {
    /// The collector, for instance `http://127.0.0.1:4317`. Unset: nothing is
    /// sent. Environment: `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: Option<String>,
    /// The service's name in both. Default `claudepool`. Environment:
    /// `OTEL_SERVICE_NAME`.
    pub service_name: String,
    /// How often metrics are sent; zero: never. Default 60 s.
    #[serde(with = "humantime_serde")]
    pub metrics_interval: Duration,
}

impl Default for Otel {
    fn default() -> Self {
        Self {
            endpoint: None,
            service_name: "claudepool".to_owned(),
            metrics_interval: Duration::from_secs(60),
        }
    }
}

impl Otel {
    /// What is wrong with the values.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(endpoint) = &self.endpoint {
            let authority = ["http://", "https://"]
                .iter()
                .find_map(|scheme| endpoint.strip_prefix(scheme));
            match authority {
                None | Some("") => {
                    problems.push("endpoint must begin with http:// or https://".to_owned());
                }
                // It is shown; OTEL_EXPORTER_OTLP_HEADERS is not.
                Some(authority) if authority.contains('@') => {
                    problems.push("endpoint must hold no credentials".to_owned());
                }
                Some(_) => {}
            }
        }
        if self.service_name.is_empty() {
            problems.push("service_name must not be empty".to_owned());
        }
        problems
    }
}
