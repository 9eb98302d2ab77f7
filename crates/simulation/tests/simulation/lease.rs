//! A revoked identity is cut off within a second on every node that is inside its lease, and on every other one when its
//! grace is over.
//!
//! A simulation sees each node's lease at every moment, which no client can. So no fault is an excuse.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_chaos::history::{Micros, RightsChange};
use tokio::time::Instant;

use crate::devices::Device;
use crate::shared::{Place, Shared};
use holdfast_simulation::{Cluster, SECOND};

/// The time that the node's own tasks may take beyond the promise.
const SLACK: Duration = Duration::from_millis(100);

/// Since when each incarnation of a node has been inside its lease, or outside.
#[derive(Default)]
pub(crate) struct Leases {
    since: BTreeMap<Place, (bool, Instant)>,
}

impl Leases {
    /// Checks every node once.
    pub(crate) fn check(&mut self, cluster: &Cluster, devices: &[Device], shared: &Rc<Shared>, grace: Duration) {
        let now = Instant::now();
        for node in cluster.nodes.values() {
            let inside = node.registry.in_lease();
            let since = self.since.entry((node.id, node.incarnation)).or_insert((inside, now));
            if since.0 != inside {
                *since = (inside, now);
            }
        }
        let history = shared.history.borrow();
        let mut wrong = Vec::new();
        for device in devices {
            let is_changing = shared.changing.borrow().contains(&device.name);
            let revoked = revoked(&history.changes, &device.name).filter(|_| !is_changing);
            let revoked = revoked.map(|at| now - Duration::from_micros(shared.now() - at));
            for (place, client) in device.open() {
                let Some((inside, since)) = self.since.get(&place).filter(|_| is_up(cluster, place)) else {
                    continue;
                };
                let (due, why) = match (inside, revoked) {
                    (true, Some(revoked)) => ((revoked + SECOND).max(*since), "revoked, inside the lease"),
                    (true, None) => continue,
                    // It may have connected just before; it is closed when the grace is over.
                    (false, _) => ((*since + grace + SECOND).max(client.up + grace), "outside the lease"),
                };
                if now > due + SLACK {
                    wrong.push(format!(
                        "{} is still open on {}: {why}, due {due:?}",
                        device.name, place.0
                    ));
                }
            }
        }
        drop(history);
        for text in wrong {
            shared.violation(text);
        }
    }
}

fn is_up(cluster: &Cluster, (node, incarnation): Place) -> bool {
    cluster
        .nodes
        .get(&node)
        .is_some_and(|node| node.incarnation == incarnation)
}

/// Since when the device surely has no rights.
fn revoked(changes: &[RightsChange], device: &str) -> Option<Micros> {
    let last = changes.iter().rfind(|change| change.device == device)?;
    last.answered.filter(|_| !last.allowed)
}
