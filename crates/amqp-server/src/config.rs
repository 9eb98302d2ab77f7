//! Limits of the server.

use std::time::Duration;

/// Limits of one connection and of all connections of one core.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Bytes that wait to be written to one connection; handlers add nothing beyond it.
    pub output_bytes: usize,
    /// Connections of one core that have not authenticated yet; past it the longest waiting one is closed, silent ones first while they are half of them.
    pub max_unauthenticated: usize,
    /// How long a connection may stay open without any authenticated identity (Spec amqp §3).
    pub unauthenticated_timeout: Duration,
    /// How long the registry's leader may take to confirm a refusal before the client is asked to retry.
    pub confirm_timeout: Duration,
}
