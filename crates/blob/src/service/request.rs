//! A request after its head was read, and its right.

use std::net::IpAddr;

use holdfast_model::UnixMillis;
use holdfast_model::limits::MAX_BLOB_METADATA_BYTES;
use http::request::Parts;
use http::{StatusCode, header};
use percent_encoding::percent_decode_str;
use time::OffsetDateTime;
use time::macros::format_description;

use super::error::BlobError;
use super::operation::{Operation, Target, parameter};
use crate::Account;
use crate::sas::{self, Grant, Permissions, Resource};
use crate::shared_key;
use crate::store::Metadata;

/// Most parameters of a query; a signature has about a dozen.
const MAX_PARAMETERS: usize = 64;

const METADATA_PREFIX: &str = "x-ms-meta-";

pub(super) struct BlobRequest {
    pub(super) head: Parts,
    pub(super) target: Target,
    /// Decoded, in its order.
    pub(super) query: Vec<(String, String)>,
}

/// What the caller has proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// It has a key of the account.
    Owner,
    Signature(Grant),
}

impl Right {
    pub(super) fn check(self, operation: Operation) -> Result<(), BlobError> {
        match self {
            Self::Owner => Ok(()),
            Self::Signature(grant) => operation.check(grant),
        }
    }

    pub(super) fn may_overwrite(self) -> bool {
        match self {
            Self::Owner => true,
            Self::Signature(grant) => grant.permissions.has_any(Permissions::WRITE),
        }
    }
}

impl BlobRequest {
    pub(super) fn parse(account: &Account, head: Parts) -> Result<Self, BlobError> {
        let target = Target::parse(head.uri.path(), account.name())?;
        let query = decode_query(head.uri.query().unwrap_or_default())?;
        Ok(Self { head, target, query })
    }

    pub(super) fn authorize(&self, account: &Account, caller: IpAddr, now: UnixMillis) -> Result<Right, BlobError> {
        if let Some(value) = self.head.headers.get(header::AUTHORIZATION) {
            let value = value.to_str().unwrap_or_default();
            shared_key::verify(account, value, &self.head, &self.query, now)?;
            return Ok(Right::Owner);
        }
        if sas::is_signed(&self.query) {
            let resource = Resource {
                container: self.target.container.as_deref(),
                blob: self.target.blob.as_deref(),
            };
            let grant = sas::verify(account, &self.query, resource, caller, now)?;
            return Ok(Right::Signature(grant));
        }
        Err(BlobError::new(
            StatusCode::UNAUTHORIZED,
            "NoAuthenticationInformation",
            "the request has neither a signature in its query nor an Authorization header",
        ))
    }

    /// The container; every operation below the account has one.
    pub(super) fn container(&self) -> &str {
        self.target.container.as_deref().unwrap_or_default()
    }

    /// The blob; every operation on a blob has one.
    pub(super) fn blob(&self) -> &str {
        self.target.blob.as_deref().unwrap_or_default()
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        parameter(&self.query, name)
    }

    /// A header as text; empty counts as absent.
    pub(super) fn header(&self, name: &str) -> Result<Option<&str>, BlobError> {
        let Some(value) = self.head.headers.get(name) else {
            return Ok(None);
        };
        let text = value.to_str();
        let text = text.map_err(|_| BlobError::header(format!("the header {name} is not ASCII")))?;
        Ok((!text.is_empty()).then_some(text))
    }

    /// The length that the body is announced with.
    pub(super) fn content_length(&self) -> Result<u64, BlobError> {
        let text = self.header("content-length")?.ok_or_else(|| {
            BlobError::new(
                StatusCode::LENGTH_REQUIRED,
                "MissingContentLengthHeader",
                "the header Content-Length is missing",
            )
        })?;
        text.parse()
            .map_err(|_| BlobError::header("Content-Length is not a number"))
    }

    /// `x-ms-meta-` headers; names have lost their case on the way.
    pub(super) fn metadata(&self) -> Result<Metadata, BlobError> {
        let mut metadata = Metadata::new();
        let mut bytes = 0;
        for (name, value) in &self.head.headers {
            let Some(key) = name.as_str().strip_prefix(METADATA_PREFIX) else {
                continue;
            };
            let is_name = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && !key.starts_with(|c: char| c.is_ascii_digit());
            if key.is_empty() || !is_name {
                let text =
                    "the name of a metadata item has ASCII letters, digits and _, and does not begin with a digit";
                return Err(BlobError::new(StatusCode::BAD_REQUEST, "InvalidMetadata", text));
            }
            let value = value.to_str().map_err(|_| {
                let text = "the value of a metadata item is not ASCII";
                BlobError::new(StatusCode::BAD_REQUEST, "InvalidMetadata", text)
            })?;
            bytes += key.len() + value.len();
            if bytes > MAX_BLOB_METADATA_BYTES {
                let text = format!("metadata has more than {MAX_BLOB_METADATA_BYTES} bytes");
                return Err(BlobError::new(StatusCode::BAD_REQUEST, "MetadataTooLarge", text));
            }
            metadata.insert(key.to_owned(), value.to_owned());
        }
        Ok(metadata)
    }
}

fn decode_query(query: &str) -> Result<Vec<(String, String)>, BlobError> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        let decoded = percent_decode_str(&text).decode_utf8();
        decoded
            .map(std::borrow::Cow::into_owned)
            .map_err(|_| BlobError::query("the query is not UTF-8"))
    };
    let pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    if pairs.len() > MAX_PARAMETERS {
        return Err(BlobError::query("the query has too many parameters"));
    }
    let pairs = pairs.into_iter().map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    });
    let pairs: Vec<(String, String)> = pairs.collect::<Result<_, BlobError>>()?;
    // One name, one meaning: what is verified and what is used must not be two values.
    let mut names: Vec<String> = pairs.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    match names.windows(2).any(|pair| pair[0] == pair[1]) {
        true => Err(BlobError::query("a parameter of the query is there twice")),
        false => Ok(pairs),
    }
}

/// `Mon, 23 Nov 2026 10:20:30 GMT`.
pub(super) fn http_date(at: UnixMillis) -> String {
    let format =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    let seconds = i64::try_from(at.seconds()).ok();
    let time = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(format).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_there_once() {
        assert_eq!(decode_query("a=b%20c&d").unwrap().len(), 2);
        for bad in ["sp=r&sp=w", "sp=r&SP=w", "a=%ff", &"a&".repeat(65)] {
            assert!(decode_query(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dates_are_those_of_http() {
        assert_eq!(http_date(UnixMillis(784_111_777_000)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }
}
