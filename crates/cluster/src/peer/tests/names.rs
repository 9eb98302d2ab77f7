//! Certificates that name nodes.

use super::*;

fn strict() -> PeersConfig {
    PeersConfig {
        accept_unnamed_certificates: false,
        ..quick()
    }
}

/// Nodes 1 and 2, where 1 connects to 2.
async fn meet(one: PeerTls, two: PeerTls) -> (Node, Node) {
    let one = Node::start_with(strict(), identity(NodeId(1)), one).await;
    let two = Node::start_with(strict(), identity(NodeId(2)), two).await;
    one.peers.set_address(NodeId(2), &two.address());
    (one, two)
}

async fn refused(one: &Node) -> String {
    one.until(NodeId(2), |status| !status.problem.is_empty()).await.problem
}

#[tokio::test]
async fn nodes_with_their_own_certificates_connect_whatever_the_case_of_the_name() {
    let authority = Authority::new();
    let (one, _two) = meet(
        authority.node_called(&["NODE-1"]),
        authority.node_called(&["n2", "node-2"]),
    )
    .await;
    one.until(NodeId(2), |status| status.connected).await;
}

#[tokio::test]
async fn the_certificates_of_caller_and_called_must_name_them() {
    let authority = Authority::new();
    let (one, _two) = meet(authority.node_called(&["node-3"]), authority.node_called(&["node-2"])).await;
    let problem = refused(&one).await;
    assert!(
        problem.contains("its certificate is that of node-3") && problem.contains("node-1.peer.holdfast"),
        "{problem}"
    );
    let (one, _two) = meet(authority.node_called(&["node-1"]), authority.node_called(&["node-3"])).await;
    let problem = refused(&one).await;
    assert!(
        problem.contains("its certificate is that of node-3") && problem.contains("node-2.peer.holdfast"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_certificate_of_one_node_does_not_admit_another_node() {
    let authority = Authority::new();
    // It has the certificate of node-1, and its hello says node 3 with the name of the certificate.
    let thief = PeerIdentity {
        node: NodeId(3),
        ..identity(NodeId(1))
    };
    let two = Node::start_with(strict(), identity(NodeId(2)), authority.node_called(&["node-2"])).await;
    two.peers.set_name(NodeId(1), "node-1");
    two.peers.set_name(NodeId(3), "node-3");
    let thief = Node::start_with(strict(), thief, authority.node_called(&["node-1"])).await;
    thief.peers.set_address(NodeId(2), &two.address());
    let problem = refused(&thief).await;
    assert!(problem.contains("node 3 is node-3"), "{problem}");
    assert!(matches!(thief.ask(NodeId(2), b"x").await, Err(CallError::NotSent(_))));
}

#[tokio::test]
async fn a_certificate_without_a_node_name_is_accepted_only_if_configured() {
    let authority = Authority::new();
    let (one, _two) = meet(authority.node(), authority.node_called(&["node-2"])).await;
    let problem = refused(&one).await;
    for part in ["does not say which node", "cluster.accept_unnamed_certificates"] {
        assert!(problem.contains(part), "{problem}");
    }
    // Certificates that name a node are checked even if unnamed ones are accepted.
    let one = Node::start_with(quick(), identity(NodeId(1)), authority.node_called(&["node-1"])).await;
    let two = Node::start_with(quick(), identity(NodeId(2)), authority.node_called(&["node-9"])).await;
    one.peers.set_address(NodeId(2), &two.address());
    assert!(refused(&one).await.contains("that of node-9"));
}
