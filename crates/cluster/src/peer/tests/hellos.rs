//! The rules of the hello, from both sides.

use super::*;
use crate::peer::Standing;

#[tokio::test]
async fn a_node_without_a_cluster_reaches_only_the_control_service() {
    let authority = Authority::new();
    let member = Node::start(NodeId(1), authority.node()).await;
    let stranger = PeerIdentity {
        cluster: String::new(),
        ..identity(NodeId(2))
    };
    let joining = Node::start_with(quick(), stranger, authority.node()).await;
    let control = Call {
        service: Service::Control,
        target: 0,
        ..call(b"who")
    };
    assert_eq!(
        joining.peers.call_address(&member.address(), control).await.unwrap(),
        "2 0"
    );
    let refused = joining
        .peers
        .call_address(&member.address(), call(b"who"))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, CallError::Refused(why) if why.contains("join")),
        "{refused}"
    );
    assert!(member.peers.status().is_empty(), "an anonymous caller is not a peer");

    // A node without a cluster refuses all callers.
    member.peers.set_address(NodeId(2), &joining.address());
    let status = member.until(NodeId(2), |status| !status.problem.is_empty()).await;
    assert!(
        status.problem.contains("not a member of a cluster yet"),
        "{}",
        status.problem
    );
    joining.peers.set_cluster(CLUSTER);
    joining.connect(&member).await;
    member.until(NodeId(2), |status| status.connected).await;
}

#[tokio::test]
async fn a_node_that_may_create_a_cluster_learns_who_has_none() {
    let authority = Authority::new();
    let without = |id| PeerIdentity {
        cluster: String::new(),
        ..identity(NodeId(id))
    };
    let founder = Node::start_with(quick(), without(1), authority.node()).await;
    let fresh = Node::start_with(quick(), without(2), authority.node()).await;
    let member = Node::start(NodeId(3), authority.node()).await;
    assert_eq!(founder.peers.probe(&fresh.address()).await, Standing::WithoutCluster);
    assert_eq!(founder.peers.probe(&member.address()).await, Standing::Member);
    for address in ["127.0.0.1:1", "no-such-host.invalid:9700"] {
        let silent = founder.peers.probe(address).await;
        assert!(
            matches!(&silent, Standing::Silent(why) if !why.is_empty()),
            "{address}: {silent:?}"
        );
    }
    // What says so must be a node of this CA.
    let other = Node::start_with(quick(), without(4), Authority::new().node()).await;
    let silent = founder.peers.probe(&other.address()).await;
    assert!(matches!(silent, Standing::Silent(_)), "{silent:?}");
    fresh.peers.set_cluster(CLUSTER);
    assert_eq!(founder.peers.probe(&fresh.address()).await, Standing::Member);
}

#[tokio::test]
async fn large_answers_reach_a_joining_node() {
    let authority = Authority::new();
    let member = Node::start(NodeId(1), authority.node()).await;
    let joining = Node::start(NodeId(2), authority.node()).await;
    let control = Call {
        service: Service::Control,
        ..call(b"size 3000000")
    };
    let answer = joining.peers.call_address(&member.address(), control).await.unwrap();
    assert_eq!(answer.len(), 3_000_000);
}

#[tokio::test]
async fn an_address_without_a_listener_is_reported() {
    let authority = Authority::new();
    let one = Node::start(NodeId(1), authority.node()).await;
    let refused = one.peers.call_address("127.0.0.1:1", call(b"x")).await.unwrap_err();
    assert!(
        matches!(&refused, CallError::NotSent(why) if why.contains("127.0.0.1:1")),
        "{refused}"
    );
}

#[tokio::test]
async fn another_cluster_is_refused_with_advice() {
    let authority = Authority::new();
    let one = Node::start(NodeId(1), authority.node()).await;
    let other = PeerIdentity {
        cluster: "beef".to_owned(),
        ..identity(NodeId(2))
    };
    let two = Node::start_with(quick(), other, authority.node()).await;
    one.peers.set_address(NodeId(2), &two.address());
    let status = one.until(NodeId(2), |status| !status.problem.is_empty()).await;
    for part in ["\"3f2b\"", "\"beef\"", "join it anew"] {
        assert!(status.problem.contains(part), "{}", status.problem);
    }
    assert!(matches!(one.ask(NodeId(2), b"x").await, Err(CallError::NotSent(_))));
}

#[tokio::test]
async fn a_node_with_another_id_than_the_expected_one_is_not_called() {
    let authority = Authority::new();
    let one = Node::start(NodeId(1), authority.node()).await;
    let two = Node::start(NodeId(2), authority.node()).await;
    one.peers.set_address(NodeId(3), &two.address());
    let status = one.until(NodeId(3), |status| !status.problem.is_empty()).await;
    assert!(
        status.problem.contains("this is node 2 (node-2), not node 3"),
        "{}",
        status.problem
    );
    assert_eq!(two.echo.begun.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_copied_data_directory_is_detected_on_both_sides() {
    let authority = Authority::new();
    let member = Node::start(NodeId(1), authority.node()).await;
    let at = |address: &str| PeerIdentity {
        address: address.to_owned(),
        ..identity(NodeId(2))
    };
    let first = Node::start_with(quick(), at("10.0.0.2:1"), authority.node()).await;
    first.connect(&member).await;
    let copy = Node::start_with(quick(), at("10.0.0.9:1"), authority.node()).await;
    copy.peers.set_address(NodeId(1), &member.address());
    let status = copy.until(NodeId(1), |status| !status.problem.is_empty()).await;
    assert!(
        status.problem.contains("a data directory was copied"),
        "{}",
        status.problem
    );
    assert_eq!(
        first.ask(NodeId(1), b"hello").await.unwrap(),
        "hello",
        "the first node stays connected"
    );

    // A node with the id of the node that it calls.
    let twin = Node::start(NodeId(1), authority.node()).await;
    twin.peers.set_address(NodeId(7), &member.address());
    let status = twin.until(NodeId(7), |status| !status.problem.is_empty()).await;
    assert!(status.problem.contains("not node 7"), "{}", status.problem);
    let refused = twin
        .peers
        .call_address(&member.address(), call(b"x"))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("own id 1"), "{refused}");
}

#[tokio::test]
async fn a_restarted_node_replaces_its_older_connection() {
    let authority = Authority::new();
    let member = Node::start(NodeId(1), authority.node()).await;
    let at = PeerIdentity {
        address: "10.0.0.2:1".to_owned(),
        ..identity(NodeId(2))
    };
    let before = Node::start_with(quick(), at.clone(), authority.node()).await;
    before.connect(&member).await;
    let after = Node::start_with(quick(), at, authority.node()).await;
    after.connect(&member).await;
    assert_eq!(after.ask(NodeId(1), b"hello").await.unwrap(), "hello");
}

mod rules {
    use super::*;
    use crate::peer::protocol::hello::{answer, check_answer, check_hello, hello};
    use holdfast_proto::cluster::v1::{Hello, HelloRefusal, Purpose};

    fn theirs() -> Hello {
        hello(&identity(NodeId(2)), 9, Purpose::Calls, NodeId(1))
    }

    fn refusal(change: impl FnOnce(&mut Hello)) -> (HelloRefusal, String) {
        let mut theirs = theirs();
        change(&mut theirs);
        let refused = check_hello(&identity(NodeId(1)), &theirs, false).unwrap_err();
        (refused.reason, refused.text)
    }

    #[test]
    fn every_rule_has_a_refusal_with_advice() {
        assert_eq!(check_hello(&identity(NodeId(1)), &theirs(), false), Ok(1));
        let (reason, text) = refusal(|hello| {
            hello.protocol_min = 5;
            hello.protocol_max = 6;
        });
        assert_eq!(reason, HelloRefusal::Version);
        assert!(text.contains("upgrade node-1"), "{text}");
        let (reason, text) = refusal(|hello| {
            hello.protocol_min = 0;
            hello.protocol_max = 0;
        });
        assert_eq!(reason, HelloRefusal::Version);
        assert!(text.contains("upgrade node-2"), "{text}");
        assert_eq!(refusal(|hello| hello.node = 0).0, HelloRefusal::Malformed);
        assert_eq!(refusal(|hello| hello.purpose = 99).0, HelloRefusal::Malformed);
        assert_eq!(refusal(|hello| hello.name = "x".repeat(600)).0, HelloRefusal::Malformed);
        assert_eq!(refusal(|hello| hello.name = "a\nb".into()).0, HelloRefusal::Malformed);
        assert_eq!(refusal(|hello| hello.to = 4).0, HelloRefusal::WrongNode);
        assert_eq!(refusal(|hello| hello.node = 1).0, HelloRefusal::SameNode);
        assert_eq!(refusal(|hello| hello.cluster.clear()).0, HelloRefusal::Cluster);
        let removed = check_hello(&identity(NodeId(1)), &theirs(), true).unwrap_err();
        assert_eq!(removed.reason, HelloRefusal::Removed);
    }

    #[test]
    fn answers_are_checked_too() {
        let ours = identity(NodeId(1));
        let good = answer(&identity(NodeId(2)), 3, Ok(1));
        assert_eq!(check_answer(&ours, NodeId(2), &good), Ok(1));
        assert_eq!(
            check_answer(&ours, NodeId(3), &good).unwrap_err().reason,
            HelloRefusal::WrongNode
        );
        let later = answer(&identity(NodeId(2)), 3, Ok(2));
        assert_eq!(
            check_answer(&ours, NodeId(2), &later).unwrap_err().reason,
            HelloRefusal::Version
        );
        let mut unknown = good.clone();
        unknown.refusal = 77;
        assert!(
            check_answer(&ours, NodeId(2), &unknown).is_err(),
            "an unknown refusal is a refusal"
        );
        let mut foreign = good;
        foreign.cluster = "beef".into();
        assert_eq!(
            check_answer(&ours, NodeId(2), &foreign).unwrap_err().reason,
            HelloRefusal::Cluster
        );
    }
}
