//! Points in time as SDKs write them: ISO 8601 in many dialects on the way in, .NET's one form on the way out.
//!
//! The calendar is the `time` crate's. The dialects are cut apart by hand: each of them was seen from an SDK (Spec §5.2
//! `$.exp`, §4.2 rule 6), and no one format description of the crate covers them.

use holdfast_model::round_trip;
use time::{Date, Month};

/// The first and last millisecond of the years 1–9999.
const YEARS_1_TO_9999: (i64, i64) = (-62_135_596_800_000, 253_402_300_799_999);

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
    let year = number(&[y0, y1, y2, y3]).filter(|year| *year > 0)?;
    let date = Date::from_calendar_date(
        i32::try_from(year).ok()?,
        Month::try_from(u8::try_from(number(&[m0, m1])?).ok()?).ok()?,
        u8::try_from(number(&[d0, d1])?).ok()?,
    );
    let midnight_ms = date.ok()?.midnight().assume_utc().unix_timestamp() * 1000;
    let (Some((b'T' | b't' | b' ', time)), true) = (time.split_first().map(|(&b, t)| (b, t)), time.len() > 1) else {
        return time.is_empty().then_some(midnight_ms);
    };
    let (time, offset_minutes) = split_offset(time)?;
    Some(midnight_ms + time_of_day_ms(time)? - offset_minutes * 60_000)
}

/// Appends `2030-07-19T23:06:40.0000000Z`, the .NET round-trip form; C# drops the connection at any other.
///
/// Times outside the years 1–9999 are moved to the nearest of them.
pub fn format_utc(out: &mut String, ms: i64) {
    let (first, last) = YEARS_1_TO_9999;
    // Every time in that range has the form.
    out.push_str(&round_trip(ms.clamp(first, last)).unwrap_or_default());
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
