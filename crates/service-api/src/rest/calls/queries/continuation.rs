//! The text of `x-ms-continuation`: everything that the next page needs, so that no node keeps anything.
//!
//! Form: Base64 (URL alphabet) of a version byte, a hash of the query and the version byte and what follows, the number of
//! results that TOP leaves, and the place, a letter and a text. Invariants: a token of another query or a damaged one is refused;
//! a place is an identity or a group, so that any node continues there. It grants nothing, and is not signed: a caller that
//! makes one up may as well ask for the page by WHERE.

use data_encoding::BASE64URL_NOPAD;
use holdfast_device_hub::QueryPosition;
use holdfast_model::{DeviceId, IdentityId, ModuleId};
use holdfast_query::{GroupKey, Query};
use xxhash_rust::xxh64::xxh64;

use super::super::super::error::ApiError;

const VERSION: u8 = 1;

/// Bytes before the place.
const HEAD: usize = 1 + 8 + 8;

/// The longest place: headers of some clients have 16 KiB.
const MAX_PLACE: usize = 6 * 1024;

/// Where a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Continuation {
    pub(super) position: QueryPosition,
    /// How many results TOP leaves.
    pub(super) left: Option<u64>,
}

impl Continuation {
    /// The first page.
    pub(super) fn start(query: &Query) -> Self {
        Self {
            position: QueryPosition::Start,
            left: query.top,
        }
    }

    /// The place in a header of the same query.
    pub(super) fn read(token: &str, query: &Query) -> Result<Self, ApiError> {
        let invalid = || {
            let text = "the header x-ms-continuation is not the one that was sent with a page of this query";
            ApiError::invalid(text)
        };
        let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| invalid())?;
        let (head, place) = bytes.split_at_checked(HEAD).ok_or_else(invalid)?;
        let left = &head[9..];
        if head[0] != VERSION || head[1..9] != checksum(query, left, place).to_be_bytes() {
            return Err(invalid());
        }
        let left = left.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let place = std::str::from_utf8(place).map_err(|_| invalid())?;
        Ok(Self {
            position: position(place).ok_or_else(invalid)?,
            left: query.top.map(|top| left.min(top)),
        })
    }

    /// The header.
    pub(super) fn token(&self, query: &Query) -> Result<String, ApiError> {
        let place = match &self.position {
            QueryPosition::Start => String::new(),
            QueryPosition::Identity(id) => match &id.module {
                None => format!("i{}", id.device.as_str()),
                // No id has this character.
                Some(module) => format!("i{}/{}", id.device.as_str(), module.as_str()),
            },
            QueryPosition::Group(key) => format!("g{}", key.as_str()),
        };
        if place.len() > MAX_PLACE {
            let text = format!("the key of a group has more than {MAX_PLACE} bytes: group by shorter values");
            return Err(ApiError::invalid(text));
        }
        let left = self.left.unwrap_or(0).to_be_bytes();
        let mut bytes = vec![VERSION];
        bytes.extend(checksum(query, &left, place.as_bytes()).to_be_bytes());
        bytes.extend(left);
        bytes.extend(place.as_bytes());
        Ok(BASE64URL_NOPAD.encode(&bytes))
    }
}

/// Of the query in its canonical form and the rest of the token.
fn checksum(query: &Query, left: &[u8], place: &[u8]) -> u64 {
    let query = query.to_string();
    xxh64(&[&[VERSION], query.as_bytes(), &[0], left, place].concat(), 0)
}

fn position(place: &str) -> Option<QueryPosition> {
    if let Some(key) = place.strip_prefix('g') {
        return Some(QueryPosition::Group(GroupKey::of(key)));
    }
    let id = match place.strip_prefix('i') {
        None => return place.is_empty().then_some(QueryPosition::Start),
        Some(id) => id,
    };
    Some(QueryPosition::Identity(match id.split_once('/') {
        None => IdentityId::device(DeviceId::parse(id).ok()?),
        Some((device, module)) => IdentityId::module(DeviceId::parse(device).ok()?, ModuleId::parse(module).ok()?),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(text).unwrap()
    }

    fn places() -> Vec<QueryPosition> {
        let device = DeviceId::parse("dev-1").unwrap();
        let module = ModuleId::parse("$edgeHub").unwrap();
        vec![
            QueryPosition::Start,
            QueryPosition::Identity(IdentityId::device(device.clone())),
            QueryPosition::Identity(IdentityId::module(device, module)),
            QueryPosition::Group(GroupKey::of("[[\"ü\"],[]]")),
        ]
    }

    #[test]
    fn a_token_leads_to_its_place_in_the_same_query() {
        let asked = query("SELECT TOP 9 * FROM devices");
        let other = query("SELECT TOP 9 * FROM devices WHERE deviceId != 'x'");
        for position in places() {
            let place = Continuation {
                position,
                left: Some(7),
            };
            let token = place.token(&asked).unwrap();
            assert!(
                token
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            );
            assert_eq!(Continuation::read(&token, &asked), Ok(place));
            let spaced = query("select top 9 *  from DEVICES");
            assert!(Continuation::read(&token, &spaced).is_ok());
            assert!(Continuation::read(&token, &other).is_err());
        }
    }

    #[test]
    fn a_damaged_token_is_refused() {
        let asked = query("SELECT * FROM devices");
        for position in places() {
            let token = Continuation { position, left: None }.token(&asked).unwrap();
            let bytes = BASE64URL_NOPAD.decode(token.as_bytes()).unwrap();
            for index in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[index] ^= 0x21;
                let damaged = BASE64URL_NOPAD.encode(&damaged);
                assert!(Continuation::read(&damaged, &asked).is_err());
                assert!(Continuation::read(&token[..index], &asked).is_err());
            }
        }
    }

    #[test]
    fn a_group_whose_key_no_header_can_carry_is_refused_by_name() {
        let asked = query("SELECT COUNT() FROM devices GROUP BY tags.a");
        let position = QueryPosition::Group(GroupKey::of(&"x".repeat(MAX_PLACE)));
        let error = Continuation { position, left: None }.token(&asked).unwrap_err();
        assert!(error.text.contains("group by shorter values"), "{}", error.text);
    }
}
