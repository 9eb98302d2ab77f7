//! Source and target: the addresses of a link's two ends.

use super::fields::{Fields, or_null, put_raw};
use crate::error::DecodeError;
use crate::types::{Map, Raw, Reader, Value, put_bool, put_described_list, put_null, put_str, put_uint};

/// A source or target as received.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Terminus<'a> {
    /// The address; other types than text count as none.
    pub address: Option<&'a str>,
    /// The filters of a source.
    pub filter: Map<'a>,
    /// Whether the peer wishes for a node made for it.
    pub dynamic: bool,
    /// Whether it is the coordinator of transactions, which we do not have.
    pub coordinator: bool,
}

impl<'a> Terminus<'a> {
    pub(super) fn decode(raw: Raw<'a>) -> Result<Self, DecodeError> {
        let (code, mut fields) = Fields::described(&mut Reader::new(raw.bytes()))?;
        let mut terminus = Self {
            address: None,
            filter: Map::EMPTY,
            dynamic: false,
            coordinator: false,
        };
        match code {
            0x28 | 0x29 => {
                terminus.address = fields.value()?.text();
                fields.skip(3)?;
                terminus.dynamic = fields.flag("dynamic")?;
                if code == 0x28 {
                    fields.skip(2)?;
                    if let Value::Map(filter) = fields.value()? {
                        terminus.filter = filter;
                    }
                }
            }
            0x30 => terminus.coordinator = true,
            _ => return Err(DecodeError::WrongType("terminus")),
        }
        Ok(terminus)
    }
}

/// The index of the filter in the fields of a source.
const FILTER_FIELD: u8 = 7;

/// The filter field of a copied terminus.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Filter<'a> {
    /// Copied from the peer, as all other fields.
    AsReceived,
    /// Replaced by the filters that apply, an encoded map or null.
    InPlace(Option<Raw<'a>>),
}

/// Appends the peer's terminus with every field present, or an empty one (Spec amqp §2: both must be non-null).
///
/// `count` is 11 for a source (`code` 0x28) and 7 for a target (0x29). Fields beyond are dropped.
pub(crate) fn put_full_terminus(buf: &mut Vec<u8>, code: u8, count: u8, raw: Option<&[u8]>, filter: Filter<'_>) {
    let fields = raw.and_then(|bytes| Fields::described(&mut Reader::new(bytes)).ok());
    put_described_list(buf, code, count, |buf| {
        let mut fields = fields.map(|(_, fields)| fields);
        for index in 0..count {
            let field = fields.as_mut().and_then(|fields| fields.raw().ok().flatten());
            match filter {
                Filter::InPlace(filter) if index == FILTER_FIELD => put_raw(buf, filter),
                Filter::InPlace(_) | Filter::AsReceived => put_raw(buf, field),
            }
        }
    });
}

/// A source that a client asks for, or a server invents.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Source<'a> {
    /// The address.
    pub address: Option<&'a str>,
    /// The filter map, encoded; see [`crate::selector::filter_map`].
    pub filter: Option<Raw<'a>>,
}

impl Source<'_> {
    /// Appends the described list, 11 fields.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x28, 11, |buf| {
            or_null(buf, self.address, put_str);
            put_uint(buf, 0);
            put_null(buf);
            put_uint(buf, 0);
            put_bool(buf, false);
            put_null(buf);
            put_null(buf);
            put_raw(buf, self.filter);
            put_null(buf);
            put_null(buf);
            put_null(buf);
        });
    }
}

/// A target that a client asks for, or a server invents.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Target<'a> {
    /// The address.
    pub address: Option<&'a str>,
}

impl Target<'_> {
    /// Appends the described list, 7 fields.
    pub fn encode(&self, buf: &mut Vec<u8>) {
        put_described_list(buf, 0x29, 7, |buf| {
            or_null(buf, self.address, put_str);
            put_uint(buf, 0);
            put_null(buf);
            put_uint(buf, 0);
            put_bool(buf, false);
            put_null(buf);
            put_null(buf);
        });
    }
}
