//! The stored subscriptions of one device: an acknowledged change is present after every fault, until a later one.
//!
//! A change whose outcome is unknown may be present or not; the next connection tells.

use holdfast_device_hub::{SubscriptionError, Subscriptions};
use rand::Rng as _;
use rand::rngs::SmallRng;
use tokio::task::JoinHandle;

use holdfast_simulation::Client;

/// A device's knowledge of its stored subscriptions.
pub(crate) struct StoredSet {
    /// One of these is stored.
    possible: Vec<Option<Subscriptions>>,
    under_way: Option<(Subscriptions, JoinHandle<Result<(), SubscriptionError>>)>,
    /// Changes that were acknowledged.
    pub(crate) acknowledged: u64,
}

impl StoredSet {
    /// Of a device that has never been connected.
    pub(crate) fn new() -> Self {
        Self {
            possible: vec![None],
            under_way: None,
            acknowledged: 0,
        }
    }

    /// Changes the subscriptions of the device's current connection, one change at a time.
    pub(crate) fn change(&mut self, client: &Client, rng: &mut SmallRng) {
        if self.under_way.is_some() {
            return;
        }
        let wanted = Subscriptions(rng.random());
        let session = client.session.as_ref().unwrap();
        let stored = client.core.store_subscriptions(session, wanted);
        self.possible.push(Some(wanted));
        self.under_way = Some((wanted, tokio::task::spawn_local(stored)));
    }

    /// Takes the outcome of the change that is in flight, if it is decided.
    pub(crate) async fn poll(&mut self) {
        if let Some((wanted, decided)) = self.under_way.take_if(|(_, change)| change.is_finished())
            && decided.await.unwrap().is_ok()
        {
            self.possible = vec![Some(wanted)];
            self.acknowledged += 1;
        }
    }

    /// The connection is not the current one any more: the outcome of its change stays unknown.
    pub(crate) fn retire(&mut self) {
        if let Some((_, change)) = self.under_way.take() {
            change.abort();
        }
    }

    /// A connection has begun with `found`. An error says what should have been there.
    pub(crate) fn check(&mut self, found: Option<Subscriptions>) -> Result<(), String> {
        let possible = std::mem::replace(&mut self.possible, vec![found]);
        if possible.contains(&found) {
            return Ok(());
        }
        Err(format!(
            "finds {found:?} stored, and knows that it is one of {possible:?}"
        ))
    }
}
