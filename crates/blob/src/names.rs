//! Names of accounts, containers and blobs.
//!
//! Why strict: names are keys of the index, texts of XML answers, and parts of signed resources. A name that means two things to
//! two of these would let one signature open another blob.

use holdfast_model::limits::{MAX_BLOB_NAME_CHARS, MAX_BLOB_NAME_SEGMENTS};
use thiserror::Error;

/// First segments of the paths that the hub has on the same port; none may be an account or a container of uploads.
const HUB_WORDS: [&str; 20] = [
    "api",
    "configurations",
    "console",
    "devices",
    "digitaltwins",
    "enrollmentgroups",
    "enrollments",
    "health",
    "holdfast",
    "iothub",
    "jobs",
    "livez",
    "messages",
    "metrics",
    "query",
    "readyz",
    "registrations",
    "servicebus",
    "statistics",
    "twins",
];

/// The rule that a name breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct InvalidName(pub &'static str);

/// Whether the hub has paths that begin with this segment.
#[must_use]
pub fn is_hub_word(word: &str) -> bool {
    HUB_WORDS.contains(&word)
}

/// Whether an account may have this name.
pub(crate) fn is_account(name: &str) -> bool {
    let is_sized = (3..=24).contains(&name.len());
    let is_plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    is_sized && is_plain && !is_hub_word(name)
}

/// Checks the name of a container.
///
/// # Errors
/// The rule that it breaks.
pub fn is_container(name: &str) -> Result<(), InvalidName> {
    if !(3..=63).contains(&name.len()) {
        return Err(InvalidName("the name of a container has 3 to 63 characters"));
    }
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !name.bytes().all(is_plain) || name.starts_with('-') || name.ends_with('-') || name.contains("--") {
        return Err(InvalidName(
            "the name of a container has lower-case letters, digits, and single dashes between them",
        ));
    }
    Ok(())
}

/// Checks the name of a blob, decoded.
///
/// # Errors
/// The rule that it breaks.
pub fn is_blob(name: &str) -> Result<(), InvalidName> {
    let segments = || name.split('/');
    // Characters that XML cannot carry would break lists for all readers.
    let is_bad = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}' | '\\');
    if name.is_empty() || name.chars().count() > MAX_BLOB_NAME_CHARS {
        Err(InvalidName("the name of a blob has 1 to 1024 characters"))
    } else if segments().count() > MAX_BLOB_NAME_SEGMENTS {
        Err(InvalidName("the name of a blob has at most 254 segments"))
    } else if name.chars().any(is_bad) {
        Err(InvalidName(
            "the name of a blob has no control characters and no backslash",
        ))
    } else if segments().any(|segment| matches!(segment, "" | "." | "..")) {
        // URL libraries remove such segments, and would ask for another blob.
        Err(InvalidName("no segment of a blob's name is empty, . or .."))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_containers_are_those_of_azure() {
        for good in ["abc", "device-uploads", "0-9", &"a".repeat(63)] {
            assert_eq!(is_container(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "ab",
            "Abc",
            "a--b",
            "-abc",
            "abc-",
            "a_b",
            "$root",
            "a.b",
            "a/b",
            &"a".repeat(64),
        ] {
            assert!(is_container(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hostile_names_of_blobs_are_refused() {
        for good in [
            "a",
            "dev-1/a b/ü.txt",
            "a/.hidden",
            "dev./a.",
            "x".repeat(1024).as_str(),
            &vec!["a"; 254].join("/"),
        ] {
            assert_eq!(is_blob(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "a/../b",
            "a/./b",
            "a\0b",
            "a\nb",
            "a\u{7f}",
            "a\u{85}",
            "a\\b",
            "a\u{ffff}",
            &"x".repeat(1025),
            &vec!["a"; 255].join("/"),
        ] {
            assert!(is_blob(bad).is_err(), "{bad:?}");
        }
    }
}
