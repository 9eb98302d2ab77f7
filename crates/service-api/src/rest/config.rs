//! Section `[rest]` of the configuration.

use holdfast_model::{ByteSize, HumanDuration};

holdfast_config::section! {
    /// The REST service API.
    pub struct RestConfig = "rest" {
        /// How long a call may wait for the registry before it is answered with 503.
        pub request_timeout: HumanDuration = HumanDuration::secs(10),
            in HumanDuration::millis(100)..=HumanDuration::secs(600) => "must be between 100ms and 600s";
        /// How long a request's body may take to arrive.
        pub body_timeout: HumanDuration = HumanDuration::secs(30),
            in HumanDuration::millis(100)..=HumanDuration::secs(600) => "must be between 100ms and 600s";
        /// How many calls this node executes at once; more are answered with 503.
        pub max_requests: usize = 1024, in 1..=100_000 => "must be between 1 and 100000";
        /// How many bytes of bodies this node holds at once; more calls are answered with 503.
        pub max_body_bytes: ByteSize = ByteSize::mib(64), in ByteSize::mib(1).. => "must be at least 1MiB, the largest body";
    }
}

#[cfg(test)]
mod tests {
    use holdfast_config::Section as _;

    use super::*;

    #[test]
    fn the_defaults_are_valid_and_a_wrong_value_is_named() {
        assert_eq!(RestConfig::default().validate(), Ok(()));
        let config = RestConfig {
            max_requests: 0,
            ..RestConfig::default()
        };
        assert_eq!(config.validate().unwrap_err().key, "max_requests");
    }
}
