//! The tail of request and reply topics: `?$rid=X[&$version=N]`.

use crate::escape::append;
use crate::limits::MAX_REQUEST_ID_BYTES;
use crate::violation::Violation;

/// A request id: opaque, echoed byte for byte with its escapes untouched; 1–256 bytes.
pub type RequestId<'a> = &'a str;

/// A version of a twin's section.
pub type Version = u64;

/// The parsed tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tail<'a> {
    /// `None` when it is missing or empty.
    pub(super) rid: Option<RequestId<'a>>,
    pub(super) version: Option<Version>,
}

impl<'a> Tail<'a> {
    /// The request id, where a request makes no sense without it.
    pub(super) fn require_rid(&self) -> Result<RequestId<'a>, Violation> {
        self.rid.ok_or(Violation::RequestIdMissing)
    }
}

/// Parses the text behind the last `/` of the fixed part; unknown parameters are ignored, the first of two counts.
pub(super) fn parse(tail: &str) -> Result<Tail<'_>, Violation> {
    let mut found = Tail::default();
    let parameters = match tail.strip_prefix('?') {
        Some(parameters) => parameters,
        None if tail.is_empty() => return Ok(found),
        None => return Err(Violation::ForeignTopic),
    };
    for parameter in parameters.split('&') {
        if let Some(rid) = parameter.strip_prefix("$rid=") {
            if rid.len() > MAX_REQUEST_ID_BYTES {
                return Err(Violation::RequestIdTooLong);
            }
            if found.rid.is_none() && !rid.is_empty() {
                found.rid = Some(rid);
            }
        } else if let Some(version) = parameter.strip_prefix("$version=")
            && found.version.is_none()
        {
            // `u64::from_str` takes a leading plus; a version has digits only.
            let digits = version.bytes().all(|byte| byte.is_ascii_digit());
            found.version = Some(
                version
                    .parse()
                    .ok()
                    .filter(|_| digits)
                    .ok_or(Violation::VersionNumber)?,
            );
        }
    }
    Ok(found)
}

/// Appends `?$rid=X[&$version=N]`, nothing else (Spec §4.2 rules 9 and 10).
pub(super) fn write(out: &mut String, rid: RequestId<'_>, version: Option<Version>) {
    out.push_str("?$rid=");
    out.push_str(rid);
    if let Some(version) = version {
        append(out, format_args!("&$version={version}"));
    }
}
