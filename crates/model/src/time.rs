//! Points in time as they are stored and sent, and as .NET writes them.

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// The round-trip form of .NET.
const ROUND_TRIP: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:7]Z");

/// Milliseconds since 1970-01-01 UTC by the hub's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Whole seconds since 1970, cut.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }
}

/// `2030-07-19T23:06:40.0000000Z` for milliseconds since 1970: seven digits of fraction always, since the Java SDK cuts
/// the first three characters after the point, and C# drops the connection at any other form. `None` outside the years
/// 1–9999.
#[must_use]
pub fn round_trip(ms: i64) -> Option<String> {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()?;
    (time.year() > 0).then(|| time.format(ROUND_TRIP).ok()).flatten()
}

/// `11/23/2026 10:20:30`, as .NET writes it in tracking ids.
#[must_use]
pub fn us_date(time: UnixMillis) -> String {
    let format = format_description!("[month]/[day]/[year] [hour]:[minute]:[second]");
    i64::try_from(time.seconds())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()?.format(format).ok())
        .unwrap_or_else(|| "01/01/0001 00:00:00".to_owned())
}
