//! Section `[net]` of the configuration.

use std::time::Duration;

holdfast_config::section! {
    /// Connections before they have authenticated.
    pub struct NetConfig = "net" {
        /// Time from accepting a connection to the end of its TLS handshake, and, for HTTP, of each request's head.
        pub handshake_timeout: Duration = Duration::from_secs(20);
        /// TLS handshakes of AMQP and HTTPS in progress on one core; a connection beyond that is dropped.
        pub max_unauthenticated: usize = 10_000, in 1.. => "must be greater than 0";
        /// Length of the kernel's accept queue of each listener.
        pub accept_backlog: u32 = 4096;
        /// How long sent data may stay unacknowledged by the peer's kernel before the connection is dropped.
        pub user_timeout: Duration = Duration::from_secs(90);
    }
}
