use super::*;
use http::HeaderValue;

fn read(text: &'static str) -> Option<Duration> {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-timeout", HeaderValue::from_static(text));
    timeout(&headers)
}

#[test]
fn every_unit_of_the_specification_is_read() {
    for (text, expected) in [
        ("2H", Duration::from_secs(7200)),
        ("3M", Duration::from_secs(180)),
        ("4S", Duration::from_secs(4)),
        ("500m", Duration::from_millis(500)),
        ("6u", Duration::from_micros(6)),
        ("7n", Duration::from_nanos(7)),
        ("99999999H", Duration::from_secs(99_999_999 * 3600)),
    ] {
        assert_eq!(read(text), Some(expected), "{text}");
    }
}

#[test]
fn what_is_no_timeout_is_none() {
    for text in [
        "",
        "S",
        "5",
        "5x",
        "-1S",
        "+1S",
        "123456789S",
        "1.5S",
        " 1S",
    ] {
        assert_eq!(read(text), None, "{text:?}");
    }
    assert_eq!(timeout(&HeaderMap::new()), None);
}
