//! The stored form of a twin (docs/storage.md, "Device state").
//!
//! Why a table of stamps: most properties were written by few writes, so that the metadata of a property costs one byte.
//! Invariants: a twin reads back as it was written; a value that cannot be read is an error, never an empty twin.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use holdfast_model::{UnixMillis, json};
use holdfast_proto::device::v1 as proto;
use prost::Message as _;
use serde_json::{Map, Value};
use thiserror::Error;

use super::document::{Section, Twin, with_version};
use super::property::{Property, Stamp};

/// The version of the value.
const VERSION: u32 = 1;

/// A stored twin that this version cannot read.
#[derive(Debug, Error)]
pub enum UnreadableTwin {
    /// Not a message of its kind.
    #[error("a stored twin is damaged")]
    Message(#[from] prost::DecodeError),
    /// Written by a later version.
    #[error("a stored twin has version {0}, this node reads {VERSION}")]
    Version(u32),
    /// The texts in it are no JSON.
    #[error("a stored twin contains no JSON")]
    Json(#[from] serde_json::Error),
    /// The texts in it are no texts.
    #[error("a stored twin is not UTF-8")]
    Text(#[from] std::str::Utf8Error),
    /// Its parts do not fit together.
    #[error("a stored twin contradicts itself")]
    Inconsistent,
}

impl Twin {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let stored = proto::StoredTwin {
            version: VERSION,
            twin_version: self.version,
            updated_ms: self.updated.0,
            oldest_kept: self.oldest_kept,
            tags: text(&self.tags),
            desired: Some(encode_section(&self.desired)),
            reported: Some(encode_section(&self.reported)),
        };
        stored.encode_to_vec()
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, UnreadableTwin> {
        let stored = proto::StoredTwin::decode(value)?;
        if stored.version != VERSION {
            return Err(UnreadableTwin::Version(stored.version));
        }
        Ok(Self {
            version: stored.twin_version,
            updated: UnixMillis(stored.updated_ms),
            oldest_kept: stored.oldest_kept,
            tags: parse(&stored.tags)?,
            desired: decode_section(stored.desired)?,
            reported: decode_section(stored.reported)?,
        })
    }
}

/// When tags or desired properties were written last; `None` when never, or when the value cannot be read.
pub(super) fn updated(value: &[u8]) -> Option<UnixMillis> {
    let stored = proto::StoredTwin::decode(value).ok();
    let stored = stored.filter(|stored| stored.version == VERSION && stored.updated_ms > 0)?;
    Some(UnixMillis(stored.updated_ms))
}

/// The values of a stored twin without their metadata.
#[derive(Debug)]
pub(crate) struct TwinValues {
    pub(crate) version: u64,
    pub(crate) tags: Map<String, Value>,
    /// With `$version`.
    pub(crate) desired: Value,
    pub(crate) reported: Value,
}

/// The members of tags or properties that a reader needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Members {
    /// Those with these names.
    Only(BTreeSet<String>),
    /// All.
    All,
}

impl Members {
    pub(crate) const NONE: Self = Self::Only(BTreeSet::new());

    fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(name),
            Self::All => true,
        }
    }
}

/// The values of a stored twin that a reader needs: the fewer, the faster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WantedValues {
    pub(crate) tags: Members,
    pub(crate) desired: Members,
    pub(crate) reported: Members,
}

/// The wanted values of a stored twin, much faster than the whole.
pub(crate) fn read_values(value: Bytes, wanted: &WantedValues) -> Result<TwinValues, UnreadableTwin> {
    let stored = proto::StoredTwinTexts::decode(value)?;
    if stored.version != VERSION {
        return Err(UnreadableTwin::Version(stored.version));
    }
    let section = |stored: Bytes, wanted: &Members| {
        if wanted.is_none() {
            return Ok(Value::Null);
        }
        let stored = proto::StoredTwinSectionText::decode(stored)?;
        Ok::<_, UnreadableTwin>(with_version(parse_members(&stored.properties, wanted)?, stored.version))
    };
    Ok(TwinValues {
        version: stored.twin_version,
        tags: parse_members(&stored.tags, &wanted.tags)?,
        desired: section(stored.desired, &wanted.desired)?,
        reported: section(stored.reported, &wanted.reported)?,
    })
}

fn parse_members(text: &[u8], wanted: &Members) -> Result<Map<String, Value>, UnreadableTwin> {
    if text.is_empty() || wanted.is_none() {
        return Ok(Map::new());
    }
    let text = std::str::from_utf8(text)?;
    Ok(json::parse_members(text, |name| wanted.contains(name))?)
}

/// Empty for an empty object.
pub(super) fn text(map: &Map<String, Value>) -> String {
    if map.is_empty() {
        return String::new();
    }
    Value::Object(map.clone()).to_string()
}

pub(super) fn parse(text: &str) -> Result<Map<String, Value>, UnreadableTwin> {
    if text.is_empty() {
        return Ok(Map::new());
    }
    match json::parse(text)? {
        Value::Object(map) => Ok(map),
        _ => Err(UnreadableTwin::Inconsistent),
    }
}

fn encode_section(section: &Section) -> proto::StoredTwinSection {
    let mut numbers = HashMap::new();
    let mut stored = proto::StoredTwinSection {
        version: section.version,
        properties: text(&section.root.to_map()),
        ..proto::StoredTwinSection::default()
    };
    section.root.walk(&mut |stamp| {
        let number = *numbers.entry(*stamp).or_insert_with(|| {
            stored.stamps.push(proto::StoredTwinStamp {
                time_ms: stamp.time.0,
                section_version: stamp.version,
            });
            stored.stamps.len() - 1
        });
        // As many as properties of 32 KiB.
        stored.stamp_of_node.push(u32::try_from(number).unwrap_or(u32::MAX));
    });
    stored
}

fn decode_section(stored: Option<proto::StoredTwinSection>) -> Result<Section, UnreadableTwin> {
    let stored = stored.ok_or(UnreadableTwin::Inconsistent)?;
    let mut root = Property::new(Value::Object(parse(&stored.properties)?), Stamp::default());
    let mut nodes = stored.stamp_of_node.iter();
    let mut is_consistent = true;
    root.walk_mut(&mut |stamp| {
        let number = nodes.next().and_then(|number| usize::try_from(*number).ok());
        match number.and_then(|number| stored.stamps.get(number)) {
            Some(stored) => {
                *stamp = Stamp {
                    time: UnixMillis(stored.time_ms),
                    version: stored.section_version,
                };
            }
            None => is_consistent = false,
        }
    });
    if !is_consistent || nodes.next().is_some() {
        return Err(UnreadableTwin::Inconsistent);
    }
    Ok(Section {
        version: stored.version,
        root,
    })
}
