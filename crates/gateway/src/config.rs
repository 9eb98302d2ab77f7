//! Limits of the MQTT front end.

use std::time::Duration;

/// Limits of one MQTT connection, and of all connections of one core.
#[derive(Debug, Clone)]
pub struct MqttConfig {
    /// Time from accepting a connection to its complete CONNECT (Spec device-mqtt §1).
    pub connect_timeout: Duration,
    /// Connections of one core that have not authenticated yet; past it the one that has waited longest is closed.
    pub max_unauthenticated: usize,
    /// Bytes that wait to be written to one peer; a peer that lets more pile up is closed.
    pub max_output_bytes: usize,
    /// Upper end of the random time after a token's expiry at which its connection is closed.
    pub expiry_jitter: Duration,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(60),
            max_unauthenticated: 10_000,
            max_output_bytes: 1024 * 1024,
            expiry_jitter: Duration::from_secs(60),
        }
    }
}
