//! Section `[consensus]` of the configuration.

use std::sync::Arc;
use std::time::Duration;

use holdfast_model::{ByteSize, HumanDuration};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The engine's own are about as many, each group's at moments of its own; see `runtime`.
const TICKS_PER_HEARTBEAT: u32 = 4;

/// How Raft groups keep time, and how much they hold in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsensusConfig {
    /// Interval of a leader's heartbeats.
    pub heartbeat: HumanDuration,
    /// The shortest silence after which a follower stands for election.
    pub election_timeout_min: HumanDuration,
    /// The longest; each election time-out is drawn between the two. Also the length of the leader's lease.
    pub election_timeout_max: HumanDuration,
    /// Bytes of one group's entries that are proposed and not yet applied; further proposals wait.
    pub max_in_flight: ByteSize,
    /// Recent entries of one group that are kept in memory until they are applied.
    pub tail_cache: ByteSize,
}

impl Default for ConsensusConfig {
    fn default() -> Self {
        Self {
            heartbeat: HumanDuration::millis(200),
            election_timeout_min: HumanDuration::millis(400),
            election_timeout_max: HumanDuration::millis(800),
            max_in_flight: ByteSize::mib(64),
            tail_cache: ByteSize::mib(16),
        }
    }
}

/// A value of `[consensus]` that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("consensus.{key}: {reason}")]
pub struct InvalidConfig {
    /// The key inside the section.
    pub key: &'static str,
    /// Why, with the allowed range.
    pub reason: String,
}

impl ConsensusConfig {
    /// Checks ranges and relations.
    ///
    /// # Errors
    /// The first value that cannot work.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let check = |ok: bool, key, reason: &str| {
            if ok {
                Ok(())
            } else {
                Err(InvalidConfig {
                    key,
                    reason: reason.to_owned(),
                })
            }
        };
        let (heartbeat, min, max) = (
            self.heartbeat.as_millis(),
            self.election_timeout_min.as_millis(),
            self.election_timeout_max.as_millis(),
        );
        check((20..=60_000).contains(&heartbeat), "heartbeat", "must be 20ms to 60s")?;
        check(
            min >= 2 * heartbeat,
            "election_timeout_min",
            "must be at least twice consensus.heartbeat",
        )?;
        check(
            max > min,
            "election_timeout_max",
            "must be longer than consensus.election_timeout_min",
        )?;
        check(max <= 600_000, "election_timeout_max", "must be at most 10m")?;
        let in_flight = ByteSize::mib(1)..=ByteSize::gib(4);
        check(
            in_flight.contains(&self.max_in_flight),
            "max_in_flight",
            "must be 1MiB to 4GiB",
        )?;
        check(
            self.tail_cache <= ByteSize::gib(4),
            "tail_cache",
            "must be at most 4GiB",
        )
    }

    /// Interval at which a group checks whether a heartbeat or an election is due.
    pub(crate) fn tick(&self) -> Duration {
        self.heartbeat.get() / TICKS_PER_HEARTBEAT
    }

    pub(crate) fn to_openraft(&self) -> Result<Arc<openraft::Config>, String> {
        self.validate().map_err(|error| error.to_string())?;
        let config = openraft::Config {
            cluster_name: "holdfast".to_owned(),
            // Half a tick less, so that the tick at which a heartbeat is due does not come just before it.
            heartbeat_interval: self.heartbeat.as_millis()
                - self.heartbeat.as_millis() / u64::from(2 * TICKS_PER_HEARTBEAT),
            election_timeout_min: self.election_timeout_min.as_millis(),
            election_timeout_max: self.election_timeout_max.as_millis(),
            // A node that cannot win must not raise the term of those that can.
            enable_pre_vote: Some(true),
            // A leader that hears no quorum stops its heartbeats, so that followers which still hear it can elect another.
            quorum_loss_probe_interval: Some(2 * self.election_timeout_max.as_millis() + self.heartbeat.as_millis()),
            // Appends count as heartbeats.
            heartbeat_min_interval: Some(self.heartbeat.as_millis() / 2),
            // Bytes are bounded by the log's limit for one read.
            max_payload_entries: 1_024,
            // A restarted leader stands for election, which commits all entries of its log.
            enable_leader_restore: Some(false),
            // The hub triggers snapshots: the log is the data, not something to compact away.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            allow_log_reversion: Some(false),
            // For each part, and for the installation.
            install_snapshot_timeout: 30_000,
            // Messages, not bytes: those are bounded by `max_in_flight` in front of it.
            api_channel_size: Some(8_192),
            notification_channel_size: Some(8_192),
            ..openraft::Config::default()
        };
        config.validate().map(Arc::new).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_read_back() {
        let config = ConsensusConfig::default();
        assert!(config.to_openraft().is_ok());
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<ConsensusConfig>(&text).unwrap(), config);
        assert!(toml::from_str::<ConsensusConfig>("hartbeat = \"1s\"").is_err());
    }

    #[test]
    fn timers_that_would_elect_without_need_are_refused() {
        let config = ConsensusConfig {
            heartbeat: HumanDuration::millis(300),
            ..ConsensusConfig::default()
        };
        assert_eq!(config.validate().unwrap_err().key, "election_timeout_min");
    }
}
