//! One aggregate of one group.

use serde_json::Value as Json;

use crate::value::json_number;
use crate::{Aggregate, AggregateFunction, Value};

/// The state of an aggregate. Two states of one aggregate can be merged.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Accumulator {
    /// COUNT.
    Count(u64),
    /// SUM: the sum, and how many numbers it is of.
    Sum(f64, u64),
    /// AVG: the same.
    Average(f64, u64),
    /// MIN.
    Least(Option<Extreme>),
    /// MAX.
    Greatest(Option<Extreme>),
}

/// What MIN and MAX compare: numbers lie before strings.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub(super) enum Extreme {
    /// Never NaN.
    Number(f64),
    String(String),
}

impl Accumulator {
    pub(super) fn new(aggregate: &Aggregate) -> Self {
        match aggregate.function {
            AggregateFunction::Count => Accumulator::Count(0),
            AggregateFunction::Sum => Accumulator::Sum(0.0, 0),
            AggregateFunction::Avg => Accumulator::Average(0.0, 0),
            AggregateFunction::Min => Accumulator::Least(None),
            AggregateFunction::Max => Accumulator::Greatest(None),
        }
    }

    /// Bytes of its string.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Accumulator::Least(Some(Extreme::String(text))) | Accumulator::Greatest(Some(Extreme::String(text))) => {
                text.len()
            }
            _ => 0,
        }
    }

    /// Adds the value of one row: values of other types than the aggregate takes are left out.
    pub(super) fn add(&mut self, value: Option<&Value<'_>>) {
        match (self, value) {
            (Accumulator::Count(count), _) => *count += 1,
            (Accumulator::Sum(sum, count) | Accumulator::Average(sum, count), Some(Value::Number(number))) => {
                *sum += number;
                *count += 1;
            }
            (Accumulator::Least(least), Some(value)) => {
                let replaces = least.as_ref().is_none_or(|least| is_before(value, least));
                replace_if(least, replaces, value);
            }
            (Accumulator::Greatest(greatest), Some(value)) => {
                let replaces = greatest.as_ref().is_none_or(|greatest| is_after(value, greatest));
                replace_if(greatest, replaces, value);
            }
            _ => {}
        }
    }

    /// Adds the rows of another state of the same aggregate.
    pub(super) fn merge(&mut self, other: Accumulator) {
        match (self, other) {
            (Accumulator::Count(count), Accumulator::Count(more)) => *count = count.saturating_add(more),
            (Accumulator::Sum(sum, count), Accumulator::Sum(more, numbers))
            | (Accumulator::Average(sum, count), Accumulator::Average(more, numbers)) => {
                *sum += more;
                *count = count.saturating_add(numbers);
            }
            (Accumulator::Least(least), Accumulator::Least(Some(other)))
                if least.as_ref().is_none_or(|least| other < *least) =>
            {
                *least = Some(other);
            }
            (Accumulator::Greatest(greatest), Accumulator::Greatest(Some(other)))
                if greatest.as_ref().is_none_or(|greatest| other > *greatest) =>
            {
                *greatest = Some(other);
            }
            _ => {}
        }
    }

    /// The result; `None` without a value.
    pub(super) fn value(&self) -> Option<Json> {
        match self {
            Accumulator::Count(count) => Some(Json::from(*count)),
            Accumulator::Sum(_, 0) | Accumulator::Average(_, 0) => None,
            Accumulator::Sum(sum, _) => json_number(*sum),
            Accumulator::Average(sum, count) => json_number(sum / *count as f64),
            Accumulator::Least(extreme) | Accumulator::Greatest(extreme) => match extreme.as_ref()? {
                Extreme::Number(number) => json_number(*number),
                Extreme::String(text) => Some(Json::String(text.clone())),
            },
        }
    }
}

fn is_before(value: &Value<'_>, extreme: &Extreme) -> bool {
    match (value, extreme) {
        (Value::Number(number), Extreme::Number(least)) => number < least,
        (Value::String(text), Extreme::String(least)) => text.as_ref() < least.as_str(),
        (Value::Number(_), Extreme::String(_)) => true,
        _ => false,
    }
}

fn is_after(value: &Value<'_>, extreme: &Extreme) -> bool {
    match (value, extreme) {
        (Value::Number(number), Extreme::Number(greatest)) => number > greatest,
        (Value::String(text), Extreme::String(greatest)) => text.as_ref() > greatest.as_str(),
        (Value::String(_), Extreme::Number(_)) => true,
        _ => false,
    }
}

fn replace_if(extreme: &mut Option<Extreme>, replaces: bool, value: &Value<'_>) {
    match value {
        Value::Number(number) if replaces => *extreme = Some(Extreme::Number(*number)),
        Value::String(text) if replaces => *extreme = Some(Extreme::String(text.as_ref().to_owned())),
        _ => {}
    }
}
