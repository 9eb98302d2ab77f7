//! Earlier versions of tags and desired properties, for `holdfast twin history` and for devices that were away.
//!
//! Why only these: what a device reports is its own record, and would push out what back ends have changed.
//! Invariants: a version is stored when the next one replaces it, so that a twin that rests costs nothing; at most
//! `twins.history_versions` of them are shown, and what is beyond is removed with later writes.

use std::ops::Range;

use holdfast_model::UnixMillis;
use holdfast_proto::device::v1 as proto;
use prost::Message as _;
use serde_json::{Map, Value, json};

use super::document::{Twin, etag, with_version};
use super::property::time;
use super::stored::{UnreadableTwin, parse, text};

/// The version of the values.
const VERSION: u32 = 1;

/// Versions that one write removes at most: a smaller limit takes effect step by step.
const MAX_REMOVALS: u64 = 16;

/// A version of tags and desired properties.
#[derive(Debug, Clone, PartialEq)]
pub struct TwinVersion {
    /// The version of the twin.
    pub version: u64,
    /// When it was written; 0: with the creation of the identity.
    pub updated: UnixMillis,
    tags: Map<String, Value>,
    desired: Map<String, Value>,
    desired_version: u64,
}

impl TwinVersion {
    pub(crate) fn of(twin: &Twin) -> Self {
        Self {
            version: twin.version,
            updated: twin.updated,
            tags: twin.tags.clone(),
            desired: twin.desired.root.to_map(),
            desired_version: twin.desired.version,
        }
    }

    /// `{"version","etag","updatedTime","tags","desired"}`.
    #[must_use]
    pub fn document(&self) -> Value {
        json!({
            "version": self.version,
            "etag": etag(self.version),
            "updatedTime": time(self.updated),
            "tags": self.tags,
            "desired": with_version(self.desired.clone(), self.desired_version),
        })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let stored = proto::StoredTwinVersion {
            version: VERSION,
            twin_version: self.version,
            updated_ms: self.updated.0,
            tags: text(&self.tags),
            desired: text(&self.desired),
            desired_version: self.desired_version,
        };
        stored.encode_to_vec()
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, UnreadableTwin> {
        let stored = proto::StoredTwinVersion::decode(value)?;
        if stored.version != VERSION {
            return Err(UnreadableTwin::Version(stored.version));
        }
        Ok(Self {
            version: stored.twin_version,
            updated: UnixMillis(stored.updated_ms),
            tags: parse(&stored.tags)?,
            desired: parse(&stored.desired)?,
            desired_version: stored.desired_version,
        })
    }
}

/// The item of a version's key.
pub(crate) fn item(version: u64) -> [u8; 8] {
    version.to_be_bytes()
}

/// The versions before `twin` that may be stored and are within the limit.
pub(crate) fn kept(twin: &Twin, limit: u64) -> Range<u64> {
    twin.oldest_kept.max(twin.version.saturating_sub(limit))..twin.version
}

/// The versions to remove when `twin` becomes the newest; it is changed to know about them.
pub(crate) fn removed(twin: &mut Twin, limit: u64) -> Range<u64> {
    let first = twin.oldest_kept;
    let end = twin.version.saturating_sub(limit).max(first);
    let end = end.min(first.saturating_add(MAX_REMOVALS));
    twin.oldest_kept = end;
    first..end
}
