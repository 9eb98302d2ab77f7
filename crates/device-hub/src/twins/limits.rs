//! The limits of a twin's sections, and the texts that say which one is exceeded, where and by how much
//! (Spec auth-and-limits §9.2).
//!
//! Invariants: a refused write has changed nothing; the path in a text is cut to a bounded length.

use holdfast_model::ErrorCode;
use holdfast_model::json::quoted;
use serde_json::{Map, Value};
use thiserror::Error;

/// Largest tags, in bytes as [`size`] counts them.
const MAX_TAGS_BYTES: usize = 8 * 1024;

/// Largest desired and reported properties, in bytes as [`size`] counts them.
const MAX_PROPERTIES_BYTES: usize = 32 * 1024;

/// Longest text of a value, in bytes.
const MAX_VALUE_BYTES: usize = 4 * 1024;

/// Longest key, in bytes.
const MAX_KEY_BYTES: usize = 1024;

/// Objects and arrays inside each other, the section itself not counted.
const MAX_DEPTH: usize = 10;

/// Integers are exact in a twin up to this magnitude.
const INTEGERS: std::ops::RangeInclusive<i64> = -(1 << 52)..=(1 << 52) - 1;

/// Characters of a path in an error text.
const MAX_PATH_CHARS: usize = 200;

/// A part of a twin that has its own limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionName {
    /// `tags`.
    Tags,
    /// `properties.desired`.
    Desired,
    /// `properties.reported`.
    Reported,
}

impl SectionName {
    fn max_bytes(self) -> usize {
        match self {
            Self::Tags => MAX_TAGS_BYTES,
            Self::Desired | Self::Reported => MAX_PROPERTIES_BYTES,
        }
    }

    /// Its path in the document.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Tags => "tags",
            Self::Desired => "properties.desired",
            Self::Reported => "properties.reported",
        }
    }
}

/// Why a write to a twin is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum TwinRefusal {
    #[error("the twin is not valid JSON: {0}")]
    Json(String),
    #[error("{0} must be a JSON object; arrays and plain values are not supported")]
    NotAnObject(&'static str),
    #[error("{path}: a key must not be empty")]
    EmptyKey { path: String },
    #[error(
        "{path}: the key has the character '{character}'; '.', '$', space and control characters are not allowed in keys"
    )]
    KeyCharacter { path: String, character: String },
    #[error("{path}: the key has {bytes} bytes, at most {MAX_KEY_BYTES} are allowed")]
    KeyLength { path: String, bytes: usize },
    #[error("{path}: the value has {bytes} bytes, at most {MAX_VALUE_BYTES} are allowed")]
    ValueLength { path: String, bytes: usize },
    #[error("{path}: {value} is outside the integers of a twin, {} to {}", INTEGERS.start(), INTEGERS.end())]
    Integer { path: String, value: String },
    #[error("{path}: more than {MAX_DEPTH} levels")]
    Depth { path: String },
    #[error("{section} would have {bytes} bytes, at most {limit} are allowed")]
    Size {
        section: &'static str,
        bytes: usize,
        limit: usize,
    },
    #[error("the ETag in If-Match is not that of the twin, which is {0}")]
    ETag(String),
    #[error("the reported properties have version {found}, not {expected}")]
    Version { found: u64, expected: u64 },
}

impl TwinRefusal {
    /// Its number for clients (Spec device-mqtt §7.2).
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Json(_) | Self::NotAnObject(_) => ErrorCode::IotHubFormatError,
            Self::EmptyKey { .. }
            | Self::KeyCharacter { .. }
            | Self::KeyLength { .. }
            | Self::ValueLength { .. }
            | Self::Integer { .. }
            | Self::Depth { .. } => ErrorCode::ArgumentInvalid,
            Self::Size { .. } => ErrorCode::MessageTooLarge,
            Self::ETag(_) | Self::Version { .. } => ErrorCode::PreconditionFailed,
        }
    }
}

/// Checks the keys and values of a patch or of new content. What is stored already has been checked before.
pub(crate) fn check(section: SectionName, content: &Map<String, Value>) -> Result<(), TwinRefusal> {
    Checked {
        section,
        path: Vec::new(),
    }
    .object(content)
}

/// Checks the size of a section after a write.
pub(crate) fn check_size(section: SectionName, bytes: usize) -> Result<(), TwinRefusal> {
    let limit = section.max_bytes();
    if bytes <= limit {
        return Ok(());
    }
    Err(TwinRefusal::Size {
        section: section.path(),
        bytes,
        limit,
    })
}

/// The bytes of a value: those of its keys and texts without control characters, 8 for a number, 4 for a boolean or null.
pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text_size(text),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| text_size(key) + size(value)).sum(),
    }
}

/// The bytes of a key or text without its control characters.
pub(crate) fn text_size(text: &str) -> usize {
    let control = text.chars().filter(|c| c.is_control()).map(char::len_utf8);
    text.len() - control.sum::<usize>()
}

/// A walk through new content.
struct Checked<'a> {
    section: SectionName,
    path: Vec<&'a str>,
}

impl<'a> Checked<'a> {
    fn object(&mut self, map: &'a Map<String, Value>) -> Result<(), TwinRefusal> {
        for (key, value) in map {
            self.path.push(key);
            self.key(key)?;
            self.value(value)?;
            self.path.pop();
        }
        Ok(())
    }

    fn key(&self, key: &str) -> Result<(), TwinRefusal> {
        let path = || self.text();
        if key.is_empty() {
            return Err(TwinRefusal::EmptyKey { path: path() });
        }
        if key.len() > MAX_KEY_BYTES {
            let bytes = key.len();
            return Err(TwinRefusal::KeyLength { path: path(), bytes });
        }
        let is_forbidden = |c: &char| matches!(c, '.' | '$' | ' ') || c.is_control();
        match key.chars().find(is_forbidden) {
            None => Ok(()),
            Some(character) => Err(TwinRefusal::KeyCharacter {
                path: path(),
                character: character.escape_debug().to_string(),
            }),
        }
    }

    fn value(&mut self, value: &'a Value) -> Result<(), TwinRefusal> {
        match value {
            Value::Null | Value::Bool(_) => Ok(()),
            Value::Number(number) => {
                let is_integer = number.is_i64() || number.is_u64();
                if is_integer && !number.as_i64().is_some_and(|number| INTEGERS.contains(&number)) {
                    let value = number.to_string();
                    return Err(TwinRefusal::Integer {
                        path: self.text(),
                        value,
                    });
                }
                Ok(())
            }
            Value::String(text) if text.len() > MAX_VALUE_BYTES => Err(TwinRefusal::ValueLength {
                path: self.text(),
                bytes: text.len(),
            }),
            Value::String(_) => Ok(()),
            Value::Object(map) => {
                self.depth()?;
                self.object(map)
            }
            Value::Array(items) => {
                self.depth()?;
                for item in items {
                    self.path.push("[]");
                    self.value(item)?;
                    self.path.pop();
                }
                Ok(())
            }
        }
    }

    fn depth(&self) -> Result<(), TwinRefusal> {
        if self.path.len() > MAX_DEPTH {
            return Err(TwinRefusal::Depth { path: self.text() });
        }
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = self.section.path().to_owned();
        for part in &self.path {
            if text.len() > MAX_PATH_CHARS {
                text.push('…');
                break;
            }
            text.push('.');
            text.push_str(quoted(part).trim_matches('\''));
        }
        text
    }
}
