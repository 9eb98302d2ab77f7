//! Properties as a tree whose nodes know when they were written last (Spec rest §3).
//!
//! Invariants: an array is one property; an object is as new as its newest part; keys are in the order of their bytes, so
//! that equal properties are stored as equal bytes.

use std::collections::BTreeMap;

use holdfast_model::{UnixMillis, round_trip};
use serde_json::{Map, Value, json};

use super::limits::{size, text_size};

/// The time of an event that has never happened (Spec rest §1.5).
const NEVER: &str = "0001-01-01T00:00:00Z";

/// When a property was written last, and the version of its section that this made; 0: since the creation of the twin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Stamp {
    pub(crate) time: UnixMillis,
    pub(crate) version: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Property {
    pub(crate) stamp: Stamp,
    pub(crate) value: PropertyValue,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PropertyValue {
    /// Anything but an object.
    Leaf(Value),
    Object(BTreeMap<String, Property>),
}

impl Property {
    pub(crate) fn empty(stamp: Stamp) -> Self {
        Self {
            stamp,
            value: PropertyValue::Object(BTreeMap::new()),
        }
    }

    /// A new property. `null` in an object means that the key is not there.
    pub(crate) fn new(value: Value, stamp: Stamp) -> Self {
        let value = match value {
            Value::Object(map) => {
                let present = map.into_iter().filter(|(_, value)| !value.is_null());
                PropertyValue::Object(present.map(|(key, value)| (key, Self::new(value, stamp))).collect())
            }
            leaf => PropertyValue::Leaf(leaf),
        };
        Self { stamp, value }
    }

    /// Applies a merge patch (RFC 7396): `null` removes a key, objects merge, anything else replaces.
    pub(crate) fn merge(&mut self, patch: Map<String, Value>, stamp: Stamp) {
        self.stamp = stamp;
        if let PropertyValue::Leaf(_) = self.value {
            self.value = PropertyValue::Object(BTreeMap::new());
        }
        let PropertyValue::Object(children) = &mut self.value else {
            return;
        };
        for (key, value) in patch {
            match value {
                Value::Null => {
                    children.remove(&key);
                }
                Value::Object(inner) => {
                    let child = children.entry(key).or_insert_with(|| Self::empty(stamp));
                    child.merge(inner, stamp);
                }
                leaf => {
                    children.insert(key, Self::new(leaf, stamp));
                }
            }
        }
    }

    /// Its size as the limits count it.
    pub(crate) fn size(&self) -> usize {
        match &self.value {
            PropertyValue::Leaf(value) => size(value),
            PropertyValue::Object(children) => children.iter().map(|(key, child)| text_size(key) + child.size()).sum(),
        }
    }

    /// The value alone.
    pub(crate) fn to_value(&self) -> Value {
        match &self.value {
            PropertyValue::Leaf(value) => value.clone(),
            PropertyValue::Object(_) => Value::Object(self.to_map()),
        }
    }

    /// The properties of an object.
    pub(crate) fn to_map(&self) -> Map<String, Value> {
        match &self.value {
            PropertyValue::Leaf(_) => Map::new(),
            PropertyValue::Object(children) => children
                .iter()
                .map(|(key, child)| (key.clone(), child.to_value()))
                .collect(),
        }
    }

    /// Its `$metadata`; with `within`, only of the keys of that patch.
    pub(crate) fn metadata(&self, names_versions: bool, within: Option<&Map<String, Value>>) -> Value {
        let mut metadata = Map::new();
        metadata.insert("$lastUpdated".to_owned(), json!(time(self.stamp.time)));
        if names_versions && self.stamp.version > 0 {
            metadata.insert("$lastUpdatedVersion".to_owned(), json!(self.stamp.version));
        }
        if let PropertyValue::Object(children) = &self.value {
            for (key, child) in children {
                let inner = match within.map(|within| within.get(key)) {
                    Some(None) => continue,
                    Some(Some(Value::Object(inner))) => Some(inner),
                    Some(Some(_)) | None => None,
                };
                metadata.insert(key.clone(), child.metadata(names_versions, inner));
            }
        }
        Value::Object(metadata)
    }

    /// Calls `visit` for every node, parents before their children, in the order of the keys.
    pub(crate) fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Stamp)) {
        visit(&self.stamp);
        if let PropertyValue::Object(children) = &self.value {
            for child in children.values() {
                child.walk(visit);
            }
        }
    }

    /// As [`Self::walk`], to change the stamps.
    pub(crate) fn walk_mut(&mut self, visit: &mut impl FnMut(&mut Stamp)) {
        visit(&mut self.stamp);
        if let PropertyValue::Object(children) = &mut self.value {
            for child in children.values_mut() {
                child.walk_mut(visit);
            }
        }
    }
}

/// A time as documents show it.
pub(crate) fn time(time: UnixMillis) -> String {
    let ms = i64::try_from(time.0).ok().filter(|ms| *ms > 0);
    ms.and_then(round_trip).unwrap_or_else(|| NEVER.to_owned())
}
