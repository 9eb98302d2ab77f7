//! The index that answers a part of a condition, and what is searched in it. Pure.

use std::collections::BTreeMap;

use holdfast_model::json;
use holdfast_partition::state::ValueSelection;
use holdfast_query::{Collection, CompareOperator, Constant, Field, Lookup, Path, Query, Root, Segment, Value};
use holdfast_registry::TwinSeed;

use super::TwinIndexes;
use super::encode::{FALSE, NULL, NUMBER, STRING, encode, string_begin, successor};
use super::indexer::{DEVICE, MODULE};

/// The most values that are searched: each is searched in each partition.
const MAX_VALUES: usize = 128;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::queries) struct IndexChoice {
    /// The name of the index.
    pub(in crate::queries) name: String,
    path: Path,
    collection: u8,
    pub(super) selection: ValueSelection,
}

impl IndexChoice {
    /// The index for a query. One that answers an equality is preferred, since its hits come in the order of ids.
    pub(in crate::queries) fn of(query: &Query, declared: &TwinIndexes) -> Option<Self> {
        if declared.is_empty() {
            return None;
        }
        let collection = match query.collection {
            Collection::Devices => DEVICE,
            Collection::Modules => MODULE,
        };
        let lookups = query.lookups();
        let choose = |path: &Path, selection| {
            Some(Self {
                name: declared.name_of(path)?,
                path: path.clone(),
                collection,
                selection: of_collection(collection, selection),
            })
        };
        let equality = lookups.iter().find_map(|lookup| match lookup {
            Lookup::Equals(path, values) if values.len() <= MAX_VALUES => choose(path, one_of(values)),
            _ => None,
        });
        equality.or_else(|| {
            let path = lookups.iter().find_map(|lookup| match lookup {
                Lookup::Equals(..) => None,
                Lookup::StartsWith(path, _) | Lookup::Compares(path, ..) => declared.name_of(path).map(|_| *path),
            })?;
            let of_path = lookups.iter().filter(|lookup| lookup.path() == path);
            let ranges: Vec<ValueSelection> = of_path.filter_map(range).collect();
            choose(path, ranges.into_iter().reduce(both)?)
        })
    }

    /// Whether an identity with this content, whose twin was never written, may be selected.
    pub(super) fn may_select(&self, seed: &TwinSeed) -> bool {
        let (text, rest) = match (&self.path.root, self.path.rest.as_slice()) {
            (Root::Field(Field::Tags), rest) => (&seed.tags, rest),
            (Root::Field(Field::Properties), [Segment::Key(section), rest @ ..]) if section == "desired" => {
                (&seed.desired, rest)
            }
            (Root::Field(Field::Properties), [Segment::Key(section), rest @ ..]) if section == "reported" => {
                (&seed.reported, rest)
            }
            _ => return false,
        };
        let Some(text) = text else { return false };
        // Unreadable content is evaluated, which says so.
        let Ok(content) = json::parse(text) else { return true };
        let value = encode(&Value::at(&content, rest));
        value.is_some_and(|value| self.has(&[&[self.collection][..], &value].concat()))
    }

    /// Whether its hits come in the order of ids.
    pub(super) fn is_ordered(&self) -> bool {
        matches!(self.selection, ValueSelection::OneOf(_))
    }

    fn has(&self, value: &[u8]) -> bool {
        match &self.selection {
            ValueSelection::OneOf(values) => values.iter().any(|known| known == value),
            ValueSelection::Between(from, to) => *value >= from[..] && *value < to[..],
        }
    }
}

fn nothing() -> ValueSelection {
    ValueSelection::OneOf(Vec::new())
}

fn of_collection(collection: u8, selection: ValueSelection) -> ValueSelection {
    let within = |value: Vec<u8>| [&[collection][..], &value].concat();
    match selection {
        ValueSelection::OneOf(values) => ValueSelection::OneOf(values.into_iter().map(within).collect()),
        ValueSelection::Between(from, to) => ValueSelection::Between(within(from), within(to)),
    }
}

fn one_of(constants: &[&Constant]) -> ValueSelection {
    let values = constants.iter().filter_map(|constant| encode(&Value::from(*constant)));
    // Sorted, and each once.
    let values: BTreeMap<Vec<u8>, ()> = values.map(|value| (value, ())).collect();
    ValueSelection::OneOf(values.into_keys().collect())
}

/// The values of a lookup, as one range.
fn range(lookup: &Lookup<'_>) -> Option<ValueSelection> {
    Some(match lookup {
        Lookup::Equals(..) => return None,
        Lookup::StartsWith(_, prefix) => {
            let begin = string_begin(prefix);
            let end = successor(&begin);
            ValueSelection::Between(begin, end)
        }
        Lookup::Compares(_, operator, constant) => {
            let Some(value) = encode(&Value::from(*constant)) else {
                return Some(nothing());
            };
            // The begin of the values of the constant's type, and that of the next type.
            let (first, last) = match constant {
                Constant::Undefined => return Some(nothing()),
                Constant::Null => (NULL, FALSE),
                Constant::Bool(_) => (FALSE, NUMBER),
                Constant::Number(_) => (NUMBER, STRING),
                Constant::String(_) => (STRING, STRING + 1),
            };
            // Both ends belong to it: the condition is evaluated on each hit.
            match operator {
                CompareOperator::Less | CompareOperator::LessOrEqual => {
                    ValueSelection::Between(vec![first], successor(&value))
                }
                CompareOperator::Greater | CompareOperator::GreaterOrEqual => {
                    ValueSelection::Between(value, vec![last])
                }
                CompareOperator::Equal | CompareOperator::NotEqual => return None,
            }
        }
    })
}

/// The values that are in both.
fn both(one: ValueSelection, other: ValueSelection) -> ValueSelection {
    match (one, other) {
        (ValueSelection::Between(from, to), ValueSelection::Between(other_from, other_to)) => {
            let (from, to) = (from.max(other_from), to.min(other_to));
            if from < to {
                ValueSelection::Between(from, to)
            } else {
                nothing()
            }
        }
        // There are no others here than those that find nothing.
        _ => nothing(),
    }
}
