//! Nodes that stop, return, move and are removed, and the calls in flight.

use super::*;

async fn start_at(id: NodeId, address: &str, tls: PeerTls) -> Node {
    let config = PeersConfig {
        listen: Some(address.parse().unwrap()),
        ..quick()
    };
    Node::start_with(config, identity(id), tls).await
}

/// Waits until nothing listens there any more.
async fn gone(address: &str) {
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_call_in_flight_when_the_node_dies_may_have_been_executed() {
    let (_authority, one, two) = pair().await;
    let under_way = one.peers.call(NodeId(2), call(b"never"));
    while two.echo.begun.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    drop(two);
    let lost = under_way.await;
    assert!(matches!(lost, Err(CallError::Unknown(_))), "{lost:?}");
}

#[tokio::test]
async fn calls_to_a_stopped_node_fail_at_once() {
    let (_authority, one, two) = pair().await;
    drop(two);
    one.until(NodeId(2), |status| !status.connected && !status.problem.is_empty())
        .await;
    let began = std::time::Instant::now();
    let refused = one.ask(NodeId(2), b"hello").await.unwrap_err();
    assert!(matches!(refused, CallError::NotSent(_)), "{refused}");
    assert!(began.elapsed() < Duration::from_millis(1500));
    assert!(matches!(
        one.ask(NodeId(77), b"hello").await,
        Err(CallError::NotSent(_))
    ));
}

#[tokio::test]
async fn a_node_that_returns_is_called_again() {
    let (authority, one, two) = pair().await;
    let address = two.address();
    drop(two);
    gone(&address).await;
    let two = start_at(NodeId(2), &address, authority.node()).await;
    one.until(NodeId(2), |status| status.connected).await;
    assert_eq!(one.ask(NodeId(2), b"who").await.unwrap(), "1 5");
    drop(two);
}

#[tokio::test]
async fn a_node_that_moves_keeps_its_id() {
    let authority = Authority::new();
    let one = Node::start(NodeId(1), authority.node()).await;
    let two = Node::start(NodeId(2), authority.node()).await;
    one.connect(&two).await;
    let before = two.address();
    drop(two);
    // It listens elsewhere now, and its hello says so.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let moved = PeerIdentity {
        address: address.clone(),
        ..identity(NodeId(2))
    };
    let config = PeersConfig {
        listen: Some(address.parse().unwrap()),
        ..quick()
    };
    let two = Node::start_with(config, moved, authority.node()).await;
    two.connect(&one).await;
    let status = one
        .until(NodeId(2), |status| status.connected && status.address == address)
        .await;
    assert_eq!(status.node, NodeId(2));
    one.peers.set_address(NodeId(2), &before);
    let answer = one.ask(NodeId(2), b"hello").await;
    assert_eq!(
        answer.unwrap(),
        "hello",
        "the old address in the registry does not override it"
    );
}

#[tokio::test]
async fn a_removed_node_is_refused_until_it_is_a_member_again() {
    let (_authority, one, two) = pair().await;
    two.connect(&one).await;
    two.peers.remove(NodeId(1));
    let status = one
        .until(NodeId(2), |status| status.problem.contains("removed from the cluster"))
        .await;
    assert!(status.problem.contains("join it anew"), "{}", status.problem);
    assert!(matches!(two.ask(NodeId(1), b"x").await, Err(CallError::NotSent(_))));
    two.peers.set_address(NodeId(1), &one.address());
    one.until(NodeId(2), |status| status.connected).await;
    assert_eq!(one.ask(NodeId(2), b"hello").await.unwrap(), "hello");
}

#[tokio::test]
async fn a_node_that_does_not_answer_is_detected() {
    // A listener that accepts and never sends anything.
    let authority = Authority::new();
    let config = PeersConfig {
        connect_timeout: Duration::from_millis(200),
        ..quick()
    };
    let one = Node::start_with(config, identity(NodeId(1)), authority.node()).await;
    let still = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    one.peers
        .set_address(NodeId(2), &still.local_addr().unwrap().to_string());
    let status = one.until(NodeId(2), |status| !status.problem.is_empty()).await;
    assert!(status.problem.contains("does not answer"), "{}", status.problem);
}

#[tokio::test]
async fn a_connected_node_that_becomes_silent_is_detected() {
    let authority = Authority::new();
    let config = PeersConfig {
        silence: Duration::from_millis(600),
        ..quick()
    };
    let one = Node::start_with(config, identity(NodeId(1)), authority.node()).await;
    let two = Node::start(NodeId(2), authority.node()).await;
    let wire = super::hostile::Cable::to(&two.address()).await;
    one.peers.set_address(NodeId(2), &wire.address);
    one.until(NodeId(2), |status| status.connected).await;
    let under_way = one.peers.call(NodeId(2), call(b"never"));
    wire.cut();
    let lost = under_way.await;
    assert!(
        matches!(&lost, Err(CallError::Unknown(why)) if why.contains("silent")),
        "{lost:?}"
    );
}
