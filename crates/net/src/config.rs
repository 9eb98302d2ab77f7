//! Section `[net]` of the configuration.

use std::time::Duration;

use holdfast_model::{IpRange, IpRule};

holdfast_config::section! {
    /// Connections before they have authenticated.
    pub struct NetConfig = "net" {
        /// Time from accepting a connection to the end of its TLS handshake, and, for HTTP, of each request's head.
        pub handshake_timeout: Duration = Duration::from_secs(20);
        /// TLS handshakes of AMQP and HTTPS in progress on one core; a connection beyond that is dropped.
        pub max_unauthenticated: usize = 10_000, in 1.. => "must be greater than 0";
        /// Which addresses may connect to the listeners of devices and back ends, in order: the first rule whose range contains the
        /// address decides, such as `["accept 10.0.0.0/8", "reject 0.0.0.0/0", "reject ::/0"]`. Without a match it is accepted. Decided
        /// before TLS; the ports of nodes and operators have no rules.
        pub ip_rules: Vec<IpRule> = Vec::new();
        /// Load balancers that put a head of the PROXY protocol, version 1 or 2, before each connection. From them it is
        /// required, from others it is no TLS; `ip_rules` and the audit log see the address that it names.
        pub proxies: Vec<IpRange> = Vec::new();
        /// Length of the kernel's accept queue of each listener.
        pub accept_backlog: u32 = 4096;
        /// How long sent data may stay unacknowledged by the peer's kernel before the connection is dropped.
        pub user_timeout: Duration = Duration::from_secs(90);
    }
}
