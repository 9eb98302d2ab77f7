//! Groups as bytes, for the way from an owner to the coordinator.
//!
//! Format: JSON `[ceiling, [[key, [value, …]], …]]`. Floats are the bits of the number, so that none is rounded.
//! Invariant: what is read fits the query, or is refused.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::accumulator::{Accumulator, Extreme};
use super::{GroupKey, Groups, aggregates};
use crate::Query;

/// Bytes that are no groups of the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the groups of another node do not fit the query")]
pub struct InvalidGroups;

impl Groups {
    /// The groups as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let groups = self.groups.iter().map(|(key, values)| {
            let values = values.iter().map(written).collect();
            json!([key.0, Json::Array(values)])
        });
        let ceiling = self.ceiling.as_ref().map(|ceiling| ceiling.0.as_str());
        json!([ceiling, groups.collect::<Vec<_>>()]).to_string().into_bytes()
    }

    /// The groups of `query` in `bytes`.
    ///
    /// # Errors
    /// [`InvalidGroups`] unless they are of this query.
    pub fn from_bytes(bytes: &[u8], query: &Query) -> Result<Self, InvalidGroups> {
        let json: Json = serde_json::from_slice(bytes).map_err(|_| InvalidGroups)?;
        let [ceiling, Json::Array(list)] = json.as_array().map(Vec::as_slice).ok_or(InvalidGroups)? else {
            return Err(InvalidGroups);
        };
        let ceiling = match ceiling {
            Json::Null => None,
            Json::String(key) => Some(GroupKey(key.clone())),
            _ => return Err(InvalidGroups),
        };
        let mut groups = BTreeMap::new();
        for group in list {
            let (key, values) = read_group(group, query).ok_or(InvalidGroups)?;
            groups.insert(key, values);
        }
        Ok(Self { groups, ceiling })
    }
}

fn read_group(json: &Json, query: &Query) -> Option<(GroupKey, Vec<Accumulator>)> {
    let [Json::String(key), Json::Array(list)] = json.as_array()?.as_slice() else {
        return None;
    };
    let mut list = list.iter();
    let mut values = Vec::new();
    for aggregate in aggregates(query) {
        let mut accumulator = Accumulator::new(aggregate);
        read(&mut accumulator, list.next()?)?;
        values.push(accumulator);
    }
    list.next().is_none().then(|| (GroupKey(key.clone()), values))
}

fn written(accumulator: &Accumulator) -> Json {
    match accumulator {
        Accumulator::Count(count) => json!(count),
        Accumulator::Sum(sum, count) | Accumulator::Average(sum, count) => json!([sum.to_bits(), count]),
        Accumulator::Least(extreme) | Accumulator::Greatest(extreme) => match extreme {
            None => Json::Null,
            Some(Extreme::Number(number)) => json!(number.to_bits()),
            Some(Extreme::String(text)) => json!(text),
        },
    }
}

fn read(accumulator: &mut Accumulator, json: &Json) -> Option<()> {
    match accumulator {
        Accumulator::Count(count) => *count = json.as_u64()?,
        Accumulator::Sum(sum, count) | Accumulator::Average(sum, count) => {
            let [bits, numbers] = json.as_array()?.as_slice() else {
                return None;
            };
            *sum = f64::from_bits(bits.as_u64()?);
            *count = numbers.as_u64()?;
        }
        Accumulator::Least(extreme) | Accumulator::Greatest(extreme) => {
            *extreme = match json {
                Json::Null => None,
                Json::String(text) => Some(Extreme::String(text.clone())),
                other => Some(Extreme::Number(
                    Some(f64::from_bits(other.as_u64()?)).filter(|number| !number.is_nan())?,
                )),
            }
        }
    }
    Some(())
}
