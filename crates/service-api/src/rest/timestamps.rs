//! Points in time as JSON and headers carry them (Spec rest §1.5).

use holdfast_model::{UnixMillis, round_trip};
use time::OffsetDateTime;
use time::macros::format_description;

/// The time of an event that has never happened.
pub(super) const NEVER: &str = "0001-01-01T00:00:00Z";

/// `2026-11-23T10:20:30.1230000Z`.
pub(super) fn iso(time: Option<UnixMillis>) -> String {
    time.and_then(|time| round_trip(i64::try_from(time.0).ok()?))
        .unwrap_or_else(|| NEVER.to_owned())
}

/// `Mon, 23 Nov 2026 10:20:30 GMT`.
pub(super) fn rfc_1123(time: UnixMillis) -> String {
    let format =
        format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
    i64::try_from(time.seconds())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(format).ok())
        .unwrap_or_else(|| NEVER.to_owned())
}

#[cfg(test)]
mod tests {
    use holdfast_model::us_date;

    use super::*;

    #[test]
    fn a_time_has_seven_digits_of_fraction_and_never_has_none() {
        assert_eq!(iso(Some(UnixMillis(1_795_429_230_123))), "2026-11-23T10:20:30.1230000Z");
        assert_eq!(iso(Some(UnixMillis(1_795_429_230_000))), "2026-11-23T10:20:30.0000000Z");
        assert_eq!(iso(None), NEVER);
        assert_eq!(iso(Some(UnixMillis(u64::MAX))), NEVER);
        assert_eq!(rfc_1123(UnixMillis(1_795_429_230_123)), "Mon, 23 Nov 2026 10:20:30 GMT");
        assert_eq!(us_date(UnixMillis(1_795_429_230_123)), "11/23/2026 10:20:30");
    }
}
