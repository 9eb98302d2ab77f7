//! Sections `[mqtt]`, `[amqp]` and `[https]` of the configuration.

use std::time::Duration;

use holdfast_model::{ByteSize, HumanDuration};

holdfast_config::section! {
    /// MQTT connections of devices.
    pub struct MqttConfig = "mqtt" {
        /// Time from accepting a connection to its complete CONNECT.
        pub connect_timeout: Duration = Duration::from_secs(60);
        /// Connections of one core that have not authenticated yet; past it the longest waiting one is closed, silent ones first while they are half of them.
        pub max_unauthenticated: usize = 10_000, in 1.. => "must be greater than 0";
        /// Bytes that wait to be written to one device; a device that lets more pile up is closed.
        pub max_output: ByteSize = ByteSize::mib(1), in ByteSize(1).. => "must be greater than 0";
        /// Whether a message of a device may ask for a fault of its connection (docs/spec/fault-injection.md). For tests alone: a
        /// device can make the hub refuse it for a while.
        pub fault_injection: bool = false;
        /// Upper end of the random time after a token's expiry at which its connection is closed.
        pub expiry_jitter: Duration = Duration::from_secs(60);
    }
}

holdfast_config::section! {
    /// Requests of devices over HTTPS.
    pub struct HttpsConfig = "https" {
        /// How many requests of devices a core works on at once; more are answered with 503.
        pub max_requests: usize = 4096, in 1..=1_000_000 => "must be between 1 and 1000000";
        /// Bytes of request bodies that a core holds at once; more requests are answered with 503.
        pub max_body_bytes: ByteSize = ByteSize::mib(64), in ByteSize::mib(1).. => "must be at least 1MiB, the largest body";
        /// How long a request's body may take to arrive.
        pub body_timeout: HumanDuration = HumanDuration::secs(30),
            in HumanDuration::millis(100)..=HumanDuration::secs(600) => "must be between 100ms and 600s";
        /// How long a message may wait for its commit before its sender is answered with 503, and told to send it again.
        pub commit_timeout: HumanDuration = HumanDuration::secs(20),
            in HumanDuration::millis(100)..=HumanDuration::secs(600) => "must be between 100ms and 600s";
    }
}

holdfast_config::section! {
    /// AMQP connections of devices. Limits that readers of events share are in `[events]`.
    pub struct AmqpConfig = "amqp" {
        /// Devices and modules of one connection, each with a session of its own.
        pub max_identities: usize = 1000, in 1..=1000 => "must be 1 to 1000";
        /// Whether a message of a device may ask for a fault of its link, session or connection (docs/spec/fault-injection.md). For tests
        /// alone: a device of a gateway can end the gateway's connection.
        pub fault_injection: bool = false;
    }
}
