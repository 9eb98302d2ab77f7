//! Limits of the endpoint.

use std::time::Duration;

/// Limits of one connection and of all connections of one core.
#[derive(Debug, Clone)]
pub struct EventsConfig {
    /// Bytes of events that wait to be written to one connection; a slower reader is served from the log later.
    pub output_bytes: usize,
    /// Connections of one core that have not authenticated yet; past it the one that has waited longest is closed.
    pub max_unauthenticated: usize,
    /// How long a connection may stay open without any authenticated identity (Spec amqp §3).
    pub unauthenticated_timeout: Duration,
    /// How long the registry's leader may take to confirm a refusal before the client is asked to retry.
    pub confirm_timeout: Duration,
    /// Whether links under `messages/events` are redirected to the hub's name, as Azure does, instead of being served.
    pub redirect: bool,
    /// The port that redirected readers are sent to.
    pub redirect_port: u16,
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            output_bytes: 128 * 1024,
            max_unauthenticated: 10_000,
            unauthenticated_timeout: Duration::from_secs(60),
            confirm_timeout: Duration::from_secs(10),
            redirect: true,
            redirect_port: 5671,
        }
    }
}
