//! The frame scheduler and the call queue, without sockets.

use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::*;
use crate::peer::outbound::call_queue::CallQueue;
use crate::peer::protocol::frame::{Batch, CallHead, Item, Items, Part};
use crate::peer::protocol::scheduler::{FRAME_BYTES, FirstItem, FrameScheduler, MAX_OPEN_BODIES, SMALL_BYTES};

fn first_item(id: u64, total: usize) -> FirstItem {
    FirstItem::Call(CallHead {
        id,
        service: 1,
        target: 0,
        timeout_ms: 0,
        total: total as u32,
    })
}

fn push(scheduler: &mut FrameScheduler, key: u64, id: u64, total: usize) {
    scheduler.push(key, first_item(id, total), vec![vec![id as u8; total].into()]);
}

/// The items of a frame as the receiver sees them.
fn items(batch: &Batch) -> Vec<Item> {
    let mut bytes = Vec::new();
    for part in batch {
        bytes.extend_from_slice(part.head.as_slice());
        bytes.extend(part.piece.concat());
    }
    Items::new(bytes.into()).collect::<Result<_, _>>().unwrap()
}

fn started(batch: &Batch) -> Vec<u64> {
    let ids = items(batch).into_iter().filter_map(|item| match item {
        Item::Call(head, _) => Some(head.id),
        _ => None,
    });
    ids.collect()
}

#[test]
fn a_frame_takes_the_queued_bodies_up_to_its_limit() {
    let mut scheduler = FrameScheduler::default();
    assert!(scheduler.next_frame(|_| true).is_none());
    for id in 0..10 {
        push(&mut scheduler, id, id, 40_000);
    }
    scheduler.push_control(Part::ping(1));
    let batch = scheduler.next_frame(|_| true).unwrap();
    assert_eq!(items(&batch)[0], Item::Ping(1), "pings are sent first");
    assert_eq!(started(&batch), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(started(&scheduler.next_frame(|_| true).unwrap()), [7, 8, 9]);
    assert_eq!(scheduler.bytes(), 0);
    assert!(scheduler.next_frame(|_| true).is_none());
}

#[test]
fn many_empty_bodies_make_many_frames() {
    let mut scheduler = FrameScheduler::default();
    for id in 0..100_000 {
        scheduler.push(id, first_item(id, 0), Vec::new());
    }
    let mut frames = 0;
    while let Some(batch) = scheduler.next_frame(|_| true) {
        frames += 1;
        assert!(batch.iter().map(Part::len).sum::<usize>() <= FRAME_BYTES + SMALL_BYTES);
    }
    assert!(frames > 5);
    assert_eq!(scheduler.bytes(), 0);
}

#[test]
fn large_bodies_take_turns_and_never_delay_small_ones() {
    let mut scheduler = FrameScheduler::default();
    for id in 0..20 {
        push(&mut scheduler, id, id, 300_000);
    }
    let mut open = std::collections::BTreeSet::new();
    let mut left = std::collections::BTreeMap::new();
    let mut done = 0;
    for small in 1000.. {
        push(&mut scheduler, small, small, 10);
        let Some(batch) = scheduler.next_frame(|_| true) else {
            break;
        };
        assert!(started(&batch).contains(&small), "a small body is never delayed");
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
    assert_eq!((done, scheduler.bytes()), (20, 0));
}

#[test]
fn bodies_of_one_key_keep_their_order() {
    let mut scheduler = FrameScheduler::default();
    push(&mut scheduler, 1, 1, 700_000);
    push(&mut scheduler, 1, 2, 10);
    push(&mut scheduler, 2, 3, 10);
    push(&mut scheduler, 1, 4, 400_000);
    push(&mut scheduler, 1, 5, 10);
    let mut order = Vec::new();
    while let Some(batch) = scheduler.next_frame(|_| true) {
        order.extend(started(&batch));
    }
    assert_eq!(order, [3, 1, 2, 4, 5]);
}

#[test]
fn cancelled_bodies_are_left_out_or_dropped() {
    let mut scheduler = FrameScheduler::default();
    push(&mut scheduler, 1, 1, 700_000);
    push(&mut scheduler, 2, 2, 10);
    push(&mut scheduler, 3, 3, 700_000);
    let batch = scheduler.next_frame(|id| id != 2).unwrap();
    assert_eq!(started(&batch), [1, 3]);
    push(&mut scheduler, 4, 4, 10);
    scheduler.retain(|_| false);
    let batch = scheduler.next_frame(|_| false).unwrap();
    assert_eq!(
        items(&batch),
        [Item::Drop(1), Item::Drop(3)],
        "a partly sent body ends with a drop"
    );
    assert_eq!(scheduler.bytes(), 0);
}

fn take(queue: &CallQueue) -> Option<Batch> {
    match queue.poll_frame(&Context::from_waker(Waker::noop())) {
        Poll::Ready(batch) => batch,
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn closing_a_queue_distinguishes_sent_calls_from_unsent_ones() {
    let queue = CallQueue::new(NodeId(2), 1 << 20, 10);
    let sent = queue.submit(call(b"sent")).unwrap();
    assert_eq!(started(&take(&queue).unwrap()).len(), 1);
    let waits = queue.submit(call(b"waits")).unwrap();
    queue.close(&"the cable".into());
    assert!(matches!(sent.await, Err(CallError::Unknown(why)) if why.contains("the cable")));
    assert!(matches!(waits.await, Err(CallError::NotSent(why)) if why.contains("the cable")));
    assert!(matches!(queue.submit(call(b"late")), Err(CallError::NotSent(_))));
    assert!(take(&queue).is_none());
    assert_eq!(queue.load(), (0, 0));
}

#[tokio::test]
async fn calls_that_expire_in_the_queue_were_not_sent_and_are_removed() {
    let queue = CallQueue::new(NodeId(2), 1 << 20, 10);
    let brief = Call {
        timeout: Duration::from_millis(1),
        ..call(b"brief")
    };
    let brief = queue.submit(brief).unwrap();
    let long = queue.submit(call(b"long")).unwrap();
    let now = Instant::now() + Duration::from_millis(5);
    let next = queue.expire(now, Duration::from_secs(1));
    assert!(next <= now + Duration::from_secs(1));
    assert!(matches!(brief.await, Err(CallError::NotSent(_))));
    assert_eq!(started(&take(&queue).unwrap()).len(), 1);
    assert_eq!(queue.load().1, 1);
    drop(long);
}

#[tokio::test]
async fn an_abandoned_call_is_not_sent() {
    let queue = CallQueue::new(NodeId(2), 1 << 20, 10);
    drop(queue.submit(call(b"gone")).unwrap());
    assert!(take(&queue).is_none());
    assert_eq!(queue.load(), (0, 0));
}

#[tokio::test]
async fn a_reply_completes_its_call_once() {
    let queue = CallQueue::new(NodeId(2), 1 << 20, 10);
    let first = queue.submit(call(b"1")).unwrap();
    let id = started(&take(&queue).unwrap())[0];
    queue.complete(&mut vec![
        (id, Ok(Bytes::from_static(b"right"))),
        (id, Ok(Bytes::from_static(b"twice"))),
        (id + (1 << 32), Ok(Bytes::from_static(b"another"))),
        (77, Ok(Bytes::from_static(b"nobody's"))),
    ]);
    assert_eq!(first.await.unwrap(), "right");
    // The key is used again; the id of the earlier call does not match it.
    let second = queue.submit(call(b"2")).unwrap();
    take(&queue).unwrap();
    queue.complete(&mut vec![(id, Ok(Bytes::from_static(b"stale")))]);
    assert!(queue.is_awaited(id + (1 << 32)));
    queue.complete(&mut vec![(id + (1 << 32), Ok(Bytes::from_static(b"fresh")))]);
    assert_eq!(second.await.unwrap(), "fresh");
}
