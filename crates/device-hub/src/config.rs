//! Limits of what waits in a core.

/// Configuration of the device hub.
#[derive(Debug, Clone)]
pub struct DeviceHubConfig {
    /// Bytes of messages of one core that may wait for their commit before connections stop being read.
    pub max_unacknowledged_bytes: usize,
    /// Bytes after which a batch is closed even though its round goes on; one batch is one entry of the log.
    pub max_batch_bytes: usize,
    /// Identities whose last refusals are remembered for `diagnose`.
    pub max_refusal_identities: usize,
    /// Audit records of refusals that are written per second; what is above is counted, not written.
    pub max_audit_refusals_per_second: u32,
}

impl Default for DeviceHubConfig {
    fn default() -> Self {
        Self {
            max_unacknowledged_bytes: 64 * 1024 * 1024,
            max_batch_bytes: 1024 * 1024,
            max_refusal_identities: 4096,
            max_audit_refusals_per_second: 100,
        }
    }
}
