//! Reads the writes that clients send, and checks what needs no stored twin.

use holdfast_model::json;
use serde_json::{Map, Value};

use super::limits::{self, SectionName, TwinRefusal};

/// A checked write to one section.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SectionWrite {
    /// A JSON merge patch.
    Merge(Map<String, Value>),
    /// New content in place of the old one.
    Replace(Map<String, Value>),
}

/// How tags and desired properties are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Sections that are given are merged; `null` for a key removes it, `null` for a section empties it.
    Merge,
    /// Sections that are given replace the old ones; `null` empties a section.
    Replace,
}

impl SectionWrite {
    /// As a merge patch of `content`: new content in place of the old one becomes a null per key that it lacks.
    pub(crate) fn into_merge_of(self, content: &Map<String, Value>) -> Self {
        match self {
            Self::Merge(patch) => Self::Merge(patch),
            Self::Replace(next) => {
                let removed = content.keys().filter(|key| !next.contains_key(*key));
                let mut patch: Map<String, Value> = removed.map(|key| (key.clone(), Value::Null)).collect();
                patch.extend(next);
                Self::Merge(patch)
            }
        }
    }

    /// Reads the JSON text of a section.
    pub(crate) fn parse(section: SectionName, mode: WriteMode, text: &str) -> Result<Self, TwinRefusal> {
        let value = json::parse(text).map_err(|error| TwinRefusal::Json(error.to_string()))?;
        match value {
            Value::Null => Ok(Self::Replace(Map::new())),
            Value::Object(content) => {
                let content = accepted(section, content)?;
                Ok(match mode {
                    WriteMode::Merge => Self::Merge(content),
                    WriteMode::Replace => Self::Replace(content),
                })
            }
            _ => Err(TwinRefusal::NotAnObject(section.path())),
        }
    }
}

/// Reads a device's patch of its reported properties.
pub(crate) fn parse_reported(body: &[u8]) -> Result<Map<String, Value>, TwinRefusal> {
    let text = std::str::from_utf8(body).map_err(|_| TwinRefusal::Json("it is not UTF-8 text".to_owned()))?;
    match SectionWrite::parse(SectionName::Reported, WriteMode::Merge, text)? {
        SectionWrite::Merge(patch) => Ok(patch),
        // A device that sends `null` has lost its patch.
        SectionWrite::Replace(_) => Err(TwinRefusal::NotAnObject(SectionName::Reported.path())),
    }
}

/// Clients send whole sections back as they have read them: `$version` and `$metadata` are the hub's.
fn accepted(section: SectionName, mut content: Map<String, Value>) -> Result<Map<String, Value>, TwinRefusal> {
    content.shift_remove("$version");
    content.shift_remove("$metadata");
    limits::check(section, &content)?;
    Ok(content)
}
