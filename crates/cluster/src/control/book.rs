//! The addresses of the other nodes, and whether they answer: the connections' side of membership.

use std::time::Duration;

use crate::peer::Peers;

/// Within which a node must have been heard to count as up.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// Who is told where the members are, and asked whether they answer. Gossip-free: what counts is this node's own view.
pub trait PeerBook: Send + Sync + 'static {
    /// `node` is a member called `name`, and reached at `address`.
    fn set_member(&self, node: u64, name: &str, address: &str);

    /// `node` is no member any more.
    fn forget(&self, node: u64);

    /// Whether it answers at present. Cheap.
    fn is_up(&self, node: u64) -> bool;
}

impl PeerBook for Peers {
    fn set_member(&self, node: u64, name: &str, address: &str) {
        self.set_name(node, name);
        self.set_address(node, address);
    }

    fn forget(&self, node: u64) {
        Peers::forget(self, node);
    }

    fn is_up(&self, node: u64) -> bool {
        let liveness = self.liveness();
        let peers = liveness.borrow();
        let peer = peers.iter().find(|peer| peer.node == node);
        peer.is_some_and(|peer| peer.connected && peer.last_heard_ago().is_none_or(|ago| ago <= HEARD_WITHIN))
    }
}
