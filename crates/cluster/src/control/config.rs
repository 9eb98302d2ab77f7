//! Timeouts and limits of control.

use std::time::Duration;

use holdfast_model::HumanDuration;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Timeouts and limits of control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// Interval at which everything is checked without a trigger.
    pub tick: HumanDuration,
    /// How long a node must be up before the leaderships for which it is preferred move back to it.
    pub settle: HumanDuration,
    /// How long a voter of the registry may be down before another core node, if there is one, votes in its place. It
    /// stays a member.
    pub voter_patience: HumanDuration,
    /// A replica that lags by at most this many entries counts as caught up.
    pub max_lag: u64,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            tick: HumanDuration::millis(1_000),
            settle: HumanDuration::millis(5_000),
            voter_patience: HumanDuration::millis(600_000),
            max_lag: 256,
        }
    }
}

/// An invalid value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key}: {reason}")]
pub struct InvalidControlConfig {
    /// The key.
    pub key: &'static str,
    /// The allowed range.
    pub reason: &'static str,
}

impl ControlConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn validate(&self) -> Result<(), InvalidControlConfig> {
        let check = |ok: bool, key, reason| {
            if ok {
                Ok(())
            } else {
                Err(InvalidControlConfig { key, reason })
            }
        };
        let within = |value: HumanDuration, low: u64, high: u64| {
            (Duration::from_millis(low)..=Duration::from_secs(high)).contains(&value.get())
        };
        check(within(self.tick, 500, 60), "tick", "must be 500ms to 60s")?;
        check(within(self.settle, 0, 3_600), "settle", "must be at most 1h")?;
        check(
            within(self.voter_patience, 10_000, 7 * 86_400),
            "voter_patience",
            "must be 10s to 7d",
        )?;
        check(
            (1..=100_000).contains(&self.max_lag),
            "max_lag",
            "must be 1 to 100000 entries",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_short_tick_is_not() {
        let config = ControlConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<ControlConfig>(&text).unwrap(), config);
        let short = ControlConfig {
            tick: HumanDuration::millis(10),
            ..config
        };
        assert_eq!(short.validate().unwrap_err().key, "tick");
    }
}
