use super::*;

fn used(model: &str, output_tokens: i64, cost_microdollars: i64) -> pb::ModelUsage {
    pb::ModelUsage {
        model: model.to_owned(),
        output_tokens,
        cost_microdollars,
        ..pb::ModelUsage::default()
    }
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn what_no_model_is_named_for_is_the_unknowns() {
    let metrics = Metrics::new();

    metrics.paid(&[used("opus", 7, 250_000)], Microdollars(1_000_000));

    let text = metrics.text(true, None);
    let cost = |model| {
        value(
            &text,
            &format!("claudepool_cost_usd_total{{model=\"{model}\"}}"),
        )
    };
    assert_eq!((cost("opus"), cost("unknown")), (Some(0.25), Some(0.75)));
    let tokens = "claudepool_tokens_total{kind=\"output\",model=\"opus\"}";
    assert_eq!(value(&text, tokens), Some(7.0));
}

#[test]
fn models_without_end_are_no_labels_without_end() {
    let metrics = Metrics::new();

    for n in 0..1000 {
        let long = format!("{n} {}", "x".repeat(10_000));
        metrics.paid(&[used(&long, 1, 1)], Microdollars(1));
    }

    let text = metrics.text(true, None);
    assert!(text.len() < 200_000, "{} bytes", text.len());
    let others = "claudepool_tokens_total{kind=\"output\",model=\"other\"}";
    assert_eq!(value(&text, others), Some((1000 - MODELS_MAX) as f64));
}

#[test]
fn a_call_under_way_is_counted_until_it_ends() {
    let metrics = Metrics::new();
    let under_way = "rpc_server_active_calls{rpc_method=\"a/B\"}";

    metrics.call_began("a/B");
    let during = value(&metrics.text(true, None), under_way);
    metrics.call_ended("a/B", "OK", Duration::from_secs(3));

    let text = metrics.text(true, None);
    assert_eq!((during, value(&text, under_way)), (Some(1.0), Some(0.0)));
    let sum = "rpc_server_call_duration_seconds_sum\
               {rpc_method=\"a/B\",rpc_response_status_code=\"OK\"}";
    assert_eq!(value(&text, sum), Some(3.0));
}
