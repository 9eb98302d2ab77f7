//! SUBSCRIBE and UNSUBSCRIBE: their acknowledgement leaves when the change is stored (Spec device-mqtt §3.1).
//!
//! Why apart from the packets: a change that is being stored holds back nothing but further acknowledgements of its kind;
//! the connection reads on. Changes that come meanwhile are stored together.

use std::pin::Pin;
use std::task::{Context, Poll};

use holdfast_device_hub::{CloseReason, SubscriptionError, Subscriptions};
use holdfast_mqtt::SubscriptionSet;

use super::connection::{Connection, State};
use super::disconnect::DisconnectReason;

/// Bytes of acknowledgements that may wait for a change behind the one in flight; the connection reads no further
/// SUBSCRIBE or UNSUBSCRIBE beyond it.
const MAX_WAITING_BYTES: usize = 1024;

/// A change of subscriptions that is being stored.
pub(super) struct StoredChange {
    stored: Pin<Box<dyn Future<Output = Result<(), SubscriptionError>>>>,
    set: SubscriptionSet,
    /// Its acknowledgements.
    acks: Vec<u8>,
    /// All later changes, and their acknowledgements.
    next: Option<(SubscriptionSet, Vec<u8>)>,
}

impl StoredChange {
    /// Whether a further change is kept unread.
    pub(super) fn is_full(&self) -> bool {
        matches!(&self.next, Some((_, acks)) if acks.len() >= MAX_WAITING_BYTES)
    }
}

impl Connection {
    /// The client wants `set` from now on, and gets `ack` when it has it.
    pub(super) fn subscriptions_requested(
        &self,
        state: &mut State,
        set: SubscriptionSet,
        is_changed: bool,
        ack: Vec<u8>,
        now_ms: u64,
    ) {
        if let Some(under_way) = &mut state.storing {
            let (next, acks) = under_way.next.get_or_insert((set, Vec::new()));
            *next = set;
            acks.extend(ack);
        } else if is_changed && !state.machine.is_clean() {
            self.store(state, set, ack);
        } else {
            self.write(state, &ack, now_ms);
            state.machine.activate(set);
            self.subscriptions_changed(state);
        }
    }

    fn store(&self, state: &mut State, set: SubscriptionSet, acks: Vec<u8>) {
        let Some(session) = &state.session else { return };
        let stored = self.front.core.store_subscriptions(session, Subscriptions(set.bits()));
        state.storing = Some(Box::new(StoredChange {
            stored: Box::pin(stored),
            set,
            acks,
            next: None,
        }));
    }

    /// Acknowledges changes that are stored; `cx` is woken when the one in flight is decided.
    pub(super) fn poll_stored(&self, state: &mut State, cx: &mut Context<'_>) {
        while let Some(under_way) = &mut state.storing
            && let Poll::Ready(result) = under_way.stored.as_mut().poll(cx)
        {
            let Some(change) = state.storing.take() else { return };
            if result.is_err() {
                // Closing withholds the acknowledgement; the client subscribes again after it has reconnected.
                return self.transport.end(DisconnectReason::Hub(CloseReason::Unavailable));
            }
            let now_ms = self.transport.now_ms();
            self.write(state, &change.acks, now_ms);
            state.machine.activate(change.set);
            self.subscriptions_changed(state);
            self.transport.resume();
            if let Some((set, acks)) = change.next {
                self.subscriptions_requested(state, set, set != change.set, acks, now_ms);
            }
        }
    }
}
