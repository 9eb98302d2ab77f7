//! Conditions of requests: `If-Match`, `If-None-Match`, `If-Modified-Since`, `If-Unmodified-Since`.

use holdfast_model::UnixMillis;
use http::{HeaderMap, header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::store::{BlobStoreError, ETag};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Conditions {
    if_match: Option<String>,
    if_none_match: Option<String>,
    modified_since: Option<i128>,
    unmodified_since: Option<i128>,
}

/// Seconds since 1970 of an HTTP date; one that cannot be read is no condition (RFC 9110 §13.1.3).
fn date(headers: &HeaderMap, name: header::HeaderName) -> Option<i128> {
    let text = headers.get(name)?.to_str().ok()?.replace("GMT", "+0000");
    let time = OffsetDateTime::parse(&text, &Rfc2822).ok()?;
    Some(i128::from(time.unix_timestamp()))
}

impl Conditions {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let text = |name: header::HeaderName| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        Self {
            if_match: text(header::IF_MATCH),
            if_none_match: text(header::IF_NONE_MATCH),
            modified_since: date(headers, header::IF_MODIFIED_SINCE),
            unmodified_since: date(headers, header::IF_UNMODIFIED_SINCE),
        }
    }

    /// Whether something that is so, `None`: not there, may be written.
    pub(crate) fn check_write(&self, found: Option<(ETag, UnixMillis)>) -> Result<(), BlobStoreError> {
        match self.holds(found) {
            true => Ok(()),
            // A blob that must not be there has an answer of its own.
            false if self.if_none_match.as_deref() == Some("*") => Err(BlobStoreError::AlreadyThere),
            false => Err(BlobStoreError::Condition),
        }
    }

    /// Whether a reader gets something that is so.
    pub(crate) fn check_read(&self, etag: ETag, modified: UnixMillis) -> Result<(), BlobStoreError> {
        if self.holds(Some((etag, modified))) {
            return Ok(());
        }
        let positive = Self {
            if_none_match: None,
            modified_since: None,
            ..self.clone()
        };
        match positive.holds(Some((etag, modified))) {
            true => Err(BlobStoreError::NotModified),
            false => Err(BlobStoreError::Condition),
        }
    }

    fn holds(&self, found: Option<(ETag, UnixMillis)>) -> bool {
        let is = |wanted: &str| match (wanted.trim(), &found) {
            (_, None) => false,
            ("*", Some(_)) => true,
            (wanted, Some((etag, _))) => {
                let own = etag.to_string();
                wanted
                    .split(',')
                    .any(|one| one.trim().trim_matches('"') == own.trim_matches('"'))
            }
        };
        let seconds = found.as_ref().map(|(_, modified)| i128::from(modified.seconds()));
        self.if_match.as_deref().is_none_or(is)
            && !self.if_none_match.as_deref().is_some_and(is)
            && self
                .modified_since
                .is_none_or(|since| seconds.is_none_or(|at| at > since))
            && self
                .unmodified_since
                .is_none_or(|since| seconds.is_none_or(|at| at <= since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(pairs: &[(&'static str, &str)]) -> Conditions {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = header::HeaderName::from_static(name);
            (name, value.parse::<http::HeaderValue>().unwrap())
        });
        Conditions::of(&pairs.collect())
    }

    #[test]
    fn each_condition_holds_for_what_it_names() {
        let etag = ETag(7);
        let (own, bare) = (etag.to_string(), "0x0000000000000007");
        let found = Some((etag, UnixMillis(1_000_000_500)));
        let (before, at) = ("Mon, 12 Jan 1970 13:46:39 GMT", "Mon, 12 Jan 1970 13:46:40 GMT");
        for (name, value, there, absent) in [
            ("if-match", &*own, true, false),
            ("if-match", bare, true, false),
            ("if-match", "*", true, false),
            ("if-match", "\"0x1\"", false, false),
            ("if-match", "\"0x1\", \"0x0000000000000007\"", true, false),
            ("if-none-match", &*own, false, true),
            ("if-none-match", "*", false, true),
            ("if-none-match", "\"0x1\"", true, true),
            ("if-modified-since", before, true, true),
            ("if-modified-since", at, false, true),
            ("if-unmodified-since", before, false, true),
            ("if-unmodified-since", at, true, true),
            ("if-modified-since", "never", true, true),
        ] {
            let conditions = conditions(&[(name, value)]);
            assert_eq!(conditions.check_write(found).is_ok(), there, "{name}: {value}");
            assert_eq!(conditions.check_write(None).is_ok(), absent, "{name}: {value}, absent");
        }
    }

    #[test]
    fn a_reader_learns_that_nothing_has_changed() {
        let (etag, at) = (ETag(7), UnixMillis(1_000_000_500));
        let of = |name, value: &str| conditions(&[(name, value)]).check_read(etag, at);
        assert!(matches!(
            of("if-none-match", &etag.to_string()),
            Err(BlobStoreError::NotModified)
        ));
        assert!(matches!(of("if-match", "\"0x1\""), Err(BlobStoreError::Condition)));
        assert!(of("if-match", &etag.to_string()).is_ok());
    }
}
