//! Points in time as JSON and headers carry them (Spec rest §1.5).

use holdfast_model::UnixMillis;
use time::OffsetDateTime;

/// The time of an event that has never happened.
pub(super) const NEVER: &str = "0001-01-01T00:00:00Z";

/// `2026-11-23T10:20:30.1230000Z`: seven digits of fraction always, since the Java SDK cuts the first three characters
/// after the point.
pub(super) fn iso(time: Option<UnixMillis>) -> String {
    let Some((time, millis)) = time.and_then(split) else {
        return NEVER.to_owned();
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{millis:03}0000Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
    )
}

/// `11/23/2026 10:20:30`.
pub(super) fn us_date(time: UnixMillis) -> String {
    let Some((time, _)) = split(time) else {
        return "01/01/0001 00:00:00".to_owned();
    };
    format!(
        "{:02}/{:02}/{:04} {:02}:{:02}:{:02}",
        u8::from(time.month()),
        time.day(),
        time.year(),
        time.hour(),
        time.minute(),
        time.second(),
    )
}

fn split(time: UnixMillis) -> Option<(OffsetDateTime, u64)> {
    let seconds = i64::try_from(time.seconds()).ok()?;
    Some((OffsetDateTime::from_unix_timestamp(seconds).ok()?, time.0 % 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_seven_digits_of_fraction_and_never_has_none() {
        assert_eq!(iso(Some(UnixMillis(1_795_429_230_123))), "2026-11-23T10:20:30.1230000Z");
        assert_eq!(iso(Some(UnixMillis(1_795_429_230_000))), "2026-11-23T10:20:30.0000000Z");
        assert_eq!(iso(None), NEVER);
        assert_eq!(iso(Some(UnixMillis(u64::MAX))), NEVER);
        assert_eq!(us_date(UnixMillis(1_795_429_230_123)), "11/23/2026 10:20:30");
    }
}
