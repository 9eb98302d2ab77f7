//! The section `registry` of the configuration.

use holdfast_model::HumanDuration;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Settings of the registry on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// Maximum age of the local replica when it accepts a credential, and so the longest time until a revocation reaches
    /// every node. A node that cannot confirm its replica within this time accepts no new connection.
    pub max_staleness: HumanDuration,
    /// How long a node whose replica cannot be confirmed keeps its sessions before it closes them.
    pub session_grace: HumanDuration,
    /// Number of devices kept in memory with their modules and opened keys for credential checks. A miss costs one read of
    /// the local replica (some microseconds).
    pub identity_cache: usize,
    /// Number of changes that a subscriber of the change feed may be behind before it must resynchronise.
    pub change_feed: usize,
    /// Number of callers that may wait for a read barrier at once; further ones are refused because the hub is busy.
    pub max_waiting_confirms: usize,
    /// Number of writes that may be in progress at once; further ones are refused because the hub is busy.
    pub max_writes: usize,
    /// Number of applied commands that stay in the log for replicas that were unreachable; older ones are deleted once their
    /// effects are in flushed files.
    pub log_entries: u64,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            max_staleness: HumanDuration::secs(1),
            session_grace: HumanDuration::secs(30),
            identity_cache: 4096,
            change_feed: 4096,
            max_waiting_confirms: 4096,
            max_writes: 1024,
            log_entries: 10_000,
        }
    }
}

/// A value of [`RegistryConfig`] that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("registry.{key}: {reason}")]
pub struct InvalidRegistryConfig {
    /// The key within the section.
    pub key: &'static str,
    /// The allowed values.
    pub reason: &'static str,
}

impl RegistryConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first value that cannot work.
    pub fn validate(&self) -> Result<(), InvalidRegistryConfig> {
        let refused = |key, reason| Err(InvalidRegistryConfig { key, reason });
        if self.max_staleness < HumanDuration::millis(100) || self.max_staleness > HumanDuration::secs(60) {
            return refused("max_staleness", "must be between 100ms and 60s");
        }
        if self.session_grace < self.max_staleness {
            return refused("session_grace", "must not be shorter than registry.max_staleness");
        }
        if !(16..=1_000_000).contains(&self.identity_cache) {
            return refused("identity_cache", "must be between 16 and 1000000 devices");
        }
        if !(16..=1_000_000).contains(&self.change_feed) {
            return refused("change_feed", "must be between 16 and 1000000 changes");
        }
        if !(1..=1_000_000).contains(&self.max_waiting_confirms) {
            return refused("max_waiting_confirms", "must be between 1 and 1000000");
        }
        if !(1..=100_000).contains(&self.max_writes) {
            return refused("max_writes", "must be between 1 and 100000");
        }
        if self.log_entries > 100_000_000 {
            return refused("log_entries", "must be at most 100000000");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_read_back() {
        let config = RegistryConfig::default();
        assert_eq!(config.validate(), Ok(()));
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<RegistryConfig>(&text).unwrap(), config);
    }

    #[test]
    fn a_value_that_cannot_work_is_named() {
        let config = RegistryConfig {
            session_grace: HumanDuration::millis(10),
            ..RegistryConfig::default()
        };
        assert_eq!(config.validate().unwrap_err().key, "session_grace");
        let config = RegistryConfig {
            identity_cache: 0,
            ..RegistryConfig::default()
        };
        assert_eq!(config.validate().unwrap_err().key, "identity_cache");
        assert!(serde_json::from_str::<RegistryConfig>(r#"{"max_stalenes":"1s"}"#).is_err());
    }
}
