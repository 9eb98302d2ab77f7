//! The rules of one reign, without calls.

use std::sync::Arc;
use std::time::Duration;

use holdfast_auth::KeyFingerprint;
use holdfast_model::{DeviceId, GenerationId, IdentityId, UnixMillis};

use super::{Entered, Item, Reign, Standing, Synced};
use crate::Protocol;
use crate::sessions::{Address, Caller, Facts, LINK_LEASE, NotHere, SessionNumber};

const GRACE: Duration = Duration::from_secs(30);

fn facts(device: &str) -> Arc<Facts> {
    Arc::new(Facts {
        identity: IdentityId::device(DeviceId::parse(device).unwrap()),
        generation: GenerationId(Arc::from("1")),
        key: KeyFingerprint([0; 8]),
        policy: None,
        protocol: Protocol::Mqtt,
        since: UnixMillis(1),
        expires: None,
    })
}

fn caller(gateway: u64, life: u64, link: u64) -> Caller {
    Caller { gateway, life, link }
}

fn address(caller: Caller, key: u64) -> Address {
    Address {
        gateway: caller.gateway,
        life: caller.life,
        key,
    }
}

/// A reign with open links of `callers`.
fn reign(term: u64, callers: &[Caller]) -> Reign {
    let mut reign = Reign::new(term, 1, 1, 1);
    reign.marks_mut().learn(&[]);
    for caller in callers {
        reign.begin_link(*caller).unwrap();
        reign.complete_link(*caller);
    }
    reign.settle(|| callers.iter().map(|caller| caller.gateway).collect());
    reign
}

fn enter(reign: &mut Reign, caller: Caller, facts: &Arc<Facts>, key: u64) -> (SessionNumber, usize) {
    match reign.attach(caller, facts, key).unwrap() {
        Entered::Ready(number) | Entered::Settling(number) => (number, 0),
        Entered::TakesOver(number, displaced) => (number, displaced.len()),
    }
}

#[tokio::test(start_paused = true)]
async fn asking_twice_for_the_same_session_is_asking_once() {
    let a = caller(1, 1, 1);
    let mut reign = reign(5, &[a]);
    let device = facts("d");
    let (number, _) = enter(&mut reign, a, &device, 7);
    assert!(matches!(reign.attach(a, &device, 7), Ok(Entered::Ready(again)) if again == number));
    assert_eq!((reign.rows.len(), reign.devices), (1, 1));
    // While it waits for an older one, too, and the older one is named once.
    let (newer, displaced) = enter(&mut reign, a, &device, 8);
    assert_eq!(displaced, 1);
    assert!(newer > number);
    assert!(matches!(reign.attach(a, &device, 8), Ok(Entered::Settling(again)) if again == newer));
    assert_eq!(reign.standing(&device.identity, address(a, 7)), Standing::Gone);
    assert_eq!(reign.standing(&device.identity, address(a, 8)), Standing::Settling);
    reign.clear_way(&device.identity, address(a, 8));
    assert_eq!(reign.standing(&device.identity, address(a, 8)), Standing::Ready);
    // The older one's end is not the newer one's.
    assert!(!reign.remove(&device.identity, address(a, 7)));
    assert!(reign.remove(&device.identity, address(a, 8)));
    assert_eq!((reign.rows.len(), reign.devices), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_pushes_out_one_that_waits_waits_for_all_before_it_and_their_number_is_bounded() {
    let (a, b) = (caller(1, 1, 1), caller(2, 1, 1));
    let mut reign = reign(5, &[a, b]);
    let device = facts("d");
    enter(&mut reign, a, &device, 1);
    assert_eq!(enter(&mut reign, b, &device, 2).1, 1);
    assert_eq!(enter(&mut reign, a, &device, 3).1, 2);
    for key in 4..10 {
        enter(&mut reign, b, &device, key);
    }
    assert!(matches!(reign.attach(b, &device, 99), Err(NotHere::Busy)));
}

#[tokio::test(start_paused = true)]
async fn the_greater_number_wins_whoever_hands_it_in_first() {
    let (a, b) = (caller(1, 1, 1), caller(2, 1, 1));
    let number = |counter| SessionNumber {
        term: 4,
        node: 1,
        counter,
    };
    for order in [[(a, 1), (b, 2)], [(b, 2), (a, 1)]] {
        let mut reign = reign(5, &[a, b]);
        let device = facts("d");
        let mut synced = Synced::default();
        for (caller, counter) in order {
            let item = Item {
                facts: device.clone(),
                key: counter,
                number: number(counter),
            };
            reign.hand_in(caller, item, &mut synced);
        }
        assert_eq!(reign.rows[&device.identity].address, address(b, 2));
        assert_eq!(synced.lost.len() + synced.displaced.len(), 1, "{synced:?}");
        // A new one of this reign is greater than all before.
        assert!(enter(&mut reign, a, &device, 3).0 > number(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_owner_lets_new_sessions_begin_when_all_have_reported_or_can_no_longer_act() {
    let (a, b) = (caller(1, 1, 1), caller(2, 1, 1));
    let members = || vec![1, 2];
    for all_report in [true, false] {
        let mut reign = Reign::new(5, 1, 1, 1);
        assert_eq!(
            reign.begin_link(a),
            Err(NotHere::NotOwner),
            "what it has cannot be judged yet"
        );
        reign.marks_mut().learn(&[]);
        reign.begin_link(a).unwrap();
        reign.complete_link(a);
        reign.settle(members);
        let device = facts("d");
        assert!(matches!(reign.attach(a, &device, 1), Ok(Entered::TakesOver(_, displaced)) if displaced.is_empty()));
        assert_eq!(reign.standing(&device.identity, address(a, 1)), Standing::Settling);
        if all_report {
            reign.begin_link(b).unwrap();
            reign.settle(members);
            assert!(!reign.settled, "it has not reported all");
            reign.complete_link(b);
        } else {
            assert!(reign.lacks_marks(GRACE, members).is_empty(), "it may still act");
            tokio::time::advance(LINK_LEASE).await;
            reign.settle(members);
            assert!(!reign.settled, "a later owner would not know");
            assert_eq!(reign.lacks_marks(GRACE, members), [2]);
            reign.is_marked_now(2);
        }
        reign.settle(members);
        assert_eq!(reign.standing(&device.identity, address(a, 1)), Standing::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn only_an_open_link_of_the_gateways_last_life_counts() {
    let a = caller(1, 3, 10);
    let mut reign = reign(5, &[a]);
    assert!(reign.admits(1, 3, 10) && !reign.admits(1, 2, 10) && !reign.admits(2, 3, 10));
    assert!(!reign.admits(1, 3, 9), "what was sent over an earlier link");
    assert_eq!(reign.check_open(caller(1, 2, 10)), Err(NotHere::StaleLife));
    assert_eq!(reign.check_open(caller(1, 3, 9)), Err(NotHere::LinkLost));
    assert_eq!(reign.check_open(caller(2, 1, 1)), Err(NotHere::LinkLost));
    // What was late on its way begins no link.
    assert_eq!(reign.begin_link(caller(1, 3, 9)), Err(NotHere::LinkLost));
    assert_eq!(reign.begin_link(caller(1, 2, 99)), Err(NotHere::StaleLife));
    let device = facts("d");
    enter(&mut reign, a, &device, 1);
    reign.break_link(1);
    assert!(!reign.admits(1, 3, 10));
    assert_eq!(reign.check_open(a), Err(NotHere::LinkLost));
    assert_eq!(reign.rows.len(), 1, "it may come back");
    // It comes back without the session.
    let again = caller(1, 3, 11);
    reign.begin_link(again).unwrap();
    reign.complete_link(again);
    assert!(reign.admits(1, 3, 11) && !reign.admits(1, 3, 10) && reign.rows.is_empty());
    // Its next life knows nothing of sessions before.
    enter(&mut reign, again, &device, 2);
    reign.begin_link(caller(1, 4, 1)).unwrap();
    assert!(reign.rows.is_empty() && !reign.admits(1, 3, 11) && !reign.admits(1, 4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_session_taken_over_while_its_gateway_reports_does_not_go_on_over_that_link() {
    let (a, b) = (caller(1, 1, 1), caller(2, 1, 5));
    let mut reign = reign(5, &[a]);
    let device = facts("d");
    let item = Item {
        facts: device.clone(),
        key: 1,
        number: SessionNumber {
            term: 4,
            node: 1,
            counter: 1,
        },
    };
    // The first of several calls.
    reign.begin_link(b).unwrap();
    reign.hand_in(b, item.clone(), &mut Synced::default());
    assert_eq!(enter(&mut reign, a, &device, 7).1, 1);
    // Its gateway did not answer when it was to close the session, and calls all the same.
    reign.break_link(2);
    assert_eq!(reign.check(b).err(), Some(NotHere::LinkLost));
    reign.break_link(2);
    let again = caller(2, 1, 6);
    reign.begin_link(again).unwrap();
    let mut synced = Synced::default();
    reign.hand_in(again, item, &mut synced);
    reign.complete_link(again);
    assert_eq!(synced.lost, [1]);
    assert!(reign.admits(2, 1, 6) && !reign.admits(2, 1, 5));
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_counts_otherwise_for_long_begins_anew() {
    let a = caller(1, 1, 1);
    let mut reign = reign(5, &[a]);
    enter(&mut reign, a, &facts("d"), 1);
    assert!(reign.compare(a, 1).is_ok());
    for _ in 0..7 {
        assert!(reign.compare(a, 0).is_ok(), "it may be on its way");
    }
    assert!(reign.compare(a, 1).is_ok());
    for _ in 0..7 {
        assert!(reign.compare(a, 0).is_ok());
    }
    assert_eq!(reign.compare(a, 0), Err(NotHere::LinkLost));
    assert!(!reign.admits(1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn silent_gateways_are_forgotten_and_grants_end_with_the_quorum() {
    let (own, other) = (caller(1, 1, 1), caller(2, 1, 1));
    let mut reign = reign(5, &[own, other]);
    assert_eq!(reign.grant(), Duration::ZERO, "nothing has been confirmed");
    reign.confirmed(Some(tokio::time::Instant::now()));
    assert_eq!(reign.grant(), LINK_LEASE);
    enter(&mut reign, own, &facts("d"), 1);
    enter(&mut reign, other, &facts("e"), 1);
    tokio::time::advance(Duration::from_millis(1500)).await;
    assert_eq!(reign.grant(), LINK_LEASE - Duration::from_millis(1500));
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(reign.grant(), Duration::ZERO);
    let mut gone = Vec::new();
    reign.forget_silent(GRACE, &mut gone);
    assert!(gone.is_empty(), "a later owner would not know");
    assert_eq!(reign.lacks_marks(GRACE, || vec![1, 2]), [2]);
    reign.is_marked_now(2);
    reign.forget_silent(GRACE, &mut gone);
    assert_eq!(gone, [facts("e").identity.clone()]);
    assert_eq!((reign.rows.len(), reign.devices), (1, 1));
    reign.confirmed(None);
    assert_eq!(reign.grant(), LINK_LEASE, "nobody else can own it");
}

#[tokio::test(start_paused = true)]
async fn a_silent_gateway_is_not_forgotten_while_it_may_act_however_short_the_grace() {
    let (own, other) = (caller(1, 1, 1), caller(2, 1, 1));
    let mut reign = reign(5, &[own, other]);
    enter(&mut reign, other, &facts("d"), 1);
    let grace = LINK_LEASE / 2;
    tokio::time::advance(LINK_LEASE).await;
    assert!(reign.lacks_marks(grace, Vec::new).is_empty());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(reign.lacks_marks(grace, Vec::new), [2]);
}

#[tokio::test(start_paused = true)]
async fn who_follows_one_that_was_given_up_waits_for_what_that_one_waited_for() {
    let (a, b) = (caller(1, 1, 1), caller(2, 1, 1));
    let mut reign = reign(5, &[a, b]);
    let device = facts("d");
    enter(&mut reign, a, &device, 1);
    assert_eq!(enter(&mut reign, b, &device, 2).1, 1);
    // The connection of the second one goes before the first one is closed.
    assert!(reign.remove(&device.identity, address(b, 2)));
    assert_eq!((reign.rows.len(), reign.devices), (0, 0));
    assert_eq!(enter(&mut reign, b, &device, 3).1, 1, "the first one may still act");
    assert!(reign.remove(&device.identity, address(b, 3)));
    // Somebody has seen to it meanwhile.
    reign.clear_way(&device.identity, address(b, 2));
    assert_eq!(enter(&mut reign, b, &device, 4).1, 1, "but not for the last one");
    assert!(reign.remove(&device.identity, address(b, 4)));
    reign.clear_way(&device.identity, address(b, 4));
    assert!(matches!(reign.attach(b, &device, 5), Ok(Entered::Ready(_))));
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_successor_has_ended_too_does_not_come_back() {
    let (a, b) = (caller(1, 1, 1), caller(2, 1, 5));
    let members = || vec![1, 2];
    let mut reign = reign(5, &[a, b]);
    let (device, other) = (facts("d"), facts("e"));
    let (old, _) = enter(&mut reign, b, &device, 1);
    let (quiet, _) = enter(&mut reign, b, &other, 2);
    // Its gateway is silent, a newer one takes over and ends.
    reign.break_link(2);
    assert_eq!(enter(&mut reign, a, &device, 7).1, 1);
    reign.clear_way(&device.identity, address(a, 7));
    assert!(reign.remove(&device.identity, address(a, 7)));
    // The gateway comes back with both.
    let again = caller(2, 1, 6);
    let mut synced = Synced::default();
    reign.begin_link(again).unwrap();
    for (facts, key, number) in [(&device, 1, old), (&other, 2, quiet)] {
        let facts = facts.clone();
        reign.hand_in(again, Item { facts, key, number }, &mut synced);
    }
    reign.complete_link(again);
    assert_eq!(synced.lost, [1]);
    assert_eq!(reign.standing(&other.identity, address(again, 2)), Standing::Ready);
    // With everybody back, nothing needs to be remembered.
    reign.settle(members);
    let mut synced = Synced::default();
    reign.begin_link(again).unwrap();
    let late = Item {
        facts: device,
        key: 1,
        number: old,
    };
    reign.hand_in(again, late, &mut synced);
    assert!(synced.lost.is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_sessions_are_over_of_a_gateway_that_has_been_away_since_before_the_reign() {
    let (a, b) = (caller(1, 1, 1), caller(2, 1, 5));
    let members = || vec![1, 2];
    let mut reign = Reign::new(6, 1, 1, 1);
    reign.marks_mut().learn(&[2]);
    reign.begin_link(a).unwrap();
    reign.complete_link(a);
    tokio::time::advance(LINK_LEASE).await;
    assert!(reign.lacks_marks(GRACE, members).is_empty());
    reign.settle(members);
    assert!(reign.settled);
    let number = SessionNumber {
        term: 5,
        node: 3,
        counter: 1,
    };
    let item = |key| Item {
        facts: facts("d"),
        key,
        number,
    };
    // In two calls; nobody can say which of them has had a successor.
    let mut synced = Synced::default();
    reign.begin_link(b).unwrap();
    reign.hand_in(b, item(1), &mut synced);
    reign.hand_in(b, item(2), &mut synced);
    reign.complete_link(b);
    assert_eq!((synced.lost, reign.rows.len()), (vec![1, 2], 0));
    assert_eq!(reign.marks().back(), [2]);
    reign.marks_mut().clear(2);
    // What it has from now on is its own.
    enter(&mut reign, b, &facts("d"), 3);
    let (again, mut synced) = (caller(2, 1, 6), Synced::default());
    reign.begin_link(again).unwrap();
    reign.hand_in(again, item(3), &mut synced);
    assert!(synced.lost.is_empty());
}
