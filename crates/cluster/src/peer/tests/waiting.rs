//! What waits to be sent and who waits for answers, without sockets.

use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::*;
use crate::peer::codec::Batch;
use crate::peer::frame::{CallHead, Item, Items, Part};
use crate::peer::lanes::{Begin, FRAME_BYTES, Lanes, MAX_OPEN_BODIES, SMALL_BYTES};
use crate::peer::link::Link;

fn begin(id: u64, total: usize) -> Begin {
    Begin::Call(CallHead {
        id,
        service: 1,
        target: 0,
        patience_ms: 0,
        total: total as u32,
    })
}

fn push(lanes: &mut Lanes, key: u64, id: u64, total: usize) {
    lanes.push(key, begin(id, total), vec![vec![id as u8; total].into()]);
}

/// The items of a frame as the other side sees them.
fn items(batch: &Batch) -> Vec<Item> {
    let mut bytes = Vec::new();
    for part in batch {
        bytes.extend_from_slice(part.head.as_slice());
        bytes.extend(part.piece.concat());
    }
    Items::new(bytes.into()).collect::<Result<_, _>>().unwrap()
}

fn begun(batch: &Batch) -> Vec<u64> {
    let ids = items(batch).into_iter().filter_map(|item| match item {
        Item::Call(head, _) => Some(head.id),
        _ => None,
    });
    ids.collect()
}

#[test]
fn a_frame_takes_what_has_gathered_and_no_more_than_it_holds() {
    let mut lanes = Lanes::default();
    assert!(lanes.fill(|_| true).is_none());
    for id in 0..10 {
        push(&mut lanes, id, id, 40_000);
    }
    lanes.push_control(Part::ping(1));
    let batch = lanes.fill(|_| true).unwrap();
    assert_eq!(items(&batch)[0], Item::Ping(1), "pings leave first");
    assert_eq!(begun(&batch), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(begun(&lanes.fill(|_| true).unwrap()), [7, 8, 9]);
    assert_eq!(lanes.bytes(), 0);
    assert!(lanes.fill(|_| true).is_none());
}

#[test]
fn many_empty_bodies_make_many_frames() {
    let mut lanes = Lanes::default();
    for id in 0..100_000 {
        lanes.push(id, begin(id, 0), Vec::new());
    }
    let mut frames = 0;
    while let Some(batch) = lanes.fill(|_| true) {
        frames += 1;
        assert!(batch.iter().map(Part::len).sum::<usize>() <= FRAME_BYTES + SMALL_BYTES);
    }
    assert!(frames > 5);
    assert_eq!(lanes.bytes(), 0);
}

#[test]
fn large_bodies_take_turns_and_leave_room_for_small_ones() {
    let mut lanes = Lanes::default();
    for id in 0..20 {
        push(&mut lanes, id, id, 300_000);
    }
    let mut open = std::collections::BTreeSet::new();
    let mut left = std::collections::BTreeMap::new();
    let mut done = 0;
    for small in 1000.. {
        push(&mut lanes, small, small, 10);
        let Some(batch) = lanes.fill(|_| true) else { break };
        assert!(begun(&batch).contains(&small), "a small one is never kept waiting");
        for item in items(&batch) {
            let (id, len) = match item {
                Item::Call(head, piece) if head.id < 1000 => {
                    open.insert(head.id);
                    (head.id, piece.len())
                }
                Item::More(id, piece) => (id, piece.len()),
                _ => continue,
            };
            let left = left.entry(id).or_insert(300_000);
            *left -= len;
            if *left == 0 {
                open.remove(&id);
                done += 1;
            }
        }
        assert!(open.len() <= MAX_OPEN_BODIES, "{open:?}");
        if done == 20 {
            break;
        }
    }
    assert_eq!((done, lanes.bytes()), (20, 0));
}

#[test]
fn a_key_keeps_its_order() {
    let mut lanes = Lanes::default();
    push(&mut lanes, 1, 1, 700_000);
    push(&mut lanes, 1, 2, 10);
    push(&mut lanes, 2, 3, 10);
    push(&mut lanes, 1, 4, 400_000);
    push(&mut lanes, 1, 5, 10);
    let mut order = Vec::new();
    while let Some(batch) = lanes.fill(|_| true) {
        order.extend(begun(&batch));
    }
    assert_eq!(order, [3, 1, 2, 4, 5]);
}

#[test]
fn what_is_not_wanted_any_more_is_left_out_or_dropped() {
    let mut lanes = Lanes::default();
    push(&mut lanes, 1, 1, 700_000);
    push(&mut lanes, 2, 2, 10);
    push(&mut lanes, 3, 3, 700_000);
    let batch = lanes.fill(|id| id != 2).unwrap();
    assert_eq!(begun(&batch), [1, 3]);
    push(&mut lanes, 4, 4, 10);
    lanes.retain(|_| false);
    let batch = lanes.fill(|_| false).unwrap();
    assert_eq!(
        items(&batch),
        [Item::Drop(1), Item::Drop(3)],
        "what is begun ends with a drop"
    );
    assert_eq!(lanes.bytes(), 0);
}

fn take(link: &Link) -> Option<Batch> {
    match link.poll_batch(&Context::from_waker(Waker::noop())) {
        Poll::Ready(batch) => batch,
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_link_that_closes_tells_what_may_have_been_carried_out() {
    let link = Link::new(2, 1 << 20, 10);
    let sent = link.submit(call(b"sent")).unwrap();
    assert_eq!(begun(&take(&link).unwrap()).len(), 1);
    let waits = link.submit(call(b"waits")).unwrap();
    link.close(&"the cable".into());
    assert!(matches!(sent.await, Err(CallError::Unknown(why)) if why.contains("the cable")));
    assert!(matches!(waits.await, Err(CallError::NotSent(why)) if why.contains("the cable")));
    assert!(matches!(link.submit(call(b"late")), Err(CallError::NotSent(_))));
    assert!(take(&link).is_none());
    assert_eq!(link.load(), (0, 0));
}

#[tokio::test]
async fn calls_that_expire_in_the_queue_were_not_sent_and_leave_it() {
    let link = Link::new(2, 1 << 20, 10);
    let brief = Call {
        timeout: Duration::from_millis(1),
        ..call(b"brief")
    };
    let brief = link.submit(brief).unwrap();
    let long = link.submit(call(b"long")).unwrap();
    let now = Instant::now() + Duration::from_millis(5);
    let look = link.expire(now, Duration::from_secs(1));
    assert!(look <= now + Duration::from_secs(1));
    assert!(matches!(brief.await, Err(CallError::NotSent(_))));
    assert_eq!(begun(&take(&link).unwrap()).len(), 1);
    assert_eq!(link.load().1, 1);
    drop(long);
}

#[tokio::test]
async fn a_caller_that_is_gone_costs_nothing_on_the_wire() {
    let link = Link::new(2, 1 << 20, 10);
    drop(link.submit(call(b"gone")).unwrap());
    assert!(take(&link).is_none());
    assert_eq!(link.load(), (0, 0));
}

#[tokio::test]
async fn an_answer_reaches_its_call_once() {
    let link = Link::new(2, 1 << 20, 10);
    let first = link.submit(call(b"1")).unwrap();
    let id = begun(&take(&link).unwrap())[0];
    link.answer(&mut vec![
        (id, Ok(Bytes::from_static(b"right"))),
        (id, Ok(Bytes::from_static(b"twice"))),
        (id + (1 << 32), Ok(Bytes::from_static(b"another"))),
        (77, Ok(Bytes::from_static(b"nobody's"))),
    ]);
    assert_eq!(first.await.unwrap(), "right");
    // The place is used again, and the old number does not fit it.
    let second = link.submit(call(b"2")).unwrap();
    take(&link).unwrap();
    link.answer(&mut vec![(id, Ok(Bytes::from_static(b"stale")))]);
    assert!(link.waits(id + (1 << 32)));
    link.answer(&mut vec![(id + (1 << 32), Ok(Bytes::from_static(b"fresh")))]);
    assert_eq!(second.await.unwrap(), "fresh");
}
