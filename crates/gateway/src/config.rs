//! Section `[mqtt]` of the configuration.

use std::time::Duration;

use holdfast_model::ByteSize;

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
