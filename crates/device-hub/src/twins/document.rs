//! A twin: tags, desired and reported properties, and their versions (Spec rest §3).
//!
//! Invariants: a version only grows, by one with each write, also with one that changes nothing; the twin's version counts
//! the writes to tags and desired properties; a refused write changes nothing.
//! Not here: the identity's fields of the document (`service-api`), the stored form ([`super::stored`]).

use data_encoding::BASE64;
use holdfast_model::{GenerationId, UnixMillis};
use serde_json::{Map, Value, json};

use super::limits::{self, SectionName, TwinRefusal};
use super::patch::SectionWrite;
use super::property::{Property, Stamp};

/// .NET ticks (100 ns) between year 1 and 1970, and of a millisecond: a generation is the time of its creation in ticks.
const TICKS_TO_1970: u64 = 621_355_968_000_000_000;
const TICKS_PER_MILLISECOND: u64 = 10_000;

/// The twin of one generation of a device or module.
#[derive(Debug, Clone, PartialEq)]
pub struct Twin {
    /// Counts the writes to tags and desired properties.
    pub version: u64,
    /// When tags or desired properties were written last; 0 when never.
    pub updated: UnixMillis,
    /// The oldest version that the history may still contain.
    pub(crate) oldest_kept: u64,
    pub(crate) tags: Map<String, Value>,
    pub(crate) desired: Section,
    pub(crate) reported: Section,
}

/// Desired or reported properties.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Section {
    pub(crate) version: u64,
    pub(crate) root: Property,
}

impl Section {
    fn empty(created: UnixMillis) -> Self {
        let stamp = Stamp {
            time: created,
            version: 0,
        };
        Self {
            version: 1,
            root: Property::empty(stamp),
        }
    }

    fn write(&mut self, write: SectionWrite, now: UnixMillis) {
        self.version += 1;
        let stamp = Stamp {
            time: now,
            version: self.version,
        };
        match write {
            SectionWrite::Merge(patch) => self.root.merge(patch, stamp),
            SectionWrite::Replace(content) => self.root = Property::new(Value::Object(content), stamp),
        }
    }

    /// Its properties and `$version`, as devices see it.
    pub(crate) fn to_value(&self) -> Value {
        with_version(self.root.to_map(), self.version)
    }

    /// Its properties, `$metadata` and `$version`, as back ends see it.
    fn document(&self, names_versions: bool) -> Value {
        let mut section = self.root.to_map();
        section.insert("$metadata".to_owned(), self.root.metadata(names_versions, None));
        with_version(section, self.version)
    }

    /// The part of a change event: the patch, the metadata of its keys, `$version` (Spec query-and-routing §14).
    fn event(&self, patch: &Map<String, Value>, names_versions: bool) -> Value {
        let mut section = patch.clone();
        section.insert("$metadata".to_owned(), self.root.metadata(names_versions, Some(patch)));
        with_version(section, self.version)
    }
}

/// Adds `$version` to properties.
pub(crate) fn with_version(mut properties: Map<String, Value>, version: u64) -> Value {
    properties.insert("$version".to_owned(), json!(version));
    Value::Object(properties)
}

impl Twin {
    /// The twin of an identity whose twin has never been written.
    pub(crate) fn empty(generation: &GenerationId) -> Self {
        let created = created(generation);
        Self {
            version: 1,
            updated: UnixMillis(0),
            oldest_kept: 1,
            tags: Map::new(),
            desired: Section::empty(created),
            reported: Section::empty(created),
        }
    }

    /// Writes tags and desired properties.
    pub(crate) fn write(
        &mut self,
        tags: Option<SectionWrite>,
        desired: Option<SectionWrite>,
        now: UnixMillis,
    ) -> Result<(), TwinRefusal> {
        let mut next = self.clone();
        next.version += 1;
        next.updated = now;
        if let Some(write) = tags {
            // Tags have no metadata; a property tree merges them all the same.
            let mut root = Property::new(Value::Object(std::mem::take(&mut next.tags)), Stamp::default());
            match write {
                SectionWrite::Merge(patch) => root.merge(patch, Stamp::default()),
                SectionWrite::Replace(content) => root = Property::new(Value::Object(content), Stamp::default()),
            }
            limits::check_size(SectionName::Tags, root.size())?;
            next.tags = root.to_map();
        }
        if let Some(write) = desired {
            next.desired.write(write, now);
            limits::check_size(SectionName::Desired, next.desired.root.size())?;
        }
        *self = next;
        Ok(())
    }

    /// Merges a patch into the reported properties.
    pub(crate) fn report(&mut self, patch: Map<String, Value>, now: UnixMillis) -> Result<(), TwinRefusal> {
        let mut reported = self.reported.clone();
        reported.write(SectionWrite::Merge(patch), now);
        limits::check_size(SectionName::Reported, reported.root.size())?;
        self.reported = reported;
        Ok(())
    }

    /// The tag of the twin: a counter of 8 bytes, big endian, in base64, without quotes (Spec rest §1.4).
    #[must_use]
    pub fn etag(&self) -> String {
        etag(self.version)
    }

    /// `$version` of the desired properties.
    #[must_use]
    pub fn desired_version(&self) -> u64 {
        self.desired.version
    }

    /// `$version` of the reported properties.
    #[must_use]
    pub fn reported_version(&self) -> u64 {
        self.reported.version
    }

    /// The tags.
    #[must_use]
    pub fn tags(&self) -> &Map<String, Value> {
        &self.tags
    }

    /// `properties` of the document, metadata included.
    #[must_use]
    pub fn properties(&self) -> Value {
        json!({"desired": self.desired.document(true), "reported": self.reported.document(false)})
    }

    /// The device's own view: properties and versions, without tags and metadata (Spec device-mqtt §7.1).
    #[must_use]
    pub fn device_view(&self) -> Value {
        json!({"desired": self.desired.to_value(), "reported": self.reported.to_value()})
    }

    /// The desired properties and their `$version`.
    #[must_use]
    pub fn desired_view(&self) -> Value {
        self.desired.to_value()
    }

    /// The body of a change event for patches that have been applied.
    pub(crate) fn patch_event(
        &self,
        tags: Option<&Map<String, Value>>,
        desired: Option<&Map<String, Value>>,
        reported: Option<&Map<String, Value>>,
    ) -> Value {
        let mut body = Map::new();
        body.insert("version".to_owned(), json!(self.version));
        if let Some(patch) = tags {
            body.insert("tags".to_owned(), Value::Object(patch.clone()));
        }
        let mut properties = Map::new();
        if let Some(patch) = desired {
            properties.insert("desired".to_owned(), self.desired.event(patch, true));
        }
        if let Some(patch) = reported {
            properties.insert("reported".to_owned(), self.reported.event(patch, false));
        }
        if !properties.is_empty() {
            body.insert("properties".to_owned(), Value::Object(properties));
        }
        Value::Object(body)
    }
}

/// The tag of a version of a twin.
pub(crate) fn etag(version: u64) -> String {
    BASE64.encode(&version.to_be_bytes())
}

/// When a generation was created; 0 when its text is not a time.
fn created(generation: &GenerationId) -> UnixMillis {
    let ticks = generation.0.parse::<u64>().ok();
    let since_1970 = ticks.and_then(|ticks| ticks.checked_sub(TICKS_TO_1970));
    UnixMillis(since_1970.map_or(0, |ticks| ticks / TICKS_PER_MILLISECOND))
}
