//! Why a request of a device is not answered with a registration.

use std::time::Duration;

use holdfast_device_hub::Penalty;
use holdfast_model::{ErrorCode, RefusalReason};
use holdfast_registry::RegistryError;
use rand::Rng as _;

/// When a client retries at the latest: what released clients honour (Spec provisioning §2.1).
const RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u64> = 2..=5;

/// The error that answers a device.
pub struct ProvisioningError {
    /// Its number.
    pub code: ErrorCode,
    /// The text for the device; names no secret.
    pub text: String,
    /// The cause, of a refused credential.
    pub reason: Option<RefusalReason>,
    /// When the device may retry.
    pub retry_after: Option<Duration>,
    /// To be served before the answer.
    pub penalty: Option<Penalty>,
}

impl std::fmt::Debug for ProvisioningError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}

impl ProvisioningError {
    /// An error without further conditions.
    #[must_use]
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            reason: None,
            retry_after: code.kind().retriable().then(retry_after),
            penalty: None,
        }
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.code.http_status()
    }

    /// Serves its penalty, if there is one.
    pub async fn served(&mut self) {
        if let Some(penalty) = self.penalty.take() {
            penalty.served().await;
        }
    }
}

/// Spread, so that devices that were turned away together do not come back together.
fn retry_after() -> Duration {
    Duration::from_secs(rand::rng().random_range(RETRY_AFTER_SECONDS))
}

impl From<RegistryError> for ProvisioningError {
    fn from(error: RegistryError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}
