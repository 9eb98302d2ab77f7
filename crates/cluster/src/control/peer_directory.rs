//! The addresses and the liveness of the other nodes, as control uses the connections.

use std::time::Duration;

use holdfast_model::NodeId;

use crate::peer::Peers;
use tokio::sync::watch;

/// A node counts as up if something was received from it within this time.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// Receives the addresses of the members and reports their liveness, as this node sees it.
pub trait PeerDirectory: Send + Sync + 'static {
    /// Adds the member `node` with its name and address, or changes them.
    fn set_member(&self, node: NodeId, name: &str, address: &str);

    /// Removes `node`, which is not a member any more.
    fn remove(&self, node: NodeId);

    /// Whether the node is up. Cheap.
    fn is_up(&self, node: NodeId) -> bool;

    /// Whether a member has refused this node as one that was removed.
    fn removal(&self) -> watch::Receiver<bool> {
        watch::channel(false).1
    }
}

impl PeerDirectory for Peers {
    fn set_member(&self, node: NodeId, name: &str, address: &str) {
        self.set_name(node, name);
        self.set_address(node, address);
    }

    fn remove(&self, node: NodeId) {
        Peers::remove(self, node);
    }

    fn is_up(&self, node: NodeId) -> bool {
        let liveness = self.liveness();
        let peers = liveness.borrow();
        let peer = peers.iter().find(|peer| peer.node == node);
        peer.is_some_and(|peer| peer.connected && peer.last_heard_ago().is_none_or(|ago| ago <= HEARD_WITHIN))
    }

    fn removal(&self) -> watch::Receiver<bool> {
        Peers::removal(self)
    }
}
