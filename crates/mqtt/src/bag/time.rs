//! Points in time as SDKs write them: ISO 8601 in many dialects on the way in, .NET's one form on the way out.
//!
//! Written here rather than taken from a date library because only this one field needs it, and because each dialect
//! below was seen from an SDK (Spec §5.2 `$.exp`, §4.2 rule 6).

use crate::escape::append;

const DAY_MS: i64 = 86_400_000;

/// Parses `2030-01-01T00:00:00[.fraction][Z|±hh:mm]`, with a blank for the `T`, without seconds, or the date alone.
///
/// Milliseconds since 1970, cut; no offset means UTC. `None` for anything else.
#[must_use]
pub fn parse_utc(text: &str) -> Option<i64> {
    let bytes = text.trim_ascii().as_bytes();
    let (date, time) = bytes.split_at_checked(10)?;
    let &[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = date else {
        return None;
    };
    let days = days_since_1970(
        i64::from(number(&[y0, y1, y2, y3])?),
        number(&[m0, m1])?,
        number(&[d0, d1])?,
    )?;
    let (Some((b'T' | b't' | b' ', time)), true) = (time.split_first().map(|(&b, t)| (b, t)), time.len() > 1) else {
        return time.is_empty().then_some(days * DAY_MS);
    };
    let (time, offset_minutes) = split_offset(time)?;
    Some(days * DAY_MS + time_of_day_ms(time)? - offset_minutes * 60_000)
}

/// Appends `2030-07-19T23:06:40.0000000Z`, the .NET round-trip form; C# drops the connection at any other.
///
/// Times outside the years 1–9999 are moved to the nearest of them.
pub fn format_utc(out: &mut String, ms: i64) {
    let ms = ms.clamp(-62_135_596_800_000, 253_402_300_799_999);
    let (days, rest) = (ms.div_euclid(DAY_MS), ms.rem_euclid(DAY_MS));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    let fraction = rest % 1000;
    append(
        out,
        format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:03}0000Z"),
    );
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + u32::from(digit - b'0'))
    })
}

/// Cuts `Z`, `+hh:mm`, `+hhmm` or `+hh` off; the offset in minutes.
fn split_offset(time: &[u8]) -> Option<(&[u8], i64)> {
    if let Some((b'Z' | b'z', time)) = time.split_last().map(|(&b, t)| (b, t)) {
        return Some((time, 0));
    }
    let Some(at) = time.iter().position(|byte| matches!(byte, b'+' | b'-')) else {
        return Some((time, 0));
    };
    let (time, offset) = time.split_at_checked(at)?;
    let (hours, minutes) = match offset {
        [_, h0, h1] => (number(&[*h0, *h1])?, 0),
        [_, h0, h1, m0, m1] | [_, h0, h1, b':', m0, m1] => (number(&[*h0, *h1])?, number(&[*m0, *m1])?),
        _ => return None,
    };
    if hours > 14 || minutes > 59 {
        return None;
    }
    let total = i64::from(hours * 60 + minutes);
    Some((time, if offset.first() == Some(&b'-') { -total } else { total }))
}

/// `hh:mm[:ss[.fraction]]` as milliseconds.
fn time_of_day_ms(time: &[u8]) -> Option<i64> {
    let (clock, fraction) = match time.iter().position(|&byte| byte == b'.') {
        Some(at) => (time.get(..at)?, Some(time.get(at + 1..)?)),
        None => (time, None),
    };
    let (hour, minute, second) = match clock {
        [h0, h1, b':', m0, m1] if fraction.is_none() => (number(&[*h0, *h1])?, number(&[*m0, *m1])?, 0),
        [h0, h1, b':', m0, m1, b':', s0, s1] => (number(&[*h0, *h1])?, number(&[*m0, *m1])?, number(&[*s0, *s1])?),
        _ => return None,
    };
    // A leap second is counted into the next minute.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut ms = 0;
    if let Some(fraction) = fraction {
        if fraction.is_empty() || fraction.len() > 9 || !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for place in 0..3 {
            ms = ms * 10 + fraction.get(place).map_or(0, |digit| i64::from(digit - b'0'));
        }
    }
    Some(i64::from((hour * 60 + minute) * 60 + second) * 1000 + ms)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days of the civil calendar; years are counted from March so that the leap day comes last.
fn days_since_1970(year: i64, month: u32, day: u32) -> Option<i64> {
    if year == 0 || !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
        return None;
    }
    let march_year = if month <= 2 { year - 1 } else { year };
    let march_month = i64::from((month + 9) % 12);
    let day_of_year = (153 * march_month + 2) / 5 + i64::from(day) - 1;
    let days = 365 * march_year + march_year.div_euclid(4) - march_year.div_euclid(100) + march_year.div_euclid(400);
    Some(days + day_of_year - 719_468)
}

/// The inverse of [`days_since_1970`].
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}
