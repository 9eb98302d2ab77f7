//! The api-versions of the device API and the service API (Spec provisioning §3.1, §9.1).

/// Those that released clients send.
pub const KNOWN_VERSIONS: [&str; 13] = [
    "2017-08-31-preview",
    "2017-11-15",
    "2018-04-01",
    "2018-09-01-preview",
    "2018-11-01",
    "2019-01-15",
    "2019-03-31",
    "2021-06-01",
    "2021-10-01",
    "2021-11-01-preview",
    "2025-07-01-preview",
    "2026-11-01",
    "2026-11-02-preview",
];

/// Those whose registrations issue certificates; earlier ones know no `csr`.
const ISSUING_VERSIONS: [&str; 3] = ["2025-07-01-preview", "2026-11-01", "2026-11-02-preview"];

/// Whether a registration with this api-version may have a `csr`.
#[must_use]
pub fn issues_certificates(version: Option<&str>) -> bool {
    version.is_some_and(|version| ISSUING_VERSIONS.iter().any(|known| known.eq_ignore_ascii_case(version)))
}

/// Checks an api-version.
///
/// # Errors
/// The text for the caller, with the list.
pub fn check_version(version: Option<&str>) -> Result<(), String> {
    let known = KNOWN_VERSIONS.join(" ");
    match version {
        Some(version) if KNOWN_VERSIONS.iter().any(|known| known.eq_ignore_ascii_case(version)) => Ok(()),
        Some(version) => {
            let shown: String = version.chars().take(32).collect();
            Err(format!(
                "api-version '{}' is unknown; known are {known}",
                shown.escape_debug()
            ))
        }
        None => Err(format!("the api-version is missing; known are {known}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_version_is_refused_with_the_list() {
        for version in KNOWN_VERSIONS {
            assert_eq!(check_version(Some(version)), Ok(()));
        }
        for unknown in [
            None,
            Some(""),
            Some("2019-03-32"),
            Some("2030-01-01"),
            Some("2019-03-31'\n"),
        ] {
            let text = check_version(unknown).unwrap_err();
            assert!(text.contains("2026-11-02-preview") && !text.contains('\n'), "{text}");
        }
    }
}
