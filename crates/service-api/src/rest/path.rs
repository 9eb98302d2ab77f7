//! Paths and queries, decoded once (Spec rest §1.1).

use holdfast_model::limits::MAX_LIST_DEVICES;
use holdfast_model::{ApiVersion, InvalidApiVersion};
use http::Uri;
use percent_encoding::percent_decode_str;

use super::error::ApiError;

/// Longest path that is parsed, in bytes; two ids of 128 characters, each escaped, are shorter.
const MAX_PATH_BYTES: usize = 4 * 1024;

/// The decoded segments of a path; `None` for `//`, dot segments and invalid UTF-8, which name no resource.
///
/// A trailing slash is ignored: C# asks for `/devices/?top=…`.
pub(super) fn segments(uri: &Uri) -> Option<Vec<String>> {
    let path = uri.path();
    if path.len() > MAX_PATH_BYTES {
        return None;
    }
    if matches!(path, "" | "/") {
        return Some(Vec::new());
    }
    let path = path.strip_prefix('/')?;
    path.strip_suffix('/').unwrap_or(path).split('/').map(segment).collect()
}

fn segment(raw: &str) -> Option<String> {
    let text = percent_decode_str(raw).decode_utf8().ok()?;
    if text.is_empty() || text == "." || text == ".." {
        return None;
    }
    Some(text.into_owned())
}

/// The first value of a query parameter; names are case-insensitive.
pub(super) fn query(uri: &Uri, name: &str) -> Option<String> {
    let decode = |text: &str| {
        percent_decode_str(&text.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        decode(key).eq_ignore_ascii_case(name).then(|| decode(value))
    })
}

/// The size of a page that a query parameter asks for: a number outside 1 to the maximum counts as the maximum, as the
/// cloud has it, and so does an absent parameter.
///
/// # Errors
/// 400004 for a text that is not a whole number.
pub(super) fn page_size(uri: &Uri, name: &str) -> Result<usize, ApiError> {
    let Some(text) = query(uri, name) else {
        return Ok(MAX_LIST_DEVICES);
    };
    let digits = text.strip_prefix(['-', '+']).unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ApiError::invalid(format!("{name} must be a whole number")));
    }
    // A number too large for the type is outside the range too.
    let size = text
        .parse::<usize>()
        .ok()
        .filter(|size| (1..=MAX_LIST_DEVICES).contains(size));
    Ok(size.unwrap_or(MAX_LIST_DEVICES))
}

/// Checks the api-version of a request.
///
/// # Errors
/// The text for the caller.
pub(super) fn check_version(uri: &Uri) -> Result<(), String> {
    let Some(version) = query(uri, "api-version") else {
        return Err(format!(
            "the query parameter api-version is missing: {InvalidApiVersion}"
        ));
    };
    match ApiVersion::parse(&version) {
        Ok(_) => Ok(()),
        Err(error) => {
            let shown: String = version.chars().take(32).collect();
            Err(format!(
                "api-version '{}' is not accepted: {error}",
                shown.escape_debug()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(path: &str) -> Option<Vec<String>> {
        segments(&Uri::try_from(path).unwrap())
    }

    #[test]
    fn segments_are_decoded_once_and_a_trailing_slash_is_ignored() {
        assert_eq!(path("/devices/a%2Fb/"), Some(vec!["devices".into(), "a/b".into()]));
        assert_eq!(path("/devices/a%2541"), Some(vec!["devices".into(), "a%41".into()]));
        assert_eq!(path("/devices/100%"), Some(vec!["devices".into(), "100%".into()]));
        assert_eq!(path("/"), Some(vec![]));
        assert_eq!(path("/devices?top=1"), Some(vec!["devices".into()]));
    }

    #[test]
    fn double_slashes_dot_segments_and_bad_bytes_name_nothing() {
        for bad in [
            "//",
            "//devices",
            "/devices//a",
            "/devices/a//",
            "/devices/./a",
            "/devices/%2e%2E/a",
            "/d/%ff",
        ] {
            assert_eq!(path(bad), None, "{bad}");
        }
        assert_eq!(path(&format!("/devices/{}", "a".repeat(5000))), None);
    }

    #[test]
    fn page_sizes_out_of_range_count_as_the_maximum() {
        let size = |query: &str| page_size(&Uri::try_from(format!("/devices?{query}")).unwrap(), "top");
        for (query, expected) in [
            ("", 1000),
            ("top=1", 1),
            ("top=1000", 1000),
            ("top=1001", 1000),
            ("top=0", 1000),
            ("top=-1", 1000),
            ("TOP=2147483647", 1000),
            ("top=99999999999999999999999999", 1000),
        ] {
            assert_eq!(size(query).unwrap(), expected, "{query}");
        }
        for query in ["top=", "top=x", "top=1.5", "top=-", "top=0x10"] {
            assert_eq!(size(query).unwrap_err().code.number(), 400_004, "{query}");
        }
    }

    #[test]
    fn every_api_version_from_the_oldest_on_is_accepted() {
        let check = |query: &str| check_version(&Uri::try_from(format!("/devices?{query}")).unwrap());
        for good in [
            "2021-04-12",
            "2016-02-03",
            "2020-05-31-preview",
            "2018-08-30-preview",
            "2021-04-12-preview",
            "2024-03-31",
            "2026-06-01-preview",
        ] {
            assert!(check(&format!("api-version={good}")).is_ok(), "{good}");
        }
        assert!(check("x=1&API-Version=2021-04-12").is_ok());
        for bad in [
            "",
            "2016-02-02",
            "2021-4-12",
            "2021-13-01",
            "abcd-ef-gh",
            "2021-04-12%20beta",
        ] {
            let text = check(&format!("api-version={bad}")).unwrap_err();
            assert!(text.contains("2021-04-12-preview"), "{bad}: {text}");
        }
        assert!(check("top=1").is_err());
    }
}
