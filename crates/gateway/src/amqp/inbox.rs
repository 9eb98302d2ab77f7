//! Notices of the device hub to the identities of one connection: ends of sessions, outcomes, deliveries.
//!
//! Why a queue: the hub calls at any time, also while the connection's own handler calls it; the handler takes the notices
//! in its next turn.
//! Invariants: notices of one session keep their order; a session that has ended is not confused with a later one in its
//! place ([`Place::epoch`]); the queue is bounded by what the sessions have in flight and have granted.

use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;

use holdfast_device_hub::{CloseReason, Outcome, ReceiptTarget, ReceivedDelivery, SessionTarget};
use holdfast_tasks::sync::SharedCell;

/// A device of a connection, and which one of those that were at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) slot: u32,
    pub(super) epoch: u32,
}

/// A change of a session that the hub has made.
pub(super) enum Notice {
    /// The hub ends it.
    Closed(CloseReason),
    /// So many of its oldest messages are decided.
    Settled(usize, Outcome),
    /// A delivery for the client.
    Delivered(ReceivedDelivery),
}

/// The notices of one connection.
#[derive(Default)]
pub(super) struct Inbox {
    notices: SharedCell<VecDeque<(Place, Notice)>>,
    waker: SharedCell<Option<Waker>>,
}

impl Inbox {
    /// Has the connection's task woken by the next notice.
    pub(super) fn watch(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    pub(super) fn take(&self) -> Option<(Place, Notice)> {
        let mut notices = self.notices.borrow_mut();
        let notice = notices.pop_front();
        if notices.is_empty() {
            // An idle connection keeps no buffer.
            *notices = VecDeque::new();
        }
        notice
    }

    fn put(&self, place: Place, notice: Notice) {
        let mut notices = self.notices.borrow_mut();
        match (notices.back_mut(), &notice) {
            (Some((at, Notice::Settled(count, known))), Notice::Settled(more, outcome))
                if *at == place && known == outcome =>
            {
                *count += more;
            }
            _ => notices.push_back((place, notice)),
        }
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// One session as the hub reaches it.
pub(super) struct Target {
    inbox: Rc<Inbox>,
    place: Place,
}

impl Target {
    pub(super) fn new(inbox: &Rc<Inbox>, place: Place) -> Rc<Self> {
        Rc::new(Self {
            inbox: Rc::clone(inbox),
            place,
        })
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }
}

impl SessionTarget for Target {
    fn close(&self, reason: CloseReason) {
        self.inbox.put(self.place, Notice::Closed(reason));
    }

    fn deliver(&self, delivery: ReceivedDelivery) {
        self.inbox.put(self.place, Notice::Delivered(delivery));
    }
}

impl ReceiptTarget for Target {
    fn settled(&self, cookies: &[u64], outcome: Outcome) {
        self.inbox.put(self.place, Notice::Settled(cookies.len(), outcome));
    }
}
