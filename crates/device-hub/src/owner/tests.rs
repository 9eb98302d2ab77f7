//! The rules of one ownership term, without calls.

use std::sync::Arc;
use std::time::Duration;

use holdfast_auth::KeyFingerprint;
use holdfast_model::{DeviceId, GenerationId, IdentityId, Incarnation, LinkId, NodeId, SessionKey, Term, UnixMillis};
use holdfast_partition::record::StreamId;

use super::ownership::{AttachOutcome, AttachReadiness, ReportedSession, SyncResult};
use super::ownership_term::OwnershipTerm;
use super::subscriptions::{SubscriptionAction, SubscriptionRequest};
use crate::Protocol;
use crate::device_state::Subscriptions;
use crate::downlink::credit::Credit;
use crate::downlink::delivery::{DeliveryId, Settlement};
use crate::session_types::{CallerLink, LINK_LEASE, OwnerError, SessionAddress, SessionInfo, SessionNumber};
use holdfast_model::Clock;

const GRACE: Duration = Duration::from_secs(30);

fn info(device: &str) -> Arc<SessionInfo> {
    Arc::new(SessionInfo {
        identity: IdentityId::device(DeviceId::parse(device).unwrap()),
        generation: GenerationId(Arc::from("1")),
        key: KeyFingerprint([0; 8]),
        certificate: None,
        policy: None,
        protocol: Protocol::Mqtt,
        address: None,
        since: UnixMillis(1),
        expires: None,
    })
}

fn caller(gateway: NodeId, incarnation: Incarnation, link: LinkId) -> CallerLink {
    CallerLink {
        gateway,
        incarnation,
        link,
    }
}

fn address(caller: CallerLink, key: u64) -> SessionAddress {
    caller.address(SessionKey(key))
}

/// An ownership term with open links of `callers`.
fn ownership(term: Term, callers: &[CallerLink]) -> OwnershipTerm {
    let mut ownership = OwnershipTerm::new(
        term,
        NodeId(1),
        Incarnation(1),
        1,
        Arc::default(),
        Clock::from_fn(|| UnixMillis(9)),
    );
    ownership.absent_mut().load(&[]);
    for caller in callers {
        ownership.start_sync(*caller).unwrap();
        ownership.finish_sync(*caller);
    }
    ownership.update_completeness(|| callers.iter().map(|caller| caller.gateway).collect());
    ownership
}

/// Whether an append over this link is accepted, in this term.
fn admits(ownership: &OwnershipTerm, sender: CallerLink) -> bool {
    let stream = StreamId {
        gateway_node: sender.gateway,
        incarnation: Incarnation(sender.incarnation.0),
        core: 0,
    };
    ownership.open_links.admit(&stream, LinkId(sender.link.0)) == Ok(Some(ownership.term))
}

fn attach(
    ownership: &mut OwnershipTerm,
    caller: CallerLink,
    info: &Arc<SessionInfo>,
    key: u64,
) -> (SessionNumber, usize) {
    match ownership.attach(caller, info, SessionKey(key)).unwrap() {
        AttachOutcome::Ready(number) | AttachOutcome::Waiting(number) => (number, 0),
        AttachOutcome::Supersedes(number, superseded) => (number, superseded.len()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_attach_of_the_same_session_changes_nothing() {
    let a = caller(NodeId(1), Incarnation(1), LinkId(1));
    let mut ownership = ownership(Term(5), &[a]);
    let device = info("d");
    let (number, _) = attach(&mut ownership, a, &device, 7);
    assert!(matches!(ownership.attach(a, &device, SessionKey(7)), Ok(AttachOutcome::Ready(again)) if again == number));
    assert_eq!((ownership.rows.len(), ownership.devices), (1, 1));
    // The same holds while it waits for an older one, and the older one is returned once.
    let (newer, superseded) = attach(&mut ownership, a, &device, 8);
    assert_eq!(superseded, 1);
    assert!(newer > number);
    assert!(matches!(ownership.attach(a, &device, SessionKey(8)), Ok(AttachOutcome::Waiting(again)) if again == newer));
    assert_eq!(
        ownership.readiness(&device.identity, address(a, 7)),
        AttachReadiness::Gone
    );
    assert_eq!(
        ownership.readiness(&device.identity, address(a, 8)),
        AttachReadiness::Waiting
    );
    ownership.unblock(&device.identity, address(a, 8));
    assert_eq!(
        ownership.readiness(&device.identity, address(a, 8)),
        AttachReadiness::Ready
    );
    // The end of the older one does not end the newer one.
    assert!(!ownership.remove(&device.identity, address(a, 7)));
    assert!(ownership.remove(&device.identity, address(a, 8)));
    assert_eq!((ownership.rows.len(), ownership.devices), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_waits_for_all_its_predecessors_and_their_number_is_bounded() {
    let (a, b) = (
        caller(NodeId(1), Incarnation(1), LinkId(1)),
        caller(NodeId(2), Incarnation(1), LinkId(1)),
    );
    let mut ownership = ownership(Term(5), &[a, b]);
    let device = info("d");
    attach(&mut ownership, a, &device, 1);
    assert_eq!(attach(&mut ownership, b, &device, 2).1, 1);
    assert_eq!(attach(&mut ownership, a, &device, 3).1, 2);
    for key in 4..10 {
        attach(&mut ownership, b, &device, key);
    }
    assert!(matches!(
        ownership.attach(b, &device, SessionKey(99)),
        Err(OwnerError::Busy)
    ));
}

#[tokio::test(start_paused = true)]
async fn the_greater_number_wins_in_whatever_order_sessions_are_reported() {
    let (a, b) = (
        caller(NodeId(1), Incarnation(1), LinkId(1)),
        caller(NodeId(2), Incarnation(1), LinkId(1)),
    );
    let number = |counter| SessionNumber {
        term: Term(4),
        node: NodeId(1),
        counter,
    };
    for order in [[(a, 1), (b, 2)], [(b, 2), (a, 1)]] {
        let mut ownership = ownership(Term(5), &[a, b]);
        let device = info("d");
        let mut result = SyncResult::default();
        for (caller, counter) in order {
            let item = ReportedSession {
                info: device.clone(),
                key: SessionKey(counter),
                number: number(counter),
                credit: Credit::default(),
            };
            ownership.sync_session(caller, item, &mut result);
        }
        assert_eq!(ownership.rows[&device.identity].address, address(b, 2));
        assert_eq!(result.lost.len() + result.superseded.len(), 1, "{result:?}");
        // A session of this term has a greater number than all earlier ones.
        assert!(attach(&mut ownership, a, &device, 3).0 > number(2));
    }
}

#[tokio::test(start_paused = true)]
async fn new_sessions_begin_once_all_gateways_have_reported_or_can_no_longer_act() {
    let (a, b) = (
        caller(NodeId(1), Incarnation(1), LinkId(1)),
        caller(NodeId(2), Incarnation(1), LinkId(1)),
    );
    let members = || vec![NodeId(1), NodeId(2)];
    for all_report in [true, false] {
        let mut ownership = OwnershipTerm::new(
            Term(5),
            NodeId(1),
            Incarnation(1),
            1,
            Arc::default(),
            Clock::from_fn(|| UnixMillis(9)),
        );
        assert_eq!(
            ownership.start_sync(a),
            Err(OwnerError::NotOwner),
            "what it has cannot be judged yet"
        );
        ownership.absent_mut().load(&[]);
        ownership.start_sync(a).unwrap();
        ownership.finish_sync(a);
        ownership.update_completeness(members);
        let device = info("d");
        assert!(
            matches!(ownership.attach(a, &device, SessionKey(1)), Ok(AttachOutcome::Supersedes(_, superseded)) if superseded.is_empty())
        );
        assert_eq!(
            ownership.readiness(&device.identity, address(a, 1)),
            AttachReadiness::Waiting
        );
        if all_report {
            ownership.start_sync(b).unwrap();
            ownership.update_completeness(members);
            assert!(!ownership.is_complete, "it has not reported all");
            ownership.finish_sync(b);
        } else {
            assert!(
                ownership.unrecorded_absences(GRACE, members).is_empty(),
                "it may still act"
            );
            tokio::time::advance(LINK_LEASE).await;
            ownership.update_completeness(members);
            assert!(!ownership.is_complete, "a later owner would not know");
            assert_eq!(ownership.unrecorded_absences(GRACE, members), [NodeId(2)]);
            ownership.record_absent(NodeId(2));
        }
        ownership.update_completeness(members);
        assert_eq!(
            ownership.readiness(&device.identity, address(a, 1)),
            AttachReadiness::Ready
        );
    }
}

#[tokio::test(start_paused = true)]
async fn only_an_open_link_of_the_gateways_last_incarnation_counts() {
    let a = caller(NodeId(1), Incarnation(3), LinkId(10));
    let mut ownership = ownership(Term(5), &[a]);
    assert!(
        admits(&ownership, caller(NodeId(1), Incarnation(3), LinkId(10)))
            && !admits(&ownership, caller(NodeId(1), Incarnation(2), LinkId(10)))
            && !admits(&ownership, caller(NodeId(2), Incarnation(3), LinkId(10)))
    );
    assert!(
        !admits(&ownership, caller(NodeId(1), Incarnation(3), LinkId(9))),
        "a batch that was sent over an earlier link"
    );
    assert_eq!(
        ownership.check_open_link(caller(NodeId(1), Incarnation(2), LinkId(10))),
        Err(OwnerError::StaleIncarnation)
    );
    assert_eq!(
        ownership.check_open_link(caller(NodeId(1), Incarnation(3), LinkId(9))),
        Err(OwnerError::LinkLost)
    );
    assert_eq!(
        ownership.check_open_link(caller(NodeId(2), Incarnation(1), LinkId(1))),
        Err(OwnerError::LinkLost)
    );
    // A delayed call starts no link.
    assert_eq!(
        ownership.start_sync(caller(NodeId(1), Incarnation(3), LinkId(9))),
        Err(OwnerError::LinkLost)
    );
    assert_eq!(
        ownership.start_sync(caller(NodeId(1), Incarnation(2), LinkId(99))),
        Err(OwnerError::StaleIncarnation)
    );
    let device = info("d");
    attach(&mut ownership, a, &device, 1);
    ownership.break_link(NodeId(1));
    assert!(!admits(&ownership, caller(NodeId(1), Incarnation(3), LinkId(10))));
    assert_eq!(ownership.check_open_link(a), Err(OwnerError::LinkLost));
    assert_eq!(ownership.rows.len(), 1, "it may come back");
    // The gateway comes back without the session.
    let again = caller(NodeId(1), Incarnation(3), LinkId(11));
    ownership.start_sync(again).unwrap();
    ownership.finish_sync(again);
    assert!(
        admits(&ownership, caller(NodeId(1), Incarnation(3), LinkId(11)))
            && !admits(&ownership, caller(NodeId(1), Incarnation(3), LinkId(10)))
            && ownership.rows.is_empty()
    );
    // The next incarnation does not know earlier sessions.
    attach(&mut ownership, again, &device, 2);
    ownership
        .start_sync(caller(NodeId(1), Incarnation(4), LinkId(1)))
        .unwrap();
    assert!(
        ownership.rows.is_empty()
            && !admits(&ownership, caller(NodeId(1), Incarnation(3), LinkId(11)))
            && !admits(&ownership, caller(NodeId(1), Incarnation(4), LinkId(1)))
    );
}

#[tokio::test(start_paused = true)]
async fn a_settlement_over_a_link_that_is_not_open_is_refused_and_not_dropped() {
    let first = caller(NodeId(1), Incarnation(1), LinkId(1));
    let next = caller(NodeId(1), Incarnation(1), LinkId(2));
    let mut ownership = ownership(Term(5), &[first]);
    let device = info("d");
    attach(&mut ownership, first, &device, 7);
    let settle = |ownership: &mut OwnershipTerm, link| {
        ownership.settle_delivery(
            link,
            &device.identity,
            SessionKey(7),
            DeliveryId(1),
            Settlement::Accepted,
        )
    };
    assert_eq!(
        settle(&mut ownership, first),
        Ok(()),
        "also of a delivery that is not known any more"
    );
    ownership.start_sync(next).unwrap();
    assert_eq!(settle(&mut ownership, first), Err(OwnerError::LinkLost));
    assert_eq!(settle(&mut ownership, next), Err(OwnerError::LinkLost));
    ownership.finish_sync(next);
    assert_eq!(settle(&mut ownership, next), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_session_superseded_while_its_gateway_reports_cannot_use_that_link() {
    let (a, b) = (
        caller(NodeId(1), Incarnation(1), LinkId(1)),
        caller(NodeId(2), Incarnation(1), LinkId(5)),
    );
    let mut ownership = ownership(Term(5), &[a]);
    let device = info("d");
    let item = ReportedSession {
        info: device.clone(),
        key: SessionKey(1),
        number: SessionNumber {
            term: Term(4),
            node: NodeId(1),
            counter: 1,
        },
        credit: Credit::default(),
    };
    // The first of several calls.
    ownership.start_sync(b).unwrap();
    ownership.sync_session(b, item.clone(), &mut SyncResult::default());
    assert_eq!(attach(&mut ownership, a, &device, 7).1, 1);
    // Its gateway did not answer the close, and continues its report.
    ownership.break_link(NodeId(2));
    assert_eq!(ownership.check_link(b).err(), Some(OwnerError::LinkLost));
    ownership.break_link(NodeId(2));
    let again = caller(NodeId(2), Incarnation(1), LinkId(6));
    ownership.start_sync(again).unwrap();
    let mut result = SyncResult::default();
    ownership.sync_session(again, item, &mut result);
    ownership.finish_sync(again);
    assert_eq!(result.lost, [SessionKey(1)]);
    assert!(
        admits(&ownership, caller(NodeId(2), Incarnation(1), LinkId(6)))
            && !admits(&ownership, caller(NodeId(2), Incarnation(1), LinkId(5)))
    );
}

#[tokio::test(start_paused = true)]
async fn a_gateway_whose_count_differs_for_long_must_report_again() {
    let a = caller(NodeId(1), Incarnation(1), LinkId(1));
    let mut ownership = ownership(Term(5), &[a]);
    attach(&mut ownership, a, &info("d"), 1);
    assert!(ownership.compare_count(a, 1).is_ok());
    for _ in 0..7 {
        assert!(
            ownership.compare_count(a, 0).is_ok(),
            "the message about the change may be in flight"
        );
    }
    assert!(ownership.compare_count(a, 1).is_ok());
    for _ in 0..7 {
        assert!(ownership.compare_count(a, 0).is_ok());
    }
    assert_eq!(ownership.compare_count(a, 0), Err(OwnerError::LinkLost));
    assert!(!admits(&ownership, caller(NodeId(1), Incarnation(1), LinkId(1))));
}

#[tokio::test(start_paused = true)]
async fn silent_gateways_expire_and_grants_end_with_the_quorum() {
    let (own, other) = (
        caller(NodeId(1), Incarnation(1), LinkId(1)),
        caller(NodeId(2), Incarnation(1), LinkId(1)),
    );
    let mut ownership = ownership(Term(5), &[own, other]);
    assert_eq!(ownership.grant(), Duration::ZERO, "nothing has been confirmed");
    ownership.record_confirmation(Some(tokio::time::Instant::now()));
    assert_eq!(ownership.grant(), LINK_LEASE);
    attach(&mut ownership, own, &info("d"), 1);
    attach(&mut ownership, other, &info("e"), 1);
    tokio::time::advance(Duration::from_millis(1500)).await;
    assert_eq!(ownership.grant(), LINK_LEASE - Duration::from_millis(1500));
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(ownership.grant(), Duration::ZERO);
    let mut gone = Vec::new();
    ownership.expire_silent(GRACE, &mut gone);
    assert!(gone.is_empty(), "a later owner would not know");
    assert_eq!(
        ownership.unrecorded_absences(GRACE, || vec![NodeId(1), NodeId(2)]),
        [NodeId(2)]
    );
    ownership.record_absent(NodeId(2));
    ownership.expire_silent(GRACE, &mut gone);
    assert_eq!(gone, [info("e").identity.clone()]);
    assert_eq!((ownership.rows.len(), ownership.devices), (1, 1));
    ownership.record_confirmation(None);
    assert_eq!(ownership.grant(), LINK_LEASE, "no other node can own it");
}

#[tokio::test(start_paused = true)]
async fn a_silent_gateway_stays_while_it_may_act_however_short_the_grace() {
    let (own, other) = (
        caller(NodeId(1), Incarnation(1), LinkId(1)),
        caller(NodeId(2), Incarnation(1), LinkId(1)),
    );
    let mut ownership = ownership(Term(5), &[own, other]);
    attach(&mut ownership, other, &info("d"), 1);
    let grace = LINK_LEASE / 2;
    tokio::time::advance(LINK_LEASE).await;
    assert!(ownership.unrecorded_absences(grace, Vec::new).is_empty());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(ownership.unrecorded_absences(grace, Vec::new), [NodeId(2)]);
}

#[tokio::test(start_paused = true)]
async fn the_successor_of_a_cancelled_session_waits_for_the_same_sessions() {
    let (a, b) = (
        caller(NodeId(1), Incarnation(1), LinkId(1)),
        caller(NodeId(2), Incarnation(1), LinkId(1)),
    );
    let mut ownership = ownership(Term(5), &[a, b]);
    let device = info("d");
    attach(&mut ownership, a, &device, 1);
    assert_eq!(attach(&mut ownership, b, &device, 2).1, 1);
    // The connection of the second one ends before the first one is closed.
    assert!(ownership.remove(&device.identity, address(b, 2)));
    assert_eq!((ownership.rows.len(), ownership.devices), (0, 0));
    assert_eq!(
        attach(&mut ownership, b, &device, 3).1,
        1,
        "the first one may still act"
    );
    assert!(ownership.remove(&device.identity, address(b, 3)));
    // The first one has been closed meanwhile.
    ownership.unblock(&device.identity, address(b, 2));
    assert_eq!(attach(&mut ownership, b, &device, 4).1, 1, "but not for the last one");
    assert!(ownership.remove(&device.identity, address(b, 4)));
    ownership.unblock(&device.identity, address(b, 4));
    assert!(matches!(
        ownership.attach(b, &device, SessionKey(5)),
        Ok(AttachOutcome::Ready(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_successor_has_ended_does_not_come_back() {
    let (a, b) = (
        caller(NodeId(1), Incarnation(1), LinkId(1)),
        caller(NodeId(2), Incarnation(1), LinkId(5)),
    );
    let members = || vec![NodeId(1), NodeId(2)];
    let mut ownership = ownership(Term(5), &[a, b]);
    let (device, other) = (info("d"), info("e"));
    let (old, _) = attach(&mut ownership, b, &device, 1);
    let (quiet, _) = attach(&mut ownership, b, &other, 2);
    // Its gateway is silent; a newer session supersedes it and ends.
    ownership.break_link(NodeId(2));
    assert_eq!(attach(&mut ownership, a, &device, 7).1, 1);
    ownership.unblock(&device.identity, address(a, 7));
    assert!(ownership.remove(&device.identity, address(a, 7)));
    // The gateway comes back with both.
    let again = caller(NodeId(2), Incarnation(1), LinkId(6));
    let mut result = SyncResult::default();
    ownership.start_sync(again).unwrap();
    for (info, key, number) in [(&device, 1, old), (&other, 2, quiet)] {
        let info = info.clone();
        ownership.sync_session(
            again,
            ReportedSession {
                info,
                key: SessionKey(key),
                number,
                credit: Credit::default(),
            },
            &mut result,
        );
    }
    ownership.finish_sync(again);
    assert_eq!(result.lost, [SessionKey(1)]);
    assert_eq!(
        ownership.readiness(&other.identity, address(again, 2)),
        AttachReadiness::Ready
    );
    // When all gateways are linked, no tombstone is needed.
    ownership.update_completeness(members);
    let mut result = SyncResult::default();
    ownership.start_sync(again).unwrap();
    let late = ReportedSession {
        info: device,
        key: SessionKey(1),
        number: old,
        credit: Credit::default(),
    };
    ownership.sync_session(again, late, &mut result);
    assert!(result.lost.is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_session_has_ended_of_a_gateway_that_was_absent_before_the_term() {
    let (a, b) = (
        caller(NodeId(1), Incarnation(1), LinkId(1)),
        caller(NodeId(2), Incarnation(1), LinkId(5)),
    );
    let members = || vec![NodeId(1), NodeId(2)];
    let mut ownership = OwnershipTerm::new(
        Term(6),
        NodeId(1),
        Incarnation(1),
        1,
        Arc::default(),
        Clock::from_fn(|| UnixMillis(9)),
    );
    ownership.absent_mut().load(&[NodeId(2)]);
    ownership.start_sync(a).unwrap();
    ownership.finish_sync(a);
    tokio::time::advance(LINK_LEASE).await;
    assert!(ownership.unrecorded_absences(GRACE, members).is_empty());
    ownership.update_completeness(members);
    assert!(ownership.is_complete);
    let number = SessionNumber {
        term: Term(5),
        node: NodeId(3),
        counter: 1,
    };
    let item = |key| ReportedSession {
        info: info("d"),
        key: SessionKey(key),
        number,
        credit: Credit::default(),
    };
    // In two calls; it is unknown which of them has had a successor.
    let mut result = SyncResult::default();
    ownership.start_sync(b).unwrap();
    ownership.sync_session(b, item(1), &mut result);
    ownership.sync_session(b, item(2), &mut result);
    ownership.finish_sync(b);
    assert_eq!(
        (result.lost, ownership.rows.len()),
        (vec![SessionKey(1), SessionKey(2)], 0)
    );
    assert_eq!(ownership.absent().returned(), [NodeId(2)]);
    ownership.absent_mut().clear(NodeId(2));
    // Sessions that begin from now on are kept.
    attach(&mut ownership, b, &info("d"), 3);
    let (again, mut result) = (caller(NodeId(2), Incarnation(1), LinkId(6)), SyncResult::default());
    ownership.start_sync(again).unwrap();
    ownership.sync_session(again, item(3), &mut result);
    assert!(result.lost.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_newer_session_begins_after_the_changes_of_subscriptions_of_the_older_one() {
    let a = caller(NodeId(1), Incarnation(1), LinkId(1));
    let mut ownership = ownership(Term(5), &[a]);
    let device = info("d");
    let request = |key, action| SubscriptionRequest {
        identity: device.identity.clone(),
        key: SessionKey(key),
        action,
    };
    let store = SubscriptionAction::Store(Subscriptions(1));
    attach(&mut ownership, a, &device, 1);
    assert!(
        ownership.admit_subscriptions(a, &request(2, store)).is_none(),
        "not the current session"
    );
    // Twice: its gateway has asked again.
    assert!(ownership.admit_subscriptions(a, &request(1, store)).is_some());
    assert!(ownership.admit_subscriptions(a, &request(1, store)).is_some());
    assert!(ownership.remove(&device.identity, address(a, 1)));
    let (_, superseded) = attach(&mut ownership, a, &device, 2);
    assert_eq!(superseded, 0, "there is no older session any more");
    for is_last in [false, true] {
        assert_eq!(
            ownership.readiness(&device.identity, address(a, 2)),
            AttachReadiness::Waiting
        );
        assert!(!ownership.may_begin(&device.identity), "{is_last}");
        ownership.subscriptions_decided(&device.identity);
    }
    assert_eq!(
        ownership.readiness(&device.identity, address(a, 2)),
        AttachReadiness::Ready
    );
    // A session that only reads delays none.
    let load = request(2, SubscriptionAction::Load);
    assert!(ownership.admit_subscriptions(a, &load).is_some() && ownership.may_begin(&device.identity));
}

#[tokio::test(start_paused = true)]
async fn connections_are_recorded_when_they_begin_end_and_are_active() {
    let a = caller(NodeId(1), Incarnation(1), LinkId(1));
    let mut ownership = ownership(Term(5), &[a]);
    let device = info("d");
    let recorded = |ownership: &OwnershipTerm| {
        let connection = ownership.connections.get(&device.identity, &device.generation);
        connection.map(|connection| {
            let (changed, active) = (connection.changed, connection.last_activity);
            (connection.is_connected, changed.0, active.0)
        })
    };
    assert_eq!(recorded(&ownership), None);
    attach(&mut ownership, a, &device, 1);
    assert_eq!(recorded(&ownership), Some((true, 1, 1)));
    ownership.record_activity(&device.identity, address(a, 2), UnixMillis(7));
    assert_eq!(recorded(&ownership), Some((true, 1, 1)), "of another session");
    ownership.record_activity(&device.identity, address(a, 1), UnixMillis(5));
    assert_eq!(recorded(&ownership), Some((true, 1, 5)));
    // The gateway comes back without it: it was active until it was heard of last.
    ownership
        .start_sync(caller(NodeId(1), Incarnation(2), LinkId(1)))
        .unwrap();
    assert_eq!(recorded(&ownership), Some((false, 9, 5)));
    ownership.finish_sync(caller(NodeId(1), Incarnation(2), LinkId(1)));
    attach(&mut ownership, caller(NodeId(1), Incarnation(2), LinkId(1)), &device, 1);
    ownership.remove(
        &device.identity,
        address(caller(NodeId(1), Incarnation(2), LinkId(1)), 1),
    );
    assert_eq!(recorded(&ownership), Some((false, 9, 9)));
}
