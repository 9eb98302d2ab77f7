//! The rates of Azure IoT Hub's tiers (Spec auth-and-limits §9.1). Basic tiers have those of the standard tier beside them.

use holdfast_config::Choice;
use holdfast_model::{ByteSize, Rate};

use super::class::ThrottleClass;

/// A set of rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// No rate.
    Unlimited,
    /// The free tier: the rates of one unit of S1.
    F1,
    /// Standard 1.
    S1,
    /// Standard 2.
    S2,
    /// Standard 3.
    S3,
}

impl Choice for Profile {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("unlimited", Self::Unlimited),
        ("F1", Self::F1),
        ("S1", Self::S1),
        ("S2", Self::S2),
        ("S3", Self::S3),
    ];
}

impl Profile {
    /// Most units that the tier has.
    pub(crate) const fn max_units(self) -> u16 {
        match self {
            Self::Unlimited | Self::F1 => 1,
            Self::S1 | Self::S2 => 200,
            Self::S3 => 10,
        }
    }

    /// Messages of a day; `None`: any number.
    pub(crate) const fn daily_messages(self, units: u16) -> Option<u64> {
        let each = match self {
            Self::Unlimited => return None,
            Self::F1 => 8_000,
            Self::S1 => 400_000,
            Self::S2 => 6_000_000,
            Self::S3 => 300_000_000,
        };
        Some(each * units as u64)
    }

    /// The block in which they count.
    pub(crate) const fn meter(self) -> ByteSize {
        match self {
            Self::F1 => ByteSize(512),
            Self::Unlimited | Self::S1 | Self::S2 | Self::S3 => ByteSize::kib(4),
        }
    }

    /// The rate of `class` for the whole hub. Tokens and requests to `$management` have no row in the specification: as new connections, each
    /// of which puts a token.
    pub(crate) fn rate(self, class: ThrottleClass, units: u16) -> Rate {
        let units = u32::from(units);
        let minute = |each: u32| Rate::PerMinute(each * units);
        let second = |each: u32| Rate::PerSecond(each * units);
        let at_least = |least: u32, each: u32| Rate::PerSecond(least.max(each * units));
        match (class, self) {
            (_, Self::Unlimited) => Rate::Unlimited,
            (
                ThrottleClass::RegistryOperations | ThrottleClass::CloudSends | ThrottleClass::UploadInitiations,
                Self::F1 | Self::S1 | Self::S2,
            ) => minute(100),
            (
                ThrottleClass::RegistryOperations | ThrottleClass::CloudSends | ThrottleClass::UploadInitiations,
                Self::S3,
            ) => minute(5000),
            (ThrottleClass::CloudReceives, Self::F1 | Self::S1 | Self::S2) => minute(1000),
            (ThrottleClass::CloudReceives, Self::S3) => minute(50_000),
            (
                ThrottleClass::Connects
                | ThrottleClass::TelemetrySends
                | ThrottleClass::AmqpTokens
                | ThrottleClass::AmqpManagement,
                Self::F1 | Self::S1,
            ) => at_least(100, 12),
            (
                ThrottleClass::Connects
                | ThrottleClass::TelemetrySends
                | ThrottleClass::AmqpTokens
                | ThrottleClass::AmqpManagement,
                Self::S2,
            ) => second(120),
            (
                ThrottleClass::Connects
                | ThrottleClass::TelemetrySends
                | ThrottleClass::AmqpTokens
                | ThrottleClass::AmqpManagement,
                Self::S3,
            ) => second(6000),
            (ThrottleClass::Queries, Self::F1 | Self::S1 | Self::S2) => minute(20),
            (ThrottleClass::Queries, Self::S3) => minute(1000),
            // In blocks of 4 KiB: 160 KB/s, 480 KB/s, 24 MB/s.
            (ThrottleClass::Methods, Self::F1 | Self::S1) => second(40),
            (ThrottleClass::Methods, Self::S2) => second(120),
            (ThrottleClass::Methods, Self::S3) => second(6000),
            (ThrottleClass::TwinReads, Self::F1 | Self::S1) => Rate::PerSecond(100),
            (ThrottleClass::TwinReads, Self::S2) => at_least(100, 10),
            (ThrottleClass::TwinReads, Self::S3) => second(500),
            (ThrottleClass::TwinUpdates, Self::F1 | Self::S1) => Rate::PerSecond(50),
            (ThrottleClass::TwinUpdates, Self::S2) => at_least(50, 5),
            (ThrottleClass::TwinUpdates, Self::S3) => second(250),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Spec auth-and-limits §9.1, row by row: F1, then one unit and three units of S1, S2, S3.
    #[test]
    fn profiles_have_the_rates_of_the_tiers_times_their_units() {
        let table: [(ThrottleClass, [&str; 7]); 12] = [
            (
                ThrottleClass::RegistryOperations,
                [
                    "100/min",
                    "100/min",
                    "300/min",
                    "100/min",
                    "300/min",
                    "5000/min",
                    "15000/min",
                ],
            ),
            (
                ThrottleClass::Connects,
                ["100/s", "100/s", "100/s", "120/s", "360/s", "6000/s", "18000/s"],
            ),
            (
                ThrottleClass::AmqpTokens,
                ["100/s", "100/s", "100/s", "120/s", "360/s", "6000/s", "18000/s"],
            ),
            (
                ThrottleClass::AmqpManagement,
                ["100/s", "100/s", "100/s", "120/s", "360/s", "6000/s", "18000/s"],
            ),
            (
                ThrottleClass::TelemetrySends,
                ["100/s", "100/s", "100/s", "120/s", "360/s", "6000/s", "18000/s"],
            ),
            (
                ThrottleClass::Queries,
                ["20/min", "20/min", "60/min", "20/min", "60/min", "1000/min", "3000/min"],
            ),
            (
                ThrottleClass::CloudSends,
                [
                    "100/min",
                    "100/min",
                    "300/min",
                    "100/min",
                    "300/min",
                    "5000/min",
                    "15000/min",
                ],
            ),
            (
                ThrottleClass::UploadInitiations,
                [
                    "100/min",
                    "100/min",
                    "300/min",
                    "100/min",
                    "300/min",
                    "5000/min",
                    "15000/min",
                ],
            ),
            (
                ThrottleClass::CloudReceives,
                [
                    "1000/min",
                    "1000/min",
                    "3000/min",
                    "1000/min",
                    "3000/min",
                    "50000/min",
                    "150000/min",
                ],
            ),
            (
                ThrottleClass::Methods,
                ["40/s", "40/s", "120/s", "120/s", "360/s", "6000/s", "18000/s"],
            ),
            (
                ThrottleClass::TwinReads,
                ["100/s", "100/s", "100/s", "100/s", "100/s", "500/s", "1500/s"],
            ),
            (
                ThrottleClass::TwinUpdates,
                ["50/s", "50/s", "50/s", "50/s", "50/s", "250/s", "750/s"],
            ),
        ];
        let columns = [
            (Profile::F1, 1),
            (Profile::S1, 1),
            (Profile::S1, 3),
            (Profile::S2, 1),
            (Profile::S2, 3),
            (Profile::S3, 1),
            (Profile::S3, 3),
        ];
        for (class, row) in table {
            for ((profile, units), rate) in columns.into_iter().zip(row) {
                assert_eq!(
                    profile.rate(class, units).to_string(),
                    rate,
                    "{class} {profile:?} {units}"
                );
            }
        }
        assert_eq!(Profile::S1.rate(ThrottleClass::Connects, 200), Rate::PerSecond(2400));
        assert_eq!(Profile::S2.rate(ThrottleClass::TwinReads, 200), Rate::PerSecond(2000));
    }
}
