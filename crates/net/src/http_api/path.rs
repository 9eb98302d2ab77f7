//! Paths and queries, decoded once (Spec rest §1.1).

use holdfast_model::{ApiVersion, InvalidApiVersion};
use http::Uri;
use percent_encoding::percent_decode_str;

/// Longest path that is parsed, in bytes; two ids of 128 characters, each escaped, are shorter.
const MAX_PATH_BYTES: usize = 4 * 1024;

/// The decoded segments of a path; `None` for `//`, dot segments and invalid UTF-8, which name no resource.
///
/// A trailing slash is ignored: C# asks for `/devices/?top=…`.
#[must_use]
pub fn segments(uri: &Uri) -> Option<Vec<String>> {
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
#[must_use]
pub fn query(uri: &Uri, name: &str) -> Option<String> {
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

/// Checks the api-version of a request.
///
/// # Errors
/// The text for the caller.
pub fn check_version(uri: &Uri) -> Result<(), String> {
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
