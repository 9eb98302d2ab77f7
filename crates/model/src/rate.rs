//! Rates as people write them in a configuration file: `"100/min"`, `"12/s"`, `"unlimited"`.

use std::fmt;
use std::str::FromStr;

use crate::InvalidUnit;

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// As often as it likes.
    Unlimited,
    /// So many times a second; at least 1.
    PerSecond(u32),
    /// So many times a minute; at least 1.
    PerMinute(u32),
}

impl Rate {
    /// Times a second; `None`: unlimited.
    #[must_use]
    pub fn per_second(self) -> Option<f64> {
        match self {
            Self::Unlimited => None,
            Self::PerSecond(count) => Some(f64::from(count)),
            Self::PerMinute(count) => Some(f64::from(count) / 60.0),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::PerSecond(count) => write!(f, "{count}/s"),
            Self::PerMinute(count) => write!(f, "{count}/min"),
        }
    }
}

impl FromStr for Rate {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let invalid = || InvalidUnit {
            text: text.to_owned(),
            expected: "a rate such as \"100/min\", \"12/s\" or \"unlimited\"",
        };
        let trimmed = text.trim();
        if trimmed == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let (count, period) = trimmed.split_once('/').ok_or_else(invalid)?;
        let count = count.trim();
        let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
        let count = digits.then(|| count.parse().ok()).flatten();
        // A rate of zero would be a switch, and its refusals would never end.
        let count = count.filter(|count| *count > 0).ok_or_else(invalid)?;
        match period.trim() {
            "s" => Ok(Self::PerSecond(count)),
            "min" => Ok(Self::PerMinute(count)),
            _ => Err(invalid()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them_and_shown_likewise() {
        for (text, rate) in [
            ("100/min", Rate::PerMinute(100)),
            (" 12 / s ", Rate::PerSecond(12)),
            ("unlimited", Rate::Unlimited),
        ] {
            assert_eq!(text.parse(), Ok(rate), "{text}");
            assert_eq!(rate.to_string().parse(), Ok(rate));
        }
        for text in [
            "",
            "/s",
            "0/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "1/h",
            "1",
            "4294967296/s",
            "none",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!(Rate::PerMinute(30).per_second(), Some(0.5));
        assert_eq!(Rate::Unlimited.per_second(), None);
    }
}
