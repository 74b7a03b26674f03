//! A step's variables: values at dot-paths of its JSON.

use std::collections::BTreeMap;

use serde_json::Value;

/// Longest dot-path, in bytes.
const PATH_BYTES_MAX: usize = 256;

/// Whether `path` is a dot-path: keys and array indexes joined by dots.
pub fn is_path(path: &str) -> bool {
    path.len() <= PATH_BYTES_MAX && path.split('.').all(|key| !key.is_empty())
}

/// The values of a step's variables. `structured` is its structured output, if
/// it has one; else the JSON is the text, or the last fenced block in it.
///
/// A text is given as it is, anything else as JSON text. `Err` says in one
/// sentence which variable is missing and why.
pub fn variables(
    wanted: &BTreeMap<String, String>,
    structured: Option<&str>,
    text: &str,
) -> Result<BTreeMap<String, String>, String> {
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let json = structured
        .map_or_else(|| json_of(text), parse)
        .ok_or("the step's output is no JSON, so its output_vars cannot be taken from it")?;
    wanted
        .iter()
        .map(|(name, path)| {
            let value = follow(&json, path)
                .map_err(|why| format!("output_vars[{name}]: {why} in the step's output"))?;
            Ok((name.clone(), value))
        })
        .collect()
}

fn parse(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

/// Models like to wrap JSON in a fence, with words around it.
fn json_of(text: &str) -> Option<Value> {
    parse(text.trim()).or_else(|| parse(last_fenced(text)?))
}

fn last_fenced(text: &str) -> Option<&str> {
    let (before, _) = text.rsplit_once("```")?;
    let (_, block) = before.rsplit_once("```")?;
    // The rest of the fence's line names the language.
    let (_, body) = block.split_once('\n')?;
    Some(body.trim())
}

fn follow(json: &Value, path: &str) -> Result<String, String> {
    let mut at = json;
    for key in path.split('.') {
        let inner = match at {
            Value::Object(fields) => fields.get(key),
            Value::Array(items) => key.parse::<usize>().ok().and_then(|i| items.get(i)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        };
        at = inner.ok_or_else(|| format!("there is no \"{key}\" of \"{path}\""))?;
    }
    match at {
        Value::Null => Err(format!("\"{path}\" is null")),
        Value::String(text) => Ok(text.clone()),
        other => Ok(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(path: &str, structured: Option<&str>, text: &str) -> Result<String, String> {
        let wanted = [("v".to_owned(), path.to_owned())].into();
        variables(&wanted, structured, text).map(|mut vars| vars.remove("v").expect("v"))
    }

    #[test]
    fn a_path_leads_through_objects_and_arrays() {
        let json = r#"{"a": [{"b": "x"}, {"b": {"c": 1.50}}], "n": 12345678901234567890}"#;
        assert_eq!(take("a.0.b", None, json).as_deref(), Ok("x"));
        assert_eq!(take("a.1.b", None, json).as_deref(), Ok(r#"{"c":1.5}"#));
        assert_eq!(
            take("n", None, json).as_deref(),
            Ok("12345678901234567890"),
            "integers stay exact"
        );
    }

    #[test]
    fn the_structured_output_goes_before_the_text() {
        assert_eq!(
            take("a", Some(r#"{"a": "s"}"#), r#"{"a": "t"}"#).as_deref(),
            Ok("s")
        );
    }

    #[test]
    fn json_in_the_last_fence_is_found() {
        let text = "First ```x``` and\n```json\n{\"a\": 1}\n```\nthen\n```\n{\"a\": 2}\n```\nDone.";
        assert_eq!(take("a", None, text).as_deref(), Ok("2"));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (path, text) in [
            ("a.b", r#"{"a": "x"}"#),
            ("a.2", r#"{"a": [1]}"#),
            ("a.-1", r#"{"a": [1]}"#),
            ("b", r#"{"a": 1}"#),
        ] {
            let why = take(path, None, text).expect_err(path);
            assert!(
                why.contains("output_vars[v]") && why.contains(path),
                "{why}"
            );
        }
        assert!(take("a", None, r#"{"a": null}"#).is_err());
        assert!(take("a", None, "no JSON").is_err());
        assert!(take("a", None, "```").is_err());
    }

    #[test]
    fn a_path_has_no_empty_key() {
        assert!(is_path("a") && is_path("a.0.b c"));
        assert!(!is_path("") && !is_path("a.") && !is_path(".a") && !is_path("a..b"));
        assert!(!is_path(&"a".repeat(257)));
    }
}
