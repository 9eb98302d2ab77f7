//! Authorization of back ends by the account's key: `Authorization: SharedKey ACCOUNT:SIGNATURE`.
//!
//! The signed text is the method, eleven headers, the `x-ms-` headers, and the resource with its query.

use holdfast_model::UnixMillis;
use http::request::Parts;
use http::{HeaderMap, HeaderName, header};
use thiserror::Error;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::Account;

/// How far a request's date may differ from this node's clock.
const MAX_SKEW_MS: u64 = 15 * 60 * 1000;

/// The headers that are signed by their place, in order; the length is zero as "".
const SIGNED: [HeaderName; 11] = [
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    HeaderName::from_static("content-md5"),
    header::CONTENT_TYPE,
    header::DATE,
    header::IF_MODIFIED_SINCE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
];

/// Why the key does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum SharedKeyError {
    #[error("the Authorization header is not of the form SharedKey ACCOUNT:SIGNATURE")]
    Form,
    #[error("the Authorization header names another account")]
    Account,
    #[error("the header x-ms-date is missing, or more than 15 minutes away from the time here")]
    Date,
    #[error("the signature is not that of this request by a key of the account")]
    Signature,
}

/// Verifies the header of a request; `query`: decoded, in its order.
pub(crate) fn verify(
    account: &Account,
    authorization: &str,
    head: &Parts,
    query: &[(String, String)],
    now: UnixMillis,
) -> Result<(), SharedKeyError> {
    let credential = authorization.strip_prefix("SharedKey ").ok_or(SharedKeyError::Form)?;
    let (name, signature) = credential.split_once(':').ok_or(SharedKeyError::Form)?;
    if name != account.name() {
        return Err(SharedKeyError::Account);
    }
    if !account.verifies(&text(account, head, query), signature.trim()) {
        return Err(SharedKeyError::Signature);
    }
    let date = date(&head.headers).ok_or(SharedKeyError::Date)?;
    match date.abs_diff(i128::from(now.0)) <= u128::from(MAX_SKEW_MS) {
        true => Ok(()),
        false => Err(SharedKeyError::Date),
    }
}

/// Milliseconds since 1970.
fn date(headers: &HeaderMap) -> Option<i128> {
    let value = headers.get("x-ms-date").or_else(|| headers.get(header::DATE))?;
    let text = value.to_str().ok()?.replace("GMT", "+0000");
    let time = OffsetDateTime::parse(&text, &Rfc2822).ok()?;
    Some(time.unix_timestamp_nanos() / 1_000_000)
}

fn text(account: &Account, head: &Parts, query: &[(String, String)]) -> String {
    let mut text = String::with_capacity(512);
    text.push_str(head.method.as_str());
    text.push('\n');
    for name in &SIGNED {
        let value = value(&head.headers, name);
        if *name != header::CONTENT_LENGTH || value != "0" {
            text.push_str(&value);
        }
        text.push('\n');
    }
    // An x-ms-date takes the place of the date that is signed above.
    let mut own: Vec<&HeaderName> = head
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-ms-"))
        .collect();
    own.sort_unstable_by_key(|name| name.as_str());
    for name in own {
        text.push_str(name.as_str());
        text.push(':');
        text.push_str(&value(&head.headers, name));
        text.push('\n');
    }
    text.push('/');
    text.push_str(account.name());
    text.push_str(head.uri.path());
    let mut pairs: Vec<(String, &str)> = query
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
        .collect();
    pairs.sort_unstable();
    for (at, (name, value)) in pairs.iter().enumerate() {
        match at.checked_sub(1).is_some_and(|before| pairs[before].0 == *name) {
            true => text.push(','),
            false => {
                text.push('\n');
                text.push_str(name);
                text.push(':');
            }
        }
        text.push_str(value);
    }
    text
}

/// All values of a header, without the spaces around them.
fn value(headers: &HeaderMap, name: &HeaderName) -> String {
    let values = headers.get_all(name).iter();
    let texts = values.map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned());
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use holdfast_auth::Key;
    use http::Request;

    use super::*;

    fn account() -> Account {
        Account::new("holdfast", Key::from_bytes(vec![7; 64]).unwrap())
    }

    fn head(date: &str) -> Parts {
        let request = Request::builder()
            .method("PUT")
            .uri("/holdfast/uploads/a%20b?timeout=30&comp=block&blockid=QUE%3D")
            .header("Content-Length", "0")
            .header("Content-Type", "text/plain")
            .header("x-ms-version", "2021-12-02")
            .header("x-ms-date", date)
            .body(())
            .unwrap();
        request.into_parts().0
    }

    const DATE: &str = "Wed, 18 Nov 2026 21:46:40 GMT";
    const NOW: UnixMillis = UnixMillis(1_795_038_400_000);

    fn query() -> Vec<(String, String)> {
        [("timeout", "30"), ("comp", "block"), ("blockid", "QUE=")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    #[test]
    fn the_text_has_the_lines_of_azure() {
        let expected = "PUT\n\n\n\n\ntext/plain\n\n\n\n\n\n\nx-ms-date:Wed, 18 Nov 2026 21:46:40 GMT\nx-ms-version:2021-12-02\n\
                        /holdfast/holdfast/uploads/a%20b\nblockid:QUE=\ncomp:block\ntimeout:30";
        assert_eq!(text(&account(), &head(DATE), &query()), expected);
    }

    #[test]
    fn a_request_counts_with_its_own_signature_and_near_its_date() {
        let signature = account().sign(&text(&account(), &head(DATE), &query()));
        let check = |header: &str, head: &Parts, now| verify(&account(), header, head, &query(), now);
        let good = format!("SharedKey holdfast:{signature}");
        let at = date(&head(DATE).headers).unwrap();
        let now = UnixMillis(u64::try_from(at).unwrap());
        assert_eq!(now.0 / 1_000_000_000, NOW.0 / 1_000_000_000);
        assert_eq!(check(&good, &head(DATE), now), Ok(()));
        assert_eq!(
            check(&good, &head(DATE), UnixMillis(now.0 + MAX_SKEW_MS + 1)),
            Err(SharedKeyError::Date)
        );
        let other = head("Wed, 18 Nov 2026 21:46:41 GMT");
        assert_eq!(check(&good, &other, now), Err(SharedKeyError::Signature));
        for (header, expected) in [
            ("SharedKeyLite holdfast:x", SharedKeyError::Form),
            ("SharedKey holdfast", SharedKeyError::Form),
            ("SharedKey other:x", SharedKeyError::Account),
            ("SharedKey holdfast:x", SharedKeyError::Signature),
            ("", SharedKeyError::Form),
        ] {
            assert_eq!(check(header, &head(DATE), now), Err(expected), "{header}");
        }
    }
}
