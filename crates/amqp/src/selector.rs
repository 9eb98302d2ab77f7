//! The start position of an Event Hubs reader: the predicate in its source filter (Spec amqp §8.3).
//!
//! Invariant: a filter is identified by its descriptor (AMQP 1.0 §3.5.8), since clients choose its key in the map freely:
//! Proton writes `selector`, rhea's helper `jms-selector`.

use thiserror::Error;

use crate::error::DecodeError;
use crate::types::{Map, MapWriter, Raw, Value, put_str, put_symbol};

/// The symbolic descriptor of the filter, and its key in the map of most clients.
pub const SELECTOR_FILTER: &str = "apache.org:selector-filter:string";
/// The numeric descriptors of the filter: the registered one, and the one of .NET's Event Hubs clients.
const NUMERIC_DESCRIPTORS: [u64; 2] = [0x0000_468c_0000_0004, 0x0000_0013_7000_000a];

/// The start that a source's filters ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The start position.
    pub start: Start,
    /// The filters that the start applies, as an encoded map for [`crate::Accept::filter`]; `None` without a selector.
    pub in_place: Option<Vec<u8>>,
}

/// The place in a partition at which a receiver starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The oldest retained event.
    Oldest,
    /// Only events enqueued after the attach.
    Latest,
    /// After, or with `inclusive` at, an offset.
    Offset {
        /// As in `x-opt-offset`.
        offset: u64,
        /// Whether the event there belongs to it.
        inclusive: bool,
    },
    /// After, or with `inclusive` at, a sequence number.
    Sequence {
        /// As in `x-opt-sequence-number`.
        number: u64,
        /// Whether the event there belongs to it.
        inclusive: bool,
    },
    /// The first event enqueued later than, or with `inclusive` not before, a time.
    Enqueued {
        /// Milliseconds since 1970.
        millis: i64,
        /// Whether an event of that very time belongs to it.
        inclusive: bool,
    },
}

/// A selector that is not supported; refused with `com.microsoft:argument-error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidSelector {
    /// The filter map or the described string in it cannot be decoded.
    #[error("the filter cannot be decoded")]
    Decode(#[from] DecodeError),
    /// The filter is not a string.
    #[error("the filter is not a string")]
    NotText,
    /// It is not `amqp.annotation.<key> > 'value'` or the same with `>=`.
    #[error("the filter is not of the form amqp.annotation.<key> > 'value'")]
    Form,
    /// Events are not indexed by the annotation.
    #[error("events can be selected only by x-opt-offset, x-opt-sequence-number or x-opt-enqueued-time")]
    UnknownKey,
    /// Two predicates cannot both be the start.
    #[error("there is more than one selector filter")]
    Several,
    /// The value is not a number in range.
    #[error("the value of the filter is not a position")]
    Value,
}

/// The start that a source's filters ask for; without a selector the oldest event. Other filters are not applied, and so
/// are not in [`Selection::in_place`].
///
/// # Errors
/// [`InvalidSelector`].
pub fn from_filters(filters: Map<'_>) -> Result<Selection, InvalidSelector> {
    let mut found = None;
    for pair in filters.iter() {
        let (key, raw) = pair?;
        let value = raw.value()?;
        if !is_selector(key, &value)? {
            continue;
        }
        let text = match value {
            Value::Described(_, value) => value.value()?.text(),
            value => value.text(),
        };
        let start = parse(text.ok_or(InvalidSelector::NotText)?)?;
        if found.replace((start, key, raw)).is_some() {
            return Err(InvalidSelector::Several);
        }
    }
    let Some((start, key, value)) = found else {
        return Ok(Selection {
            start: Start::Oldest,
            in_place: None,
        });
    };
    let mut in_place = Vec::new();
    let mut map = MapWriter::begin(&mut in_place);
    map.add_encoded(1, &[key.bytes(), value.bytes()].concat());
    map.finish();
    Ok(Selection {
        start,
        in_place: Some(in_place),
    })
}

/// Whether an entry of a filter map is a selector: by descriptor, or an undescribed or unknown value under the usual key.
fn is_selector(key: Raw<'_>, value: &Value<'_>) -> Result<bool, DecodeError> {
    if *value == Value::Null {
        return Ok(false);
    }
    if key.value()?.text() == Some(SELECTOR_FILTER) {
        return Ok(true);
    }
    let Value::Described(descriptor, _) = value else {
        return Ok(false);
    };
    let descriptor = descriptor.value()?;
    Ok(descriptor.text() == Some(SELECTOR_FILTER)
        || descriptor
            .unsigned()
            .is_some_and(|code| NUMERIC_DESCRIPTORS.contains(&code)))
}

/// Parses a selector expression; spaces are free, quotes optional.
///
/// # Errors
/// [`InvalidSelector`].
pub fn parse(expression: &str) -> Result<Start, InvalidSelector> {
    let rest = expression
        .trim()
        .strip_prefix("amqp.annotation.")
        .ok_or(InvalidSelector::Form)?;
    let (key, rest) = rest.split_once('>').ok_or(InvalidSelector::Form)?;
    let (inclusive, rest) = rest.strip_prefix('=').map_or((false, rest), |rest| (true, rest));
    let value = unquote(rest.trim())?;
    match key.trim_end() {
        "x-opt-offset" => number(value, |offset| Start::Offset { offset, inclusive }),
        "x-opt-sequence-number" => number(value, |number| Start::Sequence { number, inclusive }),
        "x-opt-enqueued-time" | "x-opt-enqueuedtimeutc" => {
            let millis = value.parse().map_err(|_| InvalidSelector::Value)?;
            Ok(Start::Enqueued { millis, inclusive })
        }
        _ => Err(InvalidSelector::UnknownKey),
    }
}

fn unquote(text: &str) -> Result<&str, InvalidSelector> {
    for quote in ['\'', '"'] {
        if let Some(rest) = text.strip_prefix(quote) {
            return rest.strip_suffix(quote).ok_or(InvalidSelector::Form);
        }
    }
    Ok(text)
}

fn number(value: &str, start: impl FnOnce(u64) -> Start) -> Result<Start, InvalidSelector> {
    match value {
        "-1" => Ok(Start::Oldest),
        "@latest" => Ok(Start::Latest),
        // `parse` alone would take a leading plus.
        _ if value.starts_with('+') => Err(InvalidSelector::Value),
        _ => value.parse().map(start).map_err(|_| InvalidSelector::Value),
    }
}

/// The selector expression for a start, as a client.
#[must_use]
pub fn expression(start: Start) -> String {
    let operator = |inclusive| if inclusive { ">=" } else { ">" };
    match start {
        Start::Oldest => "amqp.annotation.x-opt-offset > '-1'".to_owned(),
        Start::Latest => "amqp.annotation.x-opt-offset > '@latest'".to_owned(),
        Start::Offset { offset, inclusive } => {
            format!("amqp.annotation.x-opt-offset {} '{offset}'", operator(inclusive))
        }
        Start::Sequence { number, inclusive } => {
            format!(
                "amqp.annotation.x-opt-sequence-number {} '{number}'",
                operator(inclusive)
            )
        }
        Start::Enqueued { millis, inclusive } => {
            format!("amqp.annotation.x-opt-enqueued-time {} '{millis}'", operator(inclusive))
        }
    }
}

/// The encoded filter map of a source that asks for `expression`, as a client: for [`crate::Source::filter`].
#[must_use]
pub fn filter_map(expression: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut map = MapWriter::begin(&mut bytes);
    let buf = map.key(SELECTOR_FILTER);
    buf.push(0);
    put_symbol(buf, SELECTOR_FILTER);
    put_str(buf, expression);
    map.finish();
    debug_assert!(Raw::new(&bytes).is_ok());
    bytes
}
