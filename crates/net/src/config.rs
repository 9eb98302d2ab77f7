//! Limits of connections that have not authenticated.

use std::time::Duration;

/// The limits that every listener applies to a new connection.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// Time from accepting a connection to the end of its TLS handshake (and, for HTTP, of each request's head).
    pub handshake_timeout: Duration,
    /// TLS handshakes of AMQP and HTTPS in progress on one core; a connection beyond that is dropped.
    pub max_unauthenticated: usize,
    /// Length of the kernel's accept queue of each listener.
    pub accept_backlog: u32,
    /// How long sent data may stay unacknowledged by the peer's kernel before the connection is dropped.
    pub user_timeout: Duration,
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(20),
            max_unauthenticated: 10_000,
            accept_backlog: 4096,
            user_timeout: Duration::from_secs(90),
        }
    }
}
