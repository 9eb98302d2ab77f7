//! One connection of a device: sends numbered messages, processes acknowledgements, and records when it is closed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use holdfast_swarm::batch::packet_id;
use holdfast_swarm::ledger::Span;
use holdfast_swarm::marker::{FILLER, MessageMarker};
use rand::Rng as _;
use rand::rngs::StdRng;
use tokio::sync::Notify;

use super::wire::Wire;
use super::{PAYLOAD_BYTES, Shared};
use crate::history::{Connection, End, Micros, SECOND};

/// Messages in flight.
const WINDOW: usize = 16;
/// Interval between two sends, in milliseconds.
const INTERVAL_MS: std::ops::Range<u64> = 60..180;
/// A PINGREQ is sent after this much silence.
const PING_AFTER: Micros = 20 * SECOND;

/// The state of a connection; shared with the device, which outlives it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) number: u32,
    name: String,
    epoch: u32,
    node: u32,
    asked: Micros,
    up: Micros,
    first: u64,
    /// The next number to send.
    pub(super) next: u64,
    /// All below were acknowledged.
    pub(super) acknowledged_below: u64,
    early: Vec<u64>,
    outstanding: VecDeque<(u64, Micros)>,
    newest_acknowledged_sent: Option<Micros>,
    ended: Option<(Micros, End)>,
    /// It is one of a device over HTTPS, which takes no other connection away and is not cut off.
    pub(super) is_sessionless: bool,
    /// A newer connection of the device is up: this one only sends one message, which must not be acknowledged.
    pub(super) superseded: bool,
}

impl Session {
    pub(super) fn new(number: u32, name: &str, epoch: u32, node: u32, asked: Micros, up: Micros, first: u64) -> Self {
        Self {
            number,
            name: name.to_owned(),
            epoch,
            node,
            asked,
            up,
            first,
            next: first,
            acknowledged_below: first,
            early: Vec::new(),
            outstanding: VecDeque::new(),
            newest_acknowledged_sent: None,
            ended: None,
            is_sessionless: false,
            superseded: false,
        }
    }

    pub(super) fn span(&self) -> Span {
        Span {
            epoch: self.epoch,
            first: self.first,
            sent_below: self.next,
            acknowledged_below: self.acknowledged_below,
            acknowledged_early: self.early.clone(),
            is_sessionless: self.is_sessionless,
        }
    }

    pub(super) fn connection(&self, now: Micros) -> Connection {
        let (ended, end) = self.ended.unwrap_or((now, End::Open));
        Connection {
            device: self.name.clone(),
            epoch: self.epoch,
            node: self.node,
            asked: self.asked,
            up: self.up,
            ended,
            end,
            newest_acknowledged_sent: self.newest_acknowledged_sent,
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// When the oldest unacknowledged message was sent.
    pub(super) fn waits_since(&self) -> Option<Micros> {
        self.outstanding.front().map(|(_, sent)| *sent)
    }

    /// Whether a message waits for its acknowledgement.
    pub(super) fn is_waiting(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// The number and payload of the next message, which counts as sent from now on.
    pub(super) fn next_message(&mut self, run: u64, now: Micros) -> (u64, [u8; PAYLOAD_BYTES]) {
        let mut payload = [FILLER; PAYLOAD_BYTES];
        let number = self.next;
        let marker = MessageMarker {
            run,
            device: self.number,
            epoch: self.epoch,
            number,
            sent_us: 0,
        };
        marker.write(&mut payload);
        self.outstanding.push_back((number, now));
        self.next += 1;
        (number, payload)
    }

    /// The connection has ended.
    pub(super) fn end(&mut self, at: Micros, end: End) {
        self.ended.get_or_insert((at, end));
    }

    /// Processes an acknowledgement.
    fn acknowledge(&mut self, id: u16) -> Result<()> {
        let place = self.outstanding.iter().position(|(number, _)| packet_id(*number) == id);
        let Some((place, (number, sent))) = place.and_then(|place| Some((place, self.outstanding.remove(place)?)))
        else {
            bail!("acknowledged what was not outstanding (packet id {id})");
        };
        self.newest_acknowledged_sent = self.newest_acknowledged_sent.max(Some(sent));
        if place > 0 {
            self.early.push(number);
            bail!("acknowledged message {number} before older ones");
        }
        self.acknowledged_below = self.outstanding.front().map_or(self.next, |(number, _)| *number);
        let below = self.acknowledged_below;
        self.early.retain(|number| *number >= below);
        Ok(())
    }
}

/// Drives `wire` until it ends. `changed` is notified of acknowledgements and of the end.
pub(super) async fn drive(
    shared: Rc<Shared>,
    session: Rc<RefCell<Session>>,
    changed: Rc<Notify>,
    mut wire: Wire,
    sent_before: u64,
    mut rng: StdRng,
) {
    let mut last_write = shared.recorder.now();
    let mut ghost_sent = false;
    loop {
        let pause = Duration::from_millis(rng.random_range(INTERVAL_MS));
        let mut result = tokio::select! {
            read = wire.read() => read.and_then(|()| take(&shared, &session, &mut wire)),
            () = tokio::time::sleep(pause) => {
                let now = shared.recorder.now();
                match put_next(&shared, &session, &mut wire, sent_before, &mut ghost_sent, &mut rng) {
                    Ok(0) => {
                        if now >= last_write + PING_AFTER {
                            last_write = now;
                            wire.ping();
                        }
                        Ok(())
                    }
                    Ok(_) => {
                        last_write = now;
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
        };
        if result.is_ok() {
            result = wire.flush().await;
        }
        changed.notify_one();
        if let Err(error) = result {
            session.borrow_mut().end(shared.recorder.now(), End::Remote);
            changed.notify_one();
            shared.recorder.failure(format!("connection: {error:#}"));
            return;
        }
        let done = shared.is_stopping() && session.borrow().outstanding.is_empty();
        if done {
            let mut session = session.borrow_mut();
            // The server closes a superseded connection.
            if !session.superseded {
                session.end(shared.recorder.now(), End::Own);
                changed.notify_one();
                return;
            }
        }
    }
}

fn take(shared: &Shared, session: &RefCell<Session>, wire: &mut Wire) -> Result<()> {
    let first = session.borrow().first;
    wire.acknowledged(first, |id| acknowledged(shared, session, id))
}

/// Processes the acknowledgement of the message with this packet id.
pub(super) fn acknowledged(shared: &Shared, session: &RefCell<Session>, id: u16) {
    let now = shared.recorder.now();
    let mut session = session.borrow_mut();
    let (name, epoch, node) = (session.name.clone(), session.epoch, session.node);
    if let Err(error) = session.acknowledge(id) {
        let text = format!("{name}, connection {epoch} on node {node}: {error:#}");
        shared.recorder.anomaly(text);
    }
    let number = session.number;
    drop(session);
    shared.recorder.acknowledgement(number, now);
}

/// Puts the messages to send now, and says how many; a superseded connection sends one message, which must not be acknowledged.
fn put_next(
    shared: &Shared,
    session: &RefCell<Session>,
    wire: &mut Wire,
    sent_before: u64,
    ghost_sent: &mut bool,
    rng: &mut StdRng,
) -> Result<usize> {
    let now = shared.recorder.now();
    let mut session = session.borrow_mut();
    let free = WINDOW.saturating_sub(session.outstanding.len()).min(wire.room());
    let count = if session.superseded {
        usize::from(!std::mem::replace(ghost_sent, true)).min(free)
    } else if session.next < sent_before {
        // Messages of an earlier connection are resent first, without delay.
        free.min(usize::try_from(sent_before - session.next)?)
    } else if shared.is_stopping() {
        0
    } else if rng.random_bool(0.05) {
        free
    } else {
        free.min(1)
    };
    for _ in 0..count {
        let (number, payload) = session.next_message(shared.run, now);
        wire.put(number, &payload, number < sent_before)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledgements_move_the_span_and_one_out_of_order_is_reported() {
        let mut session = Session::new(1, "d", 0, 1, 0, 1, 5);
        session.outstanding.extend([(5, 10), (6, 20), (7, 30)]);
        session.next = 8;
        session.acknowledge(packet_id(5)).unwrap();
        assert_eq!(
            (session.acknowledged_below, session.newest_acknowledged_sent),
            (6, Some(10))
        );
        assert!(session.acknowledge(packet_id(7)).is_err());
        assert_eq!(session.span().acknowledged_early, [7]);
        session.acknowledge(packet_id(6)).unwrap();
        assert_eq!(
            (session.acknowledged_below, session.span().acknowledged_early.len()),
            (8, 0)
        );
        assert!(session.acknowledge(packet_id(6)).is_err());
    }
}
