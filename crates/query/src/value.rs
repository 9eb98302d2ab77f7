//! Values while a query is evaluated.
//!
//! Invariant: a number is never NaN; NaN is undefined (Spec query-and-routing §8.4).

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value as Json;

use crate::{CompareOperator, Constant, Segment};

/// A value. It borrows from the row or the query unless it was computed.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Nothing is there.
    Undefined,
    /// `null`
    Null,
    /// A Boolean.
    Bool(bool),
    /// A number; infinite after a division by zero.
    Number(f64),
    /// A string.
    String(Cow<'a, str>),
    /// An array or an object.
    Compound(Cow<'a, Json>),
}

impl<'a> Value<'a> {
    /// A number, or undefined for NaN.
    #[must_use]
    pub fn number(number: f64) -> Self {
        if number.is_nan() {
            Value::Undefined
        } else {
            Value::Number(number)
        }
    }

    /// A string that the row has.
    #[must_use]
    pub fn str(text: &'a str) -> Self {
        Value::String(Cow::Borrowed(text))
    }

    /// A JSON value as it is.
    #[must_use]
    pub fn of(json: &'a Json) -> Self {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => number.as_f64().map_or(Value::Undefined, Value::number),
            Json::String(text) => Value::str(text),
            Json::Array(_) | Json::Object(_) => Value::Compound(Cow::Borrowed(json)),
        }
    }

    /// What `path` leads to from `json`; undefined where it leads nowhere.
    #[must_use]
    pub fn at(json: &'a Json, path: &[Segment]) -> Self {
        let target = path.iter().try_fold(json, |json, segment| match segment {
            Segment::Key(key) => json.as_object()?.get(key),
            Segment::Index(index) => json.as_array()?.get(*index),
        });
        target.map_or(Value::Undefined, Value::of)
    }

    /// The same value without a borrow.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Undefined => Value::Undefined,
            Value::Null => Value::Null,
            Value::Bool(value) => Value::Bool(value),
            Value::Number(number) => Value::Number(number),
            Value::String(text) => Value::String(Cow::Owned(text.into_owned())),
            Value::Compound(json) => Value::Compound(Cow::Owned(json.into_owned())),
        }
    }

    /// The value as JSON; `None` for undefined and for what JSON has no number for.
    #[must_use]
    pub fn to_json(&self) -> Option<Json> {
        match self {
            Value::Undefined => None,
            Value::Null => Some(Json::Null),
            Value::Bool(value) => Some(Json::Bool(*value)),
            Value::Number(number) => json_number(*number),
            Value::String(text) => Some(Json::String(text.as_ref().to_owned())),
            Value::Compound(json) => Some(json.as_ref().clone()),
        }
    }

    /// Compares by the operator: primitives of one type, or anything primitive with null; else undefined (Spec
    /// query-and-routing §3.2).
    pub(crate) fn compare(&self, operator: CompareOperator, other: &Value<'_>) -> Value<'static> {
        use CompareOperator as Op;
        let ordering = match (self, other) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
            (Value::Number(left), Value::Number(right)) => match left.partial_cmp(right) {
                Some(ordering) => ordering,
                None => return Value::Undefined,
            },
            (Value::String(left), Value::String(right)) => left.cmp(right),
            // Something that is there is not null.
            (Value::Null, Value::Bool(_) | Value::Number(_) | Value::String(_))
            | (Value::Bool(_) | Value::Number(_) | Value::String(_), Value::Null) => {
                return match operator {
                    Op::Equal => Value::Bool(false),
                    Op::NotEqual => Value::Bool(true),
                    _ => Value::Undefined,
                };
            }
            _ => return Value::Undefined,
        };
        Value::Bool(match operator {
            Op::Equal => ordering.is_eq(),
            Op::NotEqual => ordering.is_ne(),
            Op::Less => ordering.is_lt(),
            Op::LessOrEqual => ordering.is_le(),
            Op::Greater => ordering.is_gt(),
            Op::GreaterOrEqual => ordering.is_ge(),
        })
    }
}

impl<'a> From<&'a Constant> for Value<'a> {
    fn from(constant: &'a Constant) -> Self {
        match constant {
            Constant::Undefined => Value::Undefined,
            Constant::Null => Value::Null,
            Constant::Bool(value) => Value::Bool(*value),
            Constant::Number(number) => Value::number(*number),
            Constant::String(text) => Value::str(text),
        }
    }
}

/// Whole numbers without a fraction, as the documents have them; `None` for infinities.
pub(crate) fn json_number(number: f64) -> Option<Json> {
    /// The whole numbers that a 64-bit float holds exactly.
    const EXACT: f64 = (1_u64 << 53) as f64;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        return Some(Json::from(number as i64));
    }
    serde_json::Number::from_f64(number).map(Json::Number)
}
