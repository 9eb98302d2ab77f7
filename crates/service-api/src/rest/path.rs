//! Paths and queries, decoded once (Spec rest §1.1).

use http::Uri;
use percent_encoding::percent_decode_str;

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

/// The api-versions that clients are told of (Spec rest §1.1); all behave as the newest.
const KNOWN_VERSIONS: &str = "2016-02-03 2016-11-14 2017-06-30 2017-11-08-preview 2018-04-01 2018-06-30 2019-03-30 \
                              2019-07-01-preview 2019-10-01 2020-03-13 2020-05-31-preview 2020-09-30 2021-04-12 \
                              2021-04-12-preview";
const NEWEST_VERSION: &str = "2021-04-12";

/// Checks the api-version of a request: every well-formed date up to the newest, with or without `-preview`.
///
/// # Errors
/// The text for the caller.
pub(super) fn check_version(uri: &Uri) -> Result<(), String> {
    let Some(version) = query(uri, "api-version") else {
        return Err(format!(
            "the query parameter api-version is missing, known are {KNOWN_VERSIONS}"
        ));
    };
    let date = version.strip_suffix("-preview").unwrap_or(&version);
    if is_date(date) && date <= NEWEST_VERSION {
        return Ok(());
    }
    let shown: String = version.chars().take(32).collect();
    Err(format!(
        "api-version '{}' is unknown, known are {KNOWN_VERSIONS}",
        shown.escape_debug()
    ))
}

fn is_date(text: &str) -> bool {
    let digits = |part: &str, range: std::ops::RangeInclusive<u16>| {
        part.bytes().all(|byte| byte.is_ascii_digit()) && part.parse().is_ok_and(|number| range.contains(&number))
    };
    let mut parts = text.splitn(3, '-');
    let (Some(year), Some(month), Some(day)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    (year.len(), month.len(), day.len()) == (4, 2, 2)
        && digits(year, 2000..=9999)
        && digits(month, 1..=12)
        && digits(day, 1..=31)
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
    fn api_versions_are_dates_up_to_the_newest() {
        let check = |query: &str| check_version(&Uri::try_from(format!("/devices?{query}")).unwrap());
        for good in [
            "2021-04-12",
            "2016-02-03",
            "2020-05-31-preview",
            "2018-08-30-preview",
            "2021-04-12-preview",
        ] {
            assert!(check(&format!("api-version={good}")).is_ok(), "{good}");
        }
        assert!(check("x=1&API-Version=2021-04-12").is_ok());
        for bad in [
            "",
            "2021-04-13",
            "2022-01-01-preview",
            "2021-4-12",
            "2021-13-01",
            "abcd-ef-gh",
            "2021-04-12-beta",
        ] {
            let text = check(&format!("api-version={bad}")).unwrap_err();
            assert!(text.contains("2021-04-12-preview"), "{bad}: {text}");
        }
        assert!(check("top=1").is_err());
    }
}
