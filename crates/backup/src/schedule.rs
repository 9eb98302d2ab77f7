//! When a hub makes its next backup: once a day at a time, or so long after the last one.
//!
//! Why the last backup counts, and not a timer: any node may have made it, and none may be running when it is due.
//! Invariants: pure; times are UTC.

use std::fmt;
use std::time::Duration;

use holdfast_model::{HumanDuration, UnixMillis};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// The shortest time between two backups of a schedule.
pub const MIN_INTERVAL: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Every day, so many minutes after midnight.
    DailyAt(u16),
    /// So long after the begin of the one before.
    Every(Duration),
}

/// The text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a time of the day in UTC, as \"02:30\", or a duration of at least 1m, as \"6h\"")]
pub struct InvalidSchedule;

impl std::str::FromStr for Schedule {
    type Err = InvalidSchedule;

    fn from_str(text: &str) -> Result<Self, InvalidSchedule> {
        if let Some((hours, minutes)) = text.split_once(':') {
            let is_number = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_digit());
            if !is_number(hours) || !is_number(minutes) {
                return Err(InvalidSchedule);
            }
            let number = |part: &str, below: u16| part.parse::<u16>().ok().filter(|number| *number < below);
            let (hours, minutes) = number(hours, 24).zip(number(minutes, 60)).ok_or(InvalidSchedule)?;
            return Ok(Self::DailyAt(hours * 60 + minutes));
        }
        let every = text.parse::<HumanDuration>().map_err(|_| InvalidSchedule)?.get();
        if every < MIN_INTERVAL {
            return Err(InvalidSchedule);
        }
        Ok(Self::Every(every))
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DailyAt(minutes) => write!(f, "{:02}:{:02}", minutes / 60, minutes % 60),
            Self::Every(every) => write!(f, "{}s", every.as_secs()),
        }
    }
}

impl Schedule {
    /// Whether a backup is due at `now`, if the newest one began at `last`; `None`: there is none yet.
    #[must_use]
    pub fn is_due(self, last: Option<UnixMillis>, now: UnixMillis) -> bool {
        let Some(last) = last else { return true };
        match self {
            Self::Every(every) => now.0.saturating_sub(last.0) >= millis(every),
            Self::DailyAt(minutes) => {
                let at = u64::from(minutes) * 60_000;
                let Some(shifted) = now.0.checked_sub(at) else {
                    return false;
                };
                // The newest moment of the schedule.
                let moment = shifted / DAY_MS * DAY_MS + at;
                last.0 < moment
            }
        }
    }

    /// The longest time between the begins of two backups.
    #[must_use]
    pub fn interval(self) -> Duration {
        match self {
            Self::DailyAt(_) => Duration::from_millis(DAY_MS),
            Self::Every(every) => every,
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn schedule(text: &str) -> Schedule {
        text.parse().unwrap()
    }

    #[test]
    fn a_schedule_is_a_time_of_the_day_or_a_duration() {
        assert_eq!(schedule("02:30"), Schedule::DailyAt(150));
        assert_eq!(schedule("6h"), Schedule::Every(Duration::from_secs(6 * 3600)));
        for bad in [
            "",
            "2:30",
            "24:00",
            "02:60",
            "+1:00",
            "0 2 * * *",
            "10s",
            "daily",
            "02:30:00",
        ] {
            assert_eq!(bad.parse::<Schedule>(), Err(InvalidSchedule), "{bad}");
        }
    }

    #[test]
    fn a_backup_is_due_when_none_has_begun_since_the_newest_moment() {
        let at = |hours| UnixMillis(20_000 * DAY_MS + hours * HOUR);
        let daily = schedule("02:00");
        assert!(daily.is_due(None, at(1)));
        assert!(!daily.is_due(Some(at(1)), at(1)), "made by hand just now");
        assert!(daily.is_due(Some(at(1)), at(2)), "at the moment");
        assert!(!daily.is_due(Some(at(2)), at(25)));
        assert!(daily.is_due(Some(at(2)), at(26)));
        assert!(daily.is_due(Some(at(2)), at(100)), "the hub was down");
        let every = schedule("6h");
        assert!(!every.is_due(Some(at(2)), at(7)) && every.is_due(Some(at(2)), at(8)));
        assert!(!every.is_due(Some(at(9)), at(8)), "the clock has gone back");
    }
}
