use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::marker::{FILLER, MARKER_BYTES};

const SIZE: usize = MARKER_BYTES + 8;

fn span(epoch: u32, first: u64, acknowledged_below: u64, sent_below: u64) -> Span {
    Span {
        epoch,
        first,
        sent_below,
        acknowledged_below,
        acknowledged_early: Vec::new(),
        is_sessionless: false,
    }
}

fn judge(spans: Vec<Span>, events: &[(u32, u64)]) -> Verdict {
    let mut ledger = Ledger::new(1, "d", SIZE);
    ledger.devices.insert(0, spans);
    let mut judge = Judge::new(&ledger).unwrap();
    for (epoch, number) in events {
        judge.event("d0000000", &payload(1, 0, *epoch, *number));
    }
    judge.finish()
}

fn payload(run: u64, device: u32, epoch: u32, number: u64) -> Vec<u8> {
    let mut payload = vec![FILLER; SIZE];
    MessageMarker {
        run,
        device,
        epoch,
        number,
        sent_us: 0,
    }
    .write(&mut payload);
    payload
}

#[test]
fn acknowledged_messages_found_in_order_are_clean() {
    let verdict = judge(vec![span(0, 0, 3, 5)], &[(0, 0), (0, 1), (0, 2), (0, 3)]);
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!(
        (verdict.events, verdict.acknowledged, verdict.unacknowledged_kept),
        (4, 3, 1)
    );
}

#[test]
fn a_resend_after_a_reconnect_is_allowed_twice() {
    let spans = vec![span(0, 0, 1, 3), span(1, 1, 4, 4)];
    let verdict = judge(spans, &[(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (1, 3)]);
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!(verdict.resent_kept, 2);
}

#[test]
fn an_acknowledged_message_that_is_missing_is_lost() {
    let verdict = judge(vec![span(0, 0, 3, 3)], &[(0, 0), (0, 2)]);
    assert_eq!((verdict.lost, verdict.gaps), (1, 0));
    assert_eq!(judge(vec![span(0, 0, 3, 3)], &[]).lost, 3);
    // Found under another connection is not enough: that copy may have been the client's resend.
    let spans = vec![span(0, 0, 2, 2), span(1, 2, 2, 3)];
    assert_eq!(judge(spans, &[(0, 0), (1, 2)]).lost, 1);
}

#[test]
fn the_same_message_twice_from_one_connection_is_doubled() {
    let verdict = judge(vec![span(0, 0, 2, 2)], &[(0, 0), (0, 1), (0, 1)]);
    assert_eq!((verdict.doubled, verdict.out_of_order, verdict.lost), (1, 0, 0));
}

#[test]
fn a_message_behind_a_later_one_is_out_of_order() {
    let verdict = judge(vec![span(0, 0, 3, 3)], &[(0, 0), (0, 2), (0, 1)]);
    assert_eq!((verdict.out_of_order, verdict.lost, verdict.gaps), (1, 0, 0));
    let verdict = judge(vec![span(0, 0, 1, 1), span(1, 1, 2, 2)], &[(1, 1), (0, 0)]);
    assert_eq!(verdict.out_of_order, 1);
}

#[test]
fn an_unacknowledged_message_of_a_protocol_without_sessions_may_come_late() {
    let spans = |is_sessionless| {
        let first = Span {
            is_sessionless,
            ..span(0, 0, 1, 2)
        };
        vec![first, span(1, 1, 3, 3)]
    };
    let late = [(0, 0), (1, 1), (0, 1), (1, 2)];
    assert!(judge(spans(true), &late).is_clean());
    assert_eq!(judge(spans(false), &late).out_of_order, 1);
    // An acknowledged message was stored before the next one was sent.
    assert_eq!(judge(spans(true), &[(1, 1), (0, 0), (1, 2)]).out_of_order, 1);
}

#[test]
fn an_unacknowledged_message_missing_before_a_later_one_is_a_gap() {
    let verdict = judge(vec![span(0, 0, 1, 4)], &[(0, 0), (0, 2)]);
    assert_eq!((verdict.gaps, verdict.lost), (1, 0));
}

#[test]
fn early_acknowledgements_count_as_promises() {
    let mut early = span(0, 0, 1, 4);
    early.acknowledged_early = vec![2];
    assert_eq!(judge(vec![early.clone()], &[(0, 0), (0, 1), (0, 2)]).lost, 0);
    let verdict = judge(vec![early], &[(0, 0), (0, 1), (0, 3)]);
    assert_eq!((verdict.lost, verdict.gaps), (1, 0));
}

#[test]
fn strangers_are_left_alone_and_phantoms_are_not() {
    let mut ledger = Ledger::new(1, "d", SIZE);
    ledger.devices.insert(0, vec![span(0, 0, 0, 1)]);
    let mut judge = Judge::new(&ledger).unwrap();
    judge.event("d0000000", &payload(2, 0, 0, 0));
    judge.event("other", b"{}");
    judge.event("d0000009", &payload(1, 9, 0, 0));
    judge.event("d0000000", &payload(1, 0, 0, 1));
    judge.event("d0000000", &payload(1, 0, 5, 0));
    let verdict = judge.finish();
    assert_eq!((verdict.other_events, verdict.phantoms), (2, 3));
}

#[test]
fn a_damaged_body_or_a_wrong_name_is_corrupt() {
    let mut ledger = Ledger::new(1, "d", SIZE);
    ledger.devices.insert(0, vec![span(0, 0, 2, 2)]);
    let mut judge = Judge::new(&ledger).unwrap();
    let mut damaged = payload(1, 0, 0, 0);
    damaged[SIZE - 1] ^= 1;
    judge.event("d0000000", &damaged);
    judge.event("d0000001", &payload(1, 0, 0, 1));
    assert_eq!(judge.finish().corrupt, 2);
}

proptest! {
    #[test]
    fn ranges_behave_like_a_set(numbers in proptest::collection::vec(0_u64..40, 0..80)) {
        let mut ranges = Ranges::default();
        let mut set = BTreeSet::new();
        for number in numbers {
            prop_assert_eq!(ranges.insert(number), set.insert(number));
        }
        prop_assert_eq!(ranges.len(), set.len() as u64);
        prop_assert_eq!(ranges.end(), set.last().map_or(0, |last| last + 1));
        for number in 0..41 {
            prop_assert_eq!(ranges.contains(number), set.contains(&number));
        }
        prop_assert_eq!(ranges.count(10, 20), set.range(10..20).count() as u64);
        prop_assert!(ranges.0.windows(2).all(|pair| pair[0].1 < pair[1].0), "disjoint and not touching");
    }

    #[test]
    fn any_prefixes_of_connections_kept_in_order_are_clean(cuts in proptest::collection::vec((0_u64..9, 0_u64..9, 0_u64..9), 1..6)) {
        let (mut spans, mut events, mut first) = (Vec::new(), Vec::new(), 0);
        for (epoch, (acknowledged, kept, sent)) in (0_u32..).zip(cuts) {
            let (below, kept_below) = (first + acknowledged, first + acknowledged + kept);
            spans.push(span(epoch, first, below, kept_below + sent));
            events.extend((first..kept_below).map(|number| (epoch, number)));
            first = below;
        }
        let verdict = judge(spans, &events);
        prop_assert!(verdict.is_clean(), "{:?}", verdict);
        prop_assert_eq!(verdict.events, verdict.acknowledged + verdict.unacknowledged_kept);
    }
}
