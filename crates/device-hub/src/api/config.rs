//! The limits of the device hub.

use std::time::Duration;

/// Configuration of the device hub.
#[derive(Debug, Clone)]
pub struct DeviceHubConfig {
    /// Bytes of messages of one core that may wait for their commit before connections stop being read; beyond it each
    /// partition may hold one batch.
    pub max_unacknowledged_bytes: usize,
    /// Bytes after which a batch is sealed before its round ends; one batch is one entry of the log.
    pub max_batch_bytes: usize,
    /// Identities whose last refusals are remembered for `diagnose`.
    pub max_refusal_identities: usize,
    /// Audit records of refusals that are written per second; further ones are counted, not written.
    pub max_audit_refusals_per_second: u32,
    /// Connections of this node that may wait for the registry's lease, for the owner of their partition or for the end
    /// of an older session; more are told to come again.
    pub max_waiting_connects: usize,
    /// Bytes of deliveries that front ends of this node may hold until devices have settled them; more are not taken from
    /// owners.
    pub max_downlink_bytes: usize,
    /// Sessions that are closed per second when the node drains, stops or has been cut off for too long.
    pub drain_rate: u32,
    /// How long sessions stay without the registry's lease, and how long an owner keeps those of a gateway that is
    /// silent: `registry.session_grace`.
    pub session_grace: Duration,
}

impl Default for DeviceHubConfig {
    fn default() -> Self {
        Self {
            max_unacknowledged_bytes: 64 * 1024 * 1024,
            max_batch_bytes: 1024 * 1024,
            max_refusal_identities: 4096,
            max_audit_refusals_per_second: 100,
            max_waiting_connects: 10_000,
            max_downlink_bytes: 64 * 1024 * 1024,
            drain_rate: 1000,
            session_grace: Duration::from_secs(30),
        }
    }
}
