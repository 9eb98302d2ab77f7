//! Parses JSON strictly (Spec rest §1.5).
//!
//! Why: `serde_json` keeps the last of two equal keys, and a document that two readers interpret differently can bypass
//! a check.
//! Invariants: at most [`MAX_JSON_DEPTH`] levels; no duplicate key at any level; integers of 64 bits are kept exactly;
//! nothing here panics.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::limits::MAX_JSON_DEPTH;

/// Parses a whole text.
///
/// # Errors
/// Names the rule or the position.
pub fn parse(text: &str) -> serde_json::Result<Value> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict { depth: 0 }.deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// The members of an object whose names `wants` accepts; the others are passed over, which is much faster than to read them.
///
/// # Errors
/// As [`parse`]; what is passed over is not checked for depth and duplicates.
pub fn parse_members(text: &str, wants: impl Fn(&str) -> bool) -> serde_json::Result<Map<String, Value>> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let members = reader.deserialize_map(Members(wants))?;
    reader.end()?;
    Ok(members)
}

/// A name from a request, truncated and escaped for an error text.
#[must_use]
pub fn quoted(name: &str) -> String {
    let short: String = name.chars().take(64).collect();
    format!("'{}'", short.escape_debug())
}

/// Builds a [`Value`], refusing depth and duplicates.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= MAX_JSON_DEPTH {
            return Err(E::custom(format_args!("more than {MAX_JSON_DEPTH} levels")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(inner)?;
            if map.contains_key(&name) {
                return Err(de::Error::custom(format_args!("duplicate key {}", quoted(&name))));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

/// Builds the wanted members of an object.
struct Members<W>(W);

impl<'de, W: Fn(&str) -> bool> Visitor<'de> for Members<W> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = fields.next_key_seed(Name(&self.0))? {
            let Some(name) = name else {
                fields.next_value::<IgnoredAny>()?;
                continue;
            };
            let value = fields.next_value_seed(Strict { depth: 1 })?;
            if members.contains_key(&name) {
                return Err(de::Error::custom(format_args!("duplicate key {}", quoted(&name))));
            }
            members.insert(name, value);
        }
        Ok(members)
    }
}

/// The name of a member if it is wanted.
struct Name<'w, W>(&'w W);

impl<'de, W: Fn(&str) -> bool> DeserializeSeed<'de> for Name<'_, W> {
    type Value = Option<String>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<W: Fn(&str) -> bool> Visitor<'_> for Name<'_, W> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok((self.0)(name).then(|| name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_wanted_members_are_read() {
        let text = r#"{"a":{"b":[1,2]},"skipped":{"deep":[[[{}]]]},"\u0063":"x"}"#;
        let members = |wants: fn(&str) -> bool| parse_members(text, wants).map(Value::Object).unwrap();
        assert_eq!(members(|_| true), parse(text).unwrap());
        assert_eq!(
            members(|name| name != "skipped"),
            serde_json::json!({"a": {"b": [1, 2]}, "c": "x"})
        );
        assert_eq!(members(|_| false), serde_json::json!({}));
        for wrong in ["", "[]", "3", "{", "{\"a\":1} x", "{\"a\":1,\"a\":2}", "{\"b\":tru}"] {
            assert!(parse_members(wrong, |name| name == "a").is_err(), "{wrong}");
        }
    }

    #[test]
    fn equal_keys_depth_and_rubbish_are_refused() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&nested(MAX_JSON_DEPTH)).is_ok());
        for text in [
            nested(MAX_JSON_DEPTH + 1),
            "[".repeat(1 << 16),
            r#"{"a":1,"a":2}"#.to_owned(),
            r#"{"x":[{"a":1,"a":2}]}"#.to_owned(),
            "1e999".to_owned(),
            "{}{}".to_owned(),
            "{'a':1}".to_owned(),
            String::new(),
        ] {
            assert!(parse(&text).is_err(), "{}", quoted(&text));
        }
        assert_eq!(
            parse("-9223372036854775808").unwrap().to_string(),
            "-9223372036854775808"
        );
    }

    #[test]
    fn a_number_that_was_written_is_read_as_the_same() {
        for text in [
            "144444444444444444444444444444444444444444444444444",
            "122.416294033786585",
            "5e-324",
        ] {
            let value = parse(text).unwrap();
            assert_eq!(parse(&value.to_string()).unwrap(), value, "{text}");
        }
    }
}
