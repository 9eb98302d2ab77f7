//! Calls wait for their turn, or are answered with 429 (Spec auth-and-limits §9.1).
//!
//! A call that waits does not count among those that the node works on. The caller is known and has the right by then: a call
//! without one takes nothing of a rate.

use std::time::Duration;

use holdfast_device_hub::{Protocol, ThrottleClass, Throttled};

use super::calls::Request;
use super::error::ApiError;
use super::route::{Call, HoldfastCall};

/// What a call counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meter {
    /// Nothing: calls of the operator.
    Free,
    /// One of the class.
    One(ThrottleClass),
    /// As many of the class as its body says; the call asks for its turn itself.
    ByBody(ThrottleClass),
}

impl Meter {
    pub(super) fn class(self) -> Option<ThrottleClass> {
        match self {
            Self::Free => None,
            Self::One(class) | Self::ByBody(class) => Some(class),
        }
    }
}

impl Call {
    /// What the call counts.
    pub(super) fn meter(&self) -> Meter {
        match self {
            Self::PutIdentity(_)
            | Self::GetIdentity(_)
            | Self::DeleteIdentity(_)
            | Self::ListDevices
            | Self::ListModules(_)
            | Self::DeviceStatistics
            | Self::Holdfast(HoldfastCall::ListDevices) => Meter::One(ThrottleClass::RegistryOperations),
            Self::Bulk | Self::RegenerateKeys => Meter::ByBody(ThrottleClass::RegistryOperations),
            Self::InvokeMethod(_) => Meter::ByBody(ThrottleClass::Methods),
            Self::Query | Self::Holdfast(HoldfastCall::RunSavedQuery(_)) => Meter::One(ThrottleClass::Queries),
            Self::Holdfast(HoldfastCall::SendMessage(_)) => Meter::One(ThrottleClass::CloudSends),
            Self::GetTwin(_) | Self::Holdfast(HoldfastCall::TwinHistory(_)) => Meter::One(ThrottleClass::TwinReads),
            Self::PatchTwin(_) | Self::ReplaceTwin(_) => Meter::One(ThrottleClass::TwinUpdates),
            Self::ServiceStatistics | Self::PurgeMessages(_) | Self::Unimplemented(_) | Self::Holdfast(_) => {
                Meter::Free
            }
        }
    }
}

impl Request<'_> {
    /// Waits for the turn of a call that counts `cost`.
    pub(super) async fn turn(&mut self, class: ThrottleClass, cost: u32) -> Result<(), ApiError> {
        let Some(reservation) = self.shared.hub.admit(class, cost, Protocol::Https)? else {
            return Ok(());
        };
        self.permit = None;
        reservation.come().await;
        let permit = self.shared.requests.try_acquire();
        self.permit = Some(permit.map_err(|_| super::pipeline::too_many())?);
        Ok(())
    }
}

impl From<Throttled> for ApiError {
    fn from(throttled: Throttled) -> Self {
        let retry_after = Duration::from_secs(throttled.retry_after_seconds());
        Self::new(throttled.code, throttled.to_string()).retry_after(retry_after)
    }
}
