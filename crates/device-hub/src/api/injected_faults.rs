//! Identities that are refused for a while because a fault-injection message of theirs requested it
//! (docs/spec/fault-injection.md).
//!
//! Not here: the messages (front ends read them, if they are configured to). Invariant: bounded, and only of this node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_model::{ErrorCode, IdentityId, RefusalReason};
use holdfast_tasks::sync::Mutex;
use tokio::time::Instant;

use super::connect_request::Refusal;

/// Identities that may be refused at once.
const MAX_IDENTITIES: usize = 1000;

/// The longest time for which an identity is refused.
const MAX_DURATION: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct InjectedFaults {
    /// Hubs without faults pay one load per connection.
    has_any: AtomicBool,
    refused: Mutex<HashMap<IdentityId, (ErrorCode, Instant)>>,
}

impl InjectedFaults {
    pub(crate) fn refuse(&self, identity: &IdentityId, code: ErrorCode, duration: Duration) {
        let now = Instant::now();
        let mut refused = self.refused.lock();
        refused.retain(|_, (_, until)| *until > now);
        if refused.len() < MAX_IDENTITIES {
            refused.insert(identity.clone(), (code, now + duration.min(MAX_DURATION)));
        }
        self.has_any.store(!refused.is_empty(), Ordering::Release);
    }

    /// The refusal of a client that may otherwise connect.
    pub(crate) fn refusal(&self, identity: &IdentityId) -> Option<Refusal> {
        if !self.has_any.load(Ordering::Acquire) {
            return None;
        }
        let refused = self.refused.lock();
        let (code, until) = refused.get(identity)?;
        (*until > Instant::now()).then_some(Refusal {
            code: *code,
            reason: RefusalReason::InjectedFault,
        })
    }
}

#[cfg(test)]
mod tests {
    use holdfast_model::DeviceId;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_identity_is_refused_for_the_time_that_it_asked_for() {
        let identity = |id: &str| IdentityId::device(DeviceId::parse(id).unwrap());
        let faults = InjectedFaults::default();
        assert_eq!(faults.refusal(&identity("a")), None);
        faults.refuse(
            &identity("a"),
            ErrorCode::IotHubUnauthorizedAccess,
            Duration::from_secs(5),
        );
        let refusal = faults.refusal(&identity("a")).unwrap();
        assert_eq!(
            (refusal.code, refusal.reason),
            (ErrorCode::IotHubUnauthorizedAccess, RefusalReason::InjectedFault)
        );
        assert_eq!(faults.refusal(&identity("b")), None);
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(faults.refusal(&identity("a")), None);
    }
}
