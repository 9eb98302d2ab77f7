//! Messages of a client beyond a rate: acknowledged later, then not read, then its connection is closed (Spec device-mqtt
//! §10.3).
//!
//! Invariants: acknowledgements leave in the order of the messages, each after its message is committed and its turn has come;
//! the window of unacknowledged messages bounds those that are stored before their turn; what is not acknowledged is lost
//! without one when its turn has not come.
//! Not here: rates and turns (`device-hub`); a hub without them never comes here.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use holdfast_device_hub::{AdmittedSend, SendRates, Throttled};
use holdfast_mqtt::codec::{self, Publish};
use smallvec::SmallVec;
use tokio::time::{Instant, Sleep};

use super::connection::{Connection, State};
use super::disconnect::DisconnectReason;

/// When a message that got no turn is tried again.
const MIN_RETRY: Duration = Duration::from_millis(100);
/// The longest such time: others may have given up before.
const MAX_RETRY: Duration = Duration::from_secs(1);

/// How long a connection may be kept unread once the daily quota is used up (Spec device-mqtt §10.3).
const MAX_WAIT_FOR_QUOTA: Duration = Duration::from_secs(30);

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is stored.
    Store,
    /// It stays unread for now.
    Keep,
    /// It is read and lost.
    Drop,
}

/// The sends of one connection, on a hub with rates.
pub(super) struct ThrottledSends {
    rates: SendRates,
    /// The message that is being read.
    admitted: Option<AdmittedSend>,
    /// Of each unacknowledged message, oldest first: its turn; `None`: it may be acknowledged.
    turns: VecDeque<Option<Box<AdmittedSend>>>,
    /// The first ones that are committed.
    committed: usize,
    /// When the message that is kept unread is tried again.
    retry: Option<Instant>,
    unread_since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl ThrottledSends {
    fn new(rates: SendRates) -> Self {
        Self {
            rates,
            admitted: None,
            turns: VecDeque::new(),
            committed: 0,
            retry: None,
            unread_since: None,
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        }
    }

    /// An acknowledged message has been stored.
    pub(super) fn stored(&mut self) {
        let admitted = self.admitted.take();
        // Boxed: nearly all have none, and the queue is written and read for each message.
        self.turns
            .push_back(admitted.filter(|send| send.due.is_some()).map(Box::new));
    }

    /// Committed messages whose turn has come, from the oldest on.
    fn take_due(&mut self, now: Instant) -> usize {
        let mut count = 0;
        while count < self.committed {
            let turn = self.turns.front().map(|turn| turn.as_ref().and_then(|turn| turn.due));
            if turn.flatten().is_some_and(|due| due > now) {
                break;
            }
            self.turns.pop_front();
            count += 1;
        }
        self.committed -= count;
        count
    }

    /// When something is to be done.
    fn next(&self) -> Option<Instant> {
        let turn = (self.committed > 0)
            .then(|| self.turns.front()?.as_ref()?.due)
            .flatten();
        match (turn, self.retry) {
            (Some(turn), Some(retry)) => Some(turn.min(retry)),
            (turn, retry) => turn.or(retry),
        }
    }
}

impl Connection {
    /// Whether a message of the client may be stored.
    pub(super) fn admit_send(&self, state: &mut State, publish: &Publish<'_>) -> Verdict {
        let core = &self.front.core;
        let sends = state
            .sends
            .get_or_insert_with(|| Box::new(ThrottledSends::new(core.send_rates(self.protocol))));
        let Some(packet_id) = publish.packet_id else {
            return match sends.rates.admits_now() {
                true => Verdict::Store,
                false => Verdict::Drop,
            };
        };
        if publish.dup && state.unacked.contains(&packet_id) {
            // It is not stored twice.
            return Verdict::Store;
        }
        match sends.rates.admit() {
            Ok(admitted) => {
                sends.unread_since = None;
                sends.admitted = Some(admitted);
                Verdict::Store
            }
            Err(throttled) => {
                self.keep_unread(sends, &throttled);
                Verdict::Keep
            }
        }
    }

    fn keep_unread(&self, sends: &mut ThrottledSends, throttled: &Throttled) {
        let now = Instant::now();
        let since = *sends.unread_since.get_or_insert(now);
        let most = match throttled.is_quota() {
            true => MAX_WAIT_FOR_QUOTA,
            false => sends.rates.max_wait(),
        };
        if now.saturating_duration_since(since) >= most {
            return self.transport.end(DisconnectReason::Throttled(throttled.code));
        }
        sends.retry = Some(now + throttled.retry_after.clamp(MIN_RETRY, MAX_RETRY));
    }

    /// `count` further messages are committed.
    pub(super) fn send_committed(&self, state: &mut State, count: usize) {
        if let Some(sends) = &mut state.sends {
            sends.committed += count;
        }
        self.acknowledge_due(state);
        if state.sends.as_ref().is_some_and(|sends| sends.committed > 0) {
            // Only the connection's task waits for the turn.
            self.transport.wake();
        }
    }

    fn acknowledge_due(&self, state: &mut State) {
        let Some(sends) = &mut state.sends else { return };
        let count = sends.take_due(Instant::now());
        let mut acks: SmallVec<[u8; 256]> = SmallVec::new();
        for packet_id in state.unacked.iter().take(count) {
            acks.extend_from_slice(&codec::puback(*packet_id));
        }
        if count > 0 {
            self.acknowledge(state, &acks, count);
        }
    }

    /// Acknowledges and reads on when it is time; `cx` is woken then.
    pub(super) fn poll_sends(&self, state: &mut State, cx: &mut Context<'_>) {
        loop {
            let Some(sends) = &mut state.sends else { return };
            let Some(next) = sends.next() else { return };
            if sends.timer.deadline() != next {
                sends.timer.as_mut().reset(next);
            }
            if sends.timer.as_mut().poll(cx).is_pending() {
                return;
            }
            if sends.retry.take_if(|retry| *retry <= Instant::now()).is_some() {
                self.transport.resume();
            }
            self.acknowledge_due(state);
            if self.transport.has_ended() {
                return;
            }
        }
    }

    /// Nothing more is read: what is committed is acknowledged without its turn.
    pub(super) fn acknowledge_all(&self, state: &mut State) {
        if let Some(sends) = &mut state.sends {
            sends.turns.iter_mut().for_each(|turn| *turn = None);
            sends.retry = None;
        }
        self.acknowledge_due(state);
    }
}
