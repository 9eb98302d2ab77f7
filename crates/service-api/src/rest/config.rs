//! The section `rest` of the configuration.

use holdfast_model::{ByteSize, HumanDuration};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Settings of the HTTPS service API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestConfig {
    /// How long a call may wait for the registry; then it is answered with 503.
    pub request_timeout: HumanDuration,
    /// How long a request's body may take to arrive.
    pub body_timeout: HumanDuration,
    /// How many calls this node executes at once; further ones are answered with 503.
    pub max_requests: usize,
    /// How many bytes of bodies this node holds at once; further calls are answered with 503.
    pub max_body_bytes: ByteSize,
}

impl Default for RestConfig {
    fn default() -> Self {
        Self {
            request_timeout: HumanDuration::secs(10),
            body_timeout: HumanDuration::secs(30),
            max_requests: 1024,
            max_body_bytes: ByteSize::mib(64),
        }
    }
}

/// An invalid value of [`RestConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("rest.{key}: {reason}")]
pub struct InvalidRestConfig {
    /// The key within the section.
    pub key: &'static str,
    /// The allowed values.
    pub reason: &'static str,
}

impl RestConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first invalid value.
    pub fn validate(&self) -> Result<(), InvalidRestConfig> {
        let spans = HumanDuration::millis(100)..=HumanDuration::secs(600);
        if !spans.contains(&self.request_timeout) {
            return Err(InvalidRestConfig {
                key: "request_timeout",
                reason: "must be between 100ms and 600s",
            });
        }
        if !spans.contains(&self.body_timeout) {
            return Err(InvalidRestConfig {
                key: "body_timeout",
                reason: "must be between 100ms and 600s",
            });
        }
        if !(1..=100_000).contains(&self.max_requests) {
            return Err(InvalidRestConfig {
                key: "max_requests",
                reason: "must be between 1 and 100000",
            });
        }
        if self.max_body_bytes < ByteSize::mib(1) {
            return Err(InvalidRestConfig {
                key: "max_body_bytes",
                reason: "must be at least 1MiB, the largest body",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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
