//! Our exposition as an OTLP request: the same names, the same values. It reads
//! what [`crate::metrics::Metrics::text`] writes and nothing else.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use opentelemetry_sdk::Resource;

use crate::clock::Timestamp;

type Labels = Vec<(String, String)>;

/// A metric of the exposition.
#[derive(Default)]
struct Family {
    name: String,
    help: String,
    kind: String,
    unit: String,
    /// Values by what follows the name, and labels.
    samples: Vec<(String, Labels, f64)>,
}

/// The request.
pub(super) fn request(
    text: &str,
    resource: &Resource,
    now: Timestamp,
) -> ExportMetricsServiceRequest {
    let families = families(text);
    let start = families
        .iter()
        .find(|family| family.name == "process_start_time_seconds")
        .and_then(|family| family.samples.first())
        .map_or(0, |(_, _, seconds)| (seconds * 1e9) as u64);
    let times = Times {
        start,
        now: u64::try_from(now.0).unwrap_or_default() * 1000,
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(ProtoResource {
                attributes: resource
                    .iter()
                    .map(|(key, value)| attribute(key.as_str(), &value.as_str()))
                    .collect(),
                ..ProtoResource::default()
            }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(InstrumentationScope {
                    name: "claudepool".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    ..InstrumentationScope::default()
                }),
                metrics: families
                    .into_iter()
                    .map(|family| metric(family, times))
                    .collect(),
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

#[derive(Clone, Copy)]
struct Times {
    start: u64,
    now: u64,
}

fn families(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            families.push(Family {
                name: name.to_owned(),
                help: help.to_owned(),
                ..Family::default()
            });
            continue;
        }
        let Some(family) = families.last_mut() else {
            continue;
        };
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family.kind = last_word(rest);
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            family.unit = last_word(rest);
        } else if !line.starts_with('#')
            && let Some((name, labels, value)) = sample(line)
        {
            let suffix = name.strip_prefix(&family.name).unwrap_or_default();
            let suffix = suffix.to_owned();
            family.samples.push((suffix, labels, value));
        }
    }
    families
}

fn last_word(text: &str) -> String {
    text.rsplit(' ').next().unwrap_or_default().to_owned()
}

/// `name{label="value",…} value`.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some((series, Labels::new(), value));
    };
    let mut labels = labels.strip_suffix('}')?.chars();
    let mut found = Labels::new();
    loop {
        let key: String = labels.by_ref().take_while(|c| *c != '=').collect();
        if key.is_empty() {
            return Some((name, found, value));
        }
        labels.next()?; // The opening quote.
        let mut text = String::new();
        loop {
            match labels.next()? {
                '"' => break,
                '\\' => text.push(match labels.next()? {
                    'n' => '\n',
                    other => other,
                }),
                other => text.push(other),
            }
        }
        found.push((key.trim_start_matches(',').to_owned(), text));
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    }
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    labels
        .iter()
        .map(|(key, value)| attribute(key, value))
        .collect()
}

fn metric(family: Family, times: Times) -> Metric {
    let number = |(_, labels, value): &(String, Labels, f64)| NumberDataPoint {
        attributes: attributes(labels),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        value: Some(Number::AsDouble(*value)),
        ..NumberDataPoint::default()
    };
    let data = match family.kind.as_str() {
        "counter" => Data::Sum(Sum {
            data_points: family.samples.iter().map(number).collect(),
            aggregation_temporality: AggregationTemporality::Cumulative as i32,
            is_monotonic: true,
        }),
        "histogram" => Data::Histogram(Histogram {
            data_points: histograms(&family.samples, times),
            aggregation_temporality: AggregationTemporality::Cumulative as i32,
        }),
        _ => Data::Gauge(Gauge {
            data_points: family.samples.iter().map(number).collect(),
        }),
    };
    Metric {
        name: family.name,
        description: family.help,
        unit: match family.unit.as_str() {
            "seconds" => "s".to_owned(),
            "bytes" => "By".to_owned(),
            "usd" => "{USD}".to_owned(),
            other => other.to_owned(),
        },
        data: Some(data),
        ..Metric::default()
    }
}

fn histograms(samples: &[(String, Labels, f64)], times: Times) -> Vec<HistogramDataPoint> {
    let mut points: BTreeMap<Labels, HistogramDataPoint> = BTreeMap::new();
    for (suffix, labels, value) in samples {
        let mut labels = labels.clone();
        let bound = labels.iter().position(|(key, _)| key == "le");
        let bound = bound.map(|at| labels.remove(at).1);
        let point = points
            .entry(labels)
            .or_insert_with_key(|labels| HistogramDataPoint {
                attributes: attributes(labels),
                start_time_unix_nano: times.start,
                time_unix_nano: times.now,
                ..HistogramDataPoint::default()
            });
        match (suffix.as_str(), bound) {
            ("_sum", _) => point.sum = Some(*value),
            ("_count", _) => point.count = *value as u64,
            (_, Some(bound)) => {
                // Ours are cumulative, theirs are not.
                let below: u64 = point.bucket_counts.iter().sum();
                let here = (*value as u64).saturating_sub(below);
                point.bucket_counts.push(here);
                if let Some(bound) = bound.parse::<f64>().ok().filter(|bound| bound.is_finite()) {
                    point.explicit_bounds.push(bound);
                }
            }
            (_, None) => {}
        }
    }
    points.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Metrics;
    use crate::money::Microdollars;

    fn metrics() -> Vec<Metric> {
        let metrics = Metrics::new();
        for millis in [2, 2, 700] {
            metrics.launched(true, Duration::from_millis(millis));
        }
        let usage = crate::pb::ModelUsage {
            model: "a \"strange\" \\ one\n".to_owned(),
            cost_microdollars: 1_500_000,
            ..Default::default()
        };
        metrics.paid(&[usage], Microdollars(1_500_000));
        let resource = Resource::builder_empty().build();
        let mut request = request(&metrics.text(true, None), &resource, Timestamp(5));
        request
            .resource_metrics
            .remove(0)
            .scope_metrics
            .remove(0)
            .metrics
    }

    fn data(name: &str) -> Data {
        let found = metrics().into_iter().find(|metric| metric.name == name);
        found.and_then(|metric| metric.data).expect("it is there")
    }

    #[test]
    fn a_histogram_has_as_many_in_each_bucket_as_fell_into_it() {
        let Data::Histogram(histogram) = data("claudepool_launch_duration_seconds") else {
            panic!("it is a histogram");
        };
        let ok = |point: &&HistogramDataPoint| point.attributes == [attribute("result", "ok")];

        let point = histogram.data_points.iter().find(ok).expect("it is there");

        assert_eq!(point.count, 3);
        assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), 3);
        assert_eq!(point.bucket_counts[0], 2);
        assert_eq!(point.sum, Some(0.704));
    }

    #[test]
    fn a_counter_keeps_its_value_and_the_labels_as_they_are() {
        let Data::Sum(sum) = data("claudepool_cost_usd") else {
            panic!("it is a counter");
        };

        assert!(sum.is_monotonic);
        let point = &sum.data_points[0];
        assert_eq!(point.value, Some(Number::AsDouble(1.5)));
        let model = attribute("model", "a \"strange\" \\ one\n");
        assert_eq!(point.attributes, [model]);
    }
}
