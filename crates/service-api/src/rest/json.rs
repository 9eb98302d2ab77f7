//! Parses JSON bodies, and reads documents field by field (Spec rest §1.5).
//!
//! Field names are matched in any case, since old clients send `Enabled`.
//! Invariants: those of [`holdfast_model::json`]; nothing here panics.

use std::collections::HashSet;

use holdfast_model::ErrorCode;
use holdfast_model::json::parse as parse_strict;
pub(super) use holdfast_model::json::quoted;
use serde_json::{Map, Value};

use super::error::ApiError;
use holdfast_model::lenient_json;

/// Parses a whole body: strict JSON, or the relaxed forms of [`lenient_json`], so that twins, methods and documents are
/// all read alike. A value that is stored or answered is strict JSON again.
pub(super) fn parse(body: &[u8]) -> Result<Value, ApiError> {
    // A byte order mark is not part of the text.
    let text = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let text = std::str::from_utf8(text).map_err(|_| format_error("the body is not UTF-8 text"))?;
    let error = match parse_strict(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    // The strict parser's error names a position in the text that the client has sent.
    let relaxed = lenient_json::to_strict(text).and_then(|strict| parse_strict(&strict).ok());
    relaxed.ok_or_else(|| format_error(format!("the body is not valid JSON: {error}")))
}

/// The document's root as an object.
pub(super) fn object(value: &Value) -> Result<Fields<'_>, ApiError> {
    match value {
        Value::Object(map) => Fields::new(map),
        _ => Err(format_error("the body must be a JSON object")),
    }
}

/// The document's root as an array.
pub(super) fn array(value: &Value) -> Result<&[Value], ApiError> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(format_error("the body must be a JSON array")),
    }
}

pub(super) fn format_error(text: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::IotHubFormatError, text)
}

/// An object with case-insensitive field names.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub(super) fn new(map: &'a Map<String, Value>) -> Result<Self, ApiError> {
        let mut names = HashSet::with_capacity(map.len());
        for name in map.keys() {
            if !names.insert(name.to_ascii_lowercase()) {
                return Err(format_error(format!("field {} occurs twice", quoted(name))));
            }
        }
        Ok(Self(map))
    }

    /// The field as sent, `null` included.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        let exact = self.0.get(name);
        exact.or_else(|| {
            self.0
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        })
    }

    /// The field; `null` counts as absent.
    fn value(&self, name: &str) -> Option<&'a Value> {
        self.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type(name, "text")),
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(wrong_type(name, "true or false")),
        }
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Fields::new(map).map(Some),
            Some(_) => Err(wrong_type(name, "an object")),
        }
    }

    pub(super) fn array(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(wrong_type(name, "an array")),
        }
    }

    /// The field's own JSON text, when it is an object.
    pub(super) fn object_text(&self, name: &str) -> Result<Option<String>, ApiError> {
        match self.value(name) {
            None => Ok(None),
            Some(value @ Value::Object(_)) => Ok(Some(value.to_string())),
            Some(_) => Err(wrong_type(name, "an object")),
        }
    }

    /// The first name that is not in `known`.
    pub(super) fn unknown(&self, known: &[&str]) -> Option<&'a str> {
        self.0
            .keys()
            .map(String::as_str)
            .find(|name| !known.iter().any(|known| known.eq_ignore_ascii_case(name)))
    }
}

fn wrong_type(name: &str, expected: &str) -> ApiError {
    format_error(format!("field {name} must be {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &[u8]) -> u32 {
        parse(body).unwrap_err().code.number()
    }

    #[test]
    fn relaxed_json_is_read_and_becomes_strict() {
        for body in [
            r#"{deviceId: "edison1"}"#,
            "{'deviceId': 'edison1'}",
            r#"{"deviceId":"edison1",}"#,
            r#"{"deviceId":"edison1" /* c */}"#,
        ] {
            let value = parse(body.as_bytes()).unwrap();
            assert_eq!(value.to_string(), r#"{"deviceId":"edison1"}"#, "{body}");
        }
    }

    #[test]
    fn invalid_json_is_400006() {
        for body in [
            &b""[..],
            b"{",
            b"{}{}",
            b"{\"a\":1,\"a\":2}",
            b"{\"x\":{\"a\":1,\"a\":2}}",
            b"nonsense",
            b"{\"a\":1e999}",
            b"\"\xff\"",
            b"{'a':1,a:2}",
            b"[,]",
            b"[1,,]",
            b"{a:NaN}",
            b"{a:0x10}",
            b"{a:1}/*",
        ] {
            assert_eq!(code(body), 400_006, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn thirty_two_levels_pass_and_thirty_three_do_not() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(nested(32).as_bytes()).is_ok());
        assert_eq!(code(nested(33).as_bytes()), 400_006);
        assert_eq!(code("[".repeat(1 << 20).as_bytes()), 400_006);
        assert_eq!(code("{\"a\":".repeat(100_000).as_bytes()), 400_006);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_names_are_found_in_any_case() {
        let value = parse(b"\xEF\xBB\xBF{\"DeviceID\":\"x\",\"n\":null}").unwrap();
        let fields = object(&value).unwrap();
        assert_eq!(fields.text("deviceId").unwrap(), Some("x"));
        assert_eq!(fields.text("n").unwrap(), None);
        assert!(fields.get("N").is_some());
        let value = parse(b"{\"a\":1,\"A\":2}").unwrap();
        assert!(object(&value).is_err(), "which of the two would count?");
    }

    #[test]
    fn integers_are_kept_exactly() {
        let value = parse(b"[4503599627370495,18446744073709551615,-9223372036854775808]").unwrap();
        assert_eq!(
            value.to_string(),
            "[4503599627370495,18446744073709551615,-9223372036854775808]"
        );
    }

    #[test]
    fn no_damaged_document_panics() {
        use rand::rngs::StdRng;
        use rand::{Rng, SeedableRng};
        let whole = br#"{"deviceId":"d","status":"enabled","authentication":{"type":"sas","symmetricKey":{"primaryKey":
            "AAECAwQFBgcICQoLDA0ODw==","secondaryKey":null}},"capabilities":{"iotEdge":true},"parentScopes":["a","b"]}"#;
        for seed in 0..5_000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut body = whole.to_vec();
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..body.len());
                match rng.random_range(0..3) {
                    0 => body[at] = rng.random(),
                    1 => body.truncate(at.max(1)),
                    _ => body.insert(at, b"{}[]\",:0n"[rng.random_range(0..9)]),
                }
            }
            if let Ok(value) = parse(&body)
                && let Ok(fields) = object(&value)
            {
                let _ = super::super::document::read(&fields);
            }
        }
    }
}
