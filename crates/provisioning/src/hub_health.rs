//! Which linked hubs are out of service, as this node has seen it.
//!
//! Why: new devices go to the hubs that answer, and not all of them wait for one that does not.
//! Invariants: bounded by the number of linked hubs; a hub is tried again after a pause, longer each time; one answer ends it.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_tasks::sync::Mutex;
use tokio::time::Instant;

/// Failures in a row after which a hub counts as out of service.
const FAILURES: u32 = 2;

/// The first pause; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);

/// The longest pause.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Health {
    failures: u32,
    out_until: Option<Instant>,
}

/// The health of all linked hubs, by host name.
#[derive(Default)]
pub(crate) struct HubHealth(Mutex<HashMap<String, Health>>);

impl HubHealth {
    /// Whether a hub is to be left out.
    pub(crate) fn is_out(&self, host: &str) -> bool {
        let all = self.0.lock();
        let until = all.get(host).and_then(|health| health.out_until);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// A hub has answered.
    pub(crate) fn answered(&self, host: &str) {
        self.0.lock().remove(host);
    }

    /// A hub has not answered.
    pub(crate) fn failed(&self, host: &str) {
        let mut all = self.0.lock();
        let health = all.entry(host.to_owned()).or_default();
        if health.out_until.is_some_and(|until| Instant::now() < until) {
            // Requests that had begun before.
            return;
        }
        health.failures = health.failures.saturating_add(1);
        if let Some(doublings) = health.failures.checked_sub(FAILURES) {
            let pause = FIRST_BACKOFF.saturating_mul(1 << doublings.min(8)).min(MAX_BACKOFF);
            health.out_until = Some(Instant::now() + pause);
            tracing::warn!(
                hub = host,
                "a linked hub does not answer; new devices are assigned to others"
            );
        }
    }
}
