//! Section `[registry]` of the configuration.

use holdfast_model::HumanDuration;

use crate::NodeRole;

holdfast_config::section! {
    /// Identities and settings on this node.
    pub struct RegistryConfig = "registry" {
        /// How old the local replica may be when it accepts a credential, and so how long a revocation may take to reach
        /// every node.
        pub max_staleness: HumanDuration = HumanDuration::secs(1),
            in HumanDuration::millis(100)..=HumanDuration::secs(60) => "must be between 100ms and 60s";
        /// How long a node whose replica cannot be confirmed keeps the sessions that it has, before it closes them.
        pub session_grace: HumanDuration = HumanDuration::secs(30);
        /// How many devices are kept in memory with their modules and opened keys for credential checks. A miss costs one
        /// read of the local replica (some microseconds).
        pub identity_cache: usize = 4096, in 16..=1_000_000 => "must be between 16 and 1000000 devices";
        /// How many changes a subscriber of the change feed may be behind before it must read everything again.
        pub change_feed: usize = 4096, in 16..=1_000_000 => "must be between 16 and 1000000 changes";
        /// How many callers may wait for a confirmation of the replica at once; further ones get the error that the hub is busy.
        pub max_waiting_confirms: usize = 4096, in 1..=1_000_000 => "must be between 1 and 1000000";
        /// How many writes may be in flight at once; further ones get the error that the hub is busy.
        pub max_writes: usize = 1024, in 1..=100_000 => "must be between 1 and 100000";
        /// How many CAs the hub may have.
        pub max_cas: u32 = 25, in 1..=1000 => "must be between 1 and 1000";
        /// How many certificates the deny list may hold.
        pub max_revoked: u32 = 10_000, in 1..=100_000 => "must be between 1 and 100000";
        /// How many entries the CRLs of all CAs may have together. Each costs a node 21 bytes of memory, and as much on disk.
        pub max_crl_entries: u32 = 500_000, in 1..=700_000 => "must be between 1 and 700000";
    }
    fixed {
        /// Number of applied commands that stay in the log for replicas that were unreachable; older ones are deleted once
        /// their effects are in flushed files.
        pub log_entries: u64 = 10_000;
    }
    check |registry| {
        registry.session_grace >= registry.max_staleness
            => session_grace, "must not be shorter than registry.max_staleness";
        registry.log_entries <= 100_000_000 => log_entries, "must be at most 100000000";
    }
}

impl holdfast_config::Choice for NodeRole {
    const NAMES: &'static [(&'static str, Self)] = &[("core", Self::Core), ("gateway", Self::Gateway)];
}

#[cfg(test)]
mod tests {
    use holdfast_config::Section as _;

    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(RegistryConfig::default().validate(), Ok(()));
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
    }
}
