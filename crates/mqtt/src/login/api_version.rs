//! `api-version` of a user name.

/// A date, perhaps with `-preview` behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion {
    /// Four digits.
    pub year: u16,
    /// 1–12.
    pub month: u8,
    /// 1–31.
    pub day: u8,
    /// Something stands behind the date.
    pub preview: bool,
}

impl ApiVersion {
    /// The oldest version that is accepted: 2016-11-14 (Spec §2.2).
    pub const OLDEST: Self = Self {
        year: 2016,
        month: 11,
        day: 14,
        preview: false,
    };

    /// `YYYY-MM-DD` or `YYYY-MM-DD-{letters, digits, dots, hyphens}`; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (date, suffix) = text.split_at_checked(10)?;
        let &[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = date.as_bytes() else {
            return None;
        };
        let preview = match suffix.strip_prefix('-') {
            Some(rest) => {
                let lawful = !rest.is_empty()
                    && rest
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-');
                lawful.then_some(true)?
            }
            None => suffix.is_empty().then_some(false)?,
        };
        let year = two(y0, y1)? * 100 + two(y2, y3)?;
        let (month, day) = (u8::try_from(two(m0, m1)?).ok()?, u8::try_from(two(d0, d1)?).ok()?);
        let valid = (1..=12).contains(&month) && (1..=31).contains(&day);
        valid.then_some(Self {
            year,
            month,
            day,
            preview,
        })
    }
}

fn two(high: u8, low: u8) -> Option<u16> {
    (high.is_ascii_digit() && low.is_ascii_digit()).then(|| u16::from(high - b'0') * 10 + u16::from(low - b'0'))
}
