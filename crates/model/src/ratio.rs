//! A part of a whole as people write it in a configuration file: `0.01`.

use std::fmt;
use std::str::FromStr;

use crate::InvalidUnit;

/// What the whole is, so that ratios can be compared.
const WHOLE: u32 = 1_000_000;

/// A number from 0 to 1, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(u32);

impl Ratio {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// All.
    pub const ONE: Self = Self(WHOLE);

    /// So many hundredths; at most all.
    #[must_use]
    pub const fn percent(count: u32) -> Self {
        let hundredths = if count > 100 { 100 } else { count };
        Self(hundredths * (WHOLE / 100))
    }

    /// `number`, rounded to millionths; `None` outside 0 to 1. A number above 0 is at least one millionth.
    #[must_use]
    pub fn new(number: f64) -> Option<Self> {
        if !(0.0..=1.0).contains(&number) {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to a million"
        )]
        let millionths = (number * f64::from(WHOLE)).round() as u32;
        Some(Self(millionths.max(u32::from(number > 0.0))))
    }

    /// This part of `whole`, rounded down.
    #[must_use]
    pub const fn of(self, whole: u64) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "a part of a u64")]
        let part = (whole as u128 * self.0 as u128 / WHOLE as u128) as u64;
        part
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == WHOLE {
            return f.write_str("1.0");
        }
        let digits = format!("{:06}", self.0);
        let digits = digits.trim_end_matches('0');
        write!(f, "0.{}", if digits.is_empty() { "0" } else { digits })
    }
}

impl FromStr for Ratio {
    type Err = InvalidUnit;

    fn from_str(text: &str) -> Result<Self, InvalidUnit> {
        let number = text.trim().parse().ok().and_then(Self::new);
        number.ok_or_else(|| InvalidUnit {
            text: text.to_owned(),
            expected: "a number from 0 to 1",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_read_as_it_is_shown() {
        for (text, shown) in [
            ("0", "0.0"),
            ("1", "1.0"),
            ("1.0", "1.0"),
            ("0.01", "0.01"),
            ("0.5", "0.5"),
            ("0.123456", "0.123456"),
            ("0.0000001", "0.000001"),
        ] {
            let ratio: Ratio = text.parse().unwrap();
            assert_eq!(ratio.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(ratio));
        }
        for text in ["", "1.1", "-0.1", "NaN", "inf", "1%", "half"] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_part_is_rounded_down() {
        assert_eq!(Ratio::percent(1).of(250), 2);
        assert_eq!(Ratio::ZERO.of(u64::MAX), 0);
        assert_eq!(Ratio::ONE.of(u64::MAX), u64::MAX);
        assert_eq!(Ratio::percent(101), Ratio::ONE);
    }
}
