//! Section `[consensus]` of the configuration.

use std::sync::Arc;
use std::time::Duration;

use holdfast_config::{Invalid, Section as _};
use holdfast_model::{ByteSize, HumanDuration};
use thiserror::Error;

/// The engine's own are about as many, each group's at moments of its own; see `runtime`.
const TICKS_PER_HEARTBEAT: u32 = 4;

holdfast_config::section! {
    /// Timers and memory of the replicated logs.
    pub struct ConsensusConfig = "consensus" {
        /// How often a leader sends heartbeats to its followers.
        pub heartbeat: HumanDuration = HumanDuration::millis(200),
            in HumanDuration::millis(20)..=HumanDuration::secs(60) => "must be 20ms to 60s";
        /// The shortest silence after which a follower stands for election.
        pub election_timeout_min: HumanDuration = HumanDuration::millis(400);
        /// The longest; each time one between the two is drawn. Also the leader's lease.
        pub election_timeout_max: HumanDuration = HumanDuration::millis(800),
            in ..=HumanDuration::secs(600) => "must be at most 10m";
        /// Entries of one group that are proposed and not yet applied; further proposals wait.
        pub max_in_flight: ByteSize = ByteSize::mib(64),
            in ByteSize::mib(1)..=ByteSize::gib(4) => "must be 1MiB to 4GiB";
        /// Recent entries of one group that are kept in memory until they are applied.
        pub tail_cache: ByteSize = ByteSize::mib(16), in ..=ByteSize::gib(4) => "must be at most 4GiB";
    }
    check |consensus| {
        consensus.election_timeout_min.get() >= 2 * consensus.heartbeat.get()
            => election_timeout_min, "must be at least twice consensus.heartbeat";
        consensus.election_timeout_max > consensus.election_timeout_min
            => election_timeout_max, "must be longer than consensus.election_timeout_min";
    }
}

/// A configuration that the engine cannot work with.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A value out of its range.
    #[error(transparent)]
    Value(#[from] Invalid),
    /// The engine's own check fails.
    #[error("the consensus engine refuses its timers")]
    Engine(#[from] openraft::ConfigError),
}

impl ConsensusConfig {
    /// Interval at which a group checks whether a heartbeat or an election is due.
    pub(crate) fn tick(&self) -> Duration {
        self.heartbeat.get() / TICKS_PER_HEARTBEAT
    }

    pub(crate) fn to_openraft(&self) -> Result<Arc<openraft::Config>, ConfigError> {
        self.validate()?;
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
            // Only `Group::trim` purges: it makes a snapshot first, and openraft would purge behind that one by itself, entries whose
            // effects a crash undoes among them.
            max_in_snapshot_log_to_keep: u64::MAX,
            allow_log_reversion: Some(false),
            // For each part, and for the installation.
            install_snapshot_timeout: 30_000,
            // Messages, not bytes: those are bounded by `max_in_flight` in front of it.
            api_channel_size: Some(8_192),
            notification_channel_size: Some(8_192),
            ..openraft::Config::default()
        };
        Ok(Arc::new(config.validate()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_for_the_engine_too() {
        assert!(ConsensusConfig::default().to_openraft().is_ok());
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
