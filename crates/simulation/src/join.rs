//! How a machine without data becomes a member: it asks the members, before its node runs.

use std::time::Duration;

use holdfast_cluster::join::{JoinAnswer, JoinError, Joiner, join};
use holdfast_cluster::transport::{Call, Dispatch};
use holdfast_consensus::sim::SimNetwork;
use holdfast_model::NodeId;

use super::info;

/// Asks `members` to admit `node` with the join token `secret`. Once admitted it is to be booted; when no member has
/// answered in time it may ask again with the same token.
///
/// # Errors
/// As [`join`].
pub async fn ask_to_join(
    network: &SimNetwork,
    node: NodeId,
    members: &[NodeId],
    secret: &str,
    timeout: Duration,
) -> Result<JoinAnswer, JoinError> {
    let transport = network.node(node, Dispatch::new());
    let addresses: Vec<(String, NodeId)> = members.iter().map(|id| (info(*id).address, *id)).collect();
    let asked: Vec<String> = addresses.iter().map(|(address, _)| address.clone()).collect();
    let call = move |address: &str, call: Call| {
        let known = addresses.iter().find(|(known, _)| known == address);
        transport.call(known.unwrap().1, call)
    };
    let me = info(node);
    let joiner = Joiner {
        id: me.id,
        name: me.name,
        address: me.address,
        zone: me.zone,
        version: me.version,
    };
    join(&call, &asked, secret, &joiner, timeout).await
}
