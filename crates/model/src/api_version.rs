//! The `api-version` that clients name: one rule for HTTPS, MQTT and AMQP.
//!
//! Why: clients send the version that they were built with, and new ones appear every few months; a version that is
//! refused stops a client that would have worked. So every well-formed version from the oldest one on is accepted, and
//! all of them behave as the newest.
//! Wire facts: Spec rest §1.1, device-mqtt §2.2.
//! Not here: where a protocol carries it, and what a missing one means there.

use thiserror::Error;

/// A date, perhaps with a suffix such as `-preview`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Four digits.
    pub year: u16,
    /// 1–12.
    pub month: u8,
    /// 1–31.
    pub day: u8,
    /// A suffix follows the date.
    pub preview: bool,
}

/// Text that is no accepted `api-version`; the message lists known ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "an api-version is a date from 2016-02-03 on, with or without -preview; known are {}",
    ApiVersion::KNOWN
)]
pub struct InvalidApiVersion;

impl ApiVersion {
    /// The oldest accepted version.
    pub const OLDEST: Self = Self {
        year: 2016,
        month: 2,
        day: 3,
        preview: false,
    };

    /// Versions that released clients send, for messages.
    pub const KNOWN: &str = "2016-02-03 2016-11-14 2017-06-30 2017-11-08-preview 2018-04-01 2018-06-30 2019-03-30 \
                             2019-07-01-preview 2019-10-01 2020-03-13 2020-05-31-preview 2020-09-30 2021-04-12 \
                             2021-04-12-preview 2024-03-31";

    /// Reads `YYYY-MM-DD` or `YYYY-MM-DD-{letters, digits, dots, hyphens}`.
    ///
    /// # Errors
    /// [`InvalidApiVersion`] for any other text and for dates before [`Self::OLDEST`].
    pub fn parse(text: &str) -> Result<Self, InvalidApiVersion> {
        read(text)
            .filter(|version| *version >= Self::OLDEST)
            .ok_or(InvalidApiVersion)
    }
}

fn read(text: &str) -> Option<ApiVersion> {
    let (date, suffix) = text.split_at_checked(10)?;
    let &[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = date.as_bytes() else {
        return None;
    };
    let year = two(y0, y1)? * 100 + two(y2, y3)?;
    let (month, day) = (u8::try_from(two(m0, m1)?).ok()?, u8::try_from(two(d0, d1)?).ok()?);
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    (is_date && is_suffix(suffix)).then_some(ApiVersion {
        year,
        month,
        day,
        preview: !suffix.is_empty(),
    })
}

fn is_suffix(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-')
    };
    text.is_empty() || text.strip_prefix('-').is_some_and(is_word)
}

fn two(high: u8, low: u8) -> Option<u16> {
    (high.is_ascii_digit() && low.is_ascii_digit()).then(|| u16::from(high - b'0') * 10 + u16::from(low - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_well_formed_version_from_the_oldest_on_is_accepted() {
        let more = [
            "2018-08-30-preview",
            "2020-10-01-preview.1",
            "2025-08-01-preview",
            "9999-12-31",
        ];
        for text in ApiVersion::KNOWN.split_ascii_whitespace().chain(more) {
            let version = ApiVersion::parse(text).unwrap();
            assert_eq!(version.preview, text.len() > 10, "{text}");
        }
        assert_eq!(ApiVersion::parse("2016-02-03"), Ok(ApiVersion::OLDEST));
    }

    #[test]
    fn older_dates_and_other_shapes_are_refused_with_the_list() {
        let wrong = [
            "",
            "x",
            "2016-02-02",
            "2015-12-31-preview",
            "2021-4-12",
            "2021-13-01",
            "2021-00-01",
            "2021-04-00",
            "2021-04-32",
            "2021-04-12x",
            "2021-04-12-",
            "2021-04-12- ",
            "2021-04-12/..",
            "+021-04-12",
            "２０２１-04-12",
        ];
        for text in wrong {
            assert_eq!(ApiVersion::parse(text), Err(InvalidApiVersion), "{text}");
        }
        assert!(InvalidApiVersion.to_string().contains("2021-04-12-preview"));
    }
}
