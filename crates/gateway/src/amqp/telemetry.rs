//! Messages of devices: stored at once, accepted after their commit, in ranges, each at its turn where the hub has rates
//! (Spec amqp §4.3, §6.1).
//!
//! Invariants: the outcomes of a device leave in the order of its messages; a device whose partition has no capacity gets
//! no credit, and a connection with [`MAX_IN_FLIGHT_BYTES`] undecided is not read: some clients ignore credit.

use std::rc::Rc;
use std::task::Context;
use std::time::Duration;

use holdfast_amqp::{Incoming, LinkId, Outcome, limits};
use holdfast_amqp_server::{Links, Refused};
use holdfast_device_hub::{
    AdmittedSend, CloseReason, Operation, Outcome as HubOutcome, Protocol, Receipt, ReceiptTarget, RefusedRequest,
    SendRates, Session, TraceKind,
};
use tokio::time::Instant;

use super::device::{Device, LinkKind, SessionState};
use super::faults::Fault;
use super::handler::{Devices, Done};
use super::inbox::Place;
use super::{Front, message, protocol};
use crate::own_address::own_address as own_address_of;

/// Bytes of undecided messages of a connection past which it is not read.
pub(super) const MAX_IN_FLIGHT_BYTES: usize = 4 << 20;

/// Undecided transfers of a device past which it gets no further credit.
const MAX_UNDECIDED: usize = 1000;

/// A transfer that is not decided.
pub(super) struct Sent {
    link: LinkId,
    delivery_id: u32,
    is_settled: bool,
    /// Messages of it that are not committed.
    uncommitted: usize,
    pub(super) bytes: usize,
    /// Its turns: it is accepted at the last one.
    turns: Vec<AdmittedSend>,
}

impl Sent {
    fn due(&self) -> Option<Instant> {
        self.turns.iter().filter_map(|turn| turn.due).max()
    }
}

/// Deliveries of one link with neighbouring numbers.
struct Run {
    link: LinkId,
    first: u32,
    last: u32,
}

/// The result of storing a transfer.
enum Stored {
    /// It is on its way into the log.
    Yes,
    /// It is lost: its turn has not come, and its sender has requested no outcome.
    Dropped,
    /// It is not stored.
    Refused(Refused),
}

impl Device {
    /// `fault` becomes the one that the message requests.
    fn store(
        &mut self,
        front: &Front,
        protocol: Protocol,
        incoming: &Incoming<'_>,
        fault: &mut Option<(Duration, Fault)>,
    ) -> Stored {
        holdfast_tasks::panic_point("connection", &incoming.payload);
        let Self {
            session: SessionState::Open(session),
            target,
            sent,
            rates,
            own_address,
            ..
        } = self
        else {
            return Stored::Dropped;
        };
        let address = own_address.get_or_insert_with(|| own_address_of(session.identity(), "events").into());
        let stored = message::read(&incoming.payload, incoming.message_format, address, |messages| {
            let turns = match admit(front, rates, protocol, incoming.settled, messages.len()) {
                Ok(turns) => turns,
                Err(not_stored) => return not_stored,
            };
            sent.push_back(Sent {
                link: incoming.link,
                delivery_id: incoming.delivery_id,
                is_settled: incoming.settled,
                uncommitted: messages.len(),
                bytes: incoming.payload.len(),
                turns,
            });
            let hub = front.core.hub();
            if hub.is_tracing() {
                let text = || format!("transfer of {} messages", messages.len());
                let payload = messages.first().map(|message| message.payload);
                hub.trace(&session.identity().to_string(), TraceKind::Received, &text, payload);
            }
            if front.config.fault_injection {
                *fault = messages.iter().find_map(|message| Fault::of(message, incoming.link));
            }
            let received = front.core.clock().now();
            for message in messages {
                let receipt = Receipt {
                    target: Rc::clone(target) as Rc<dyn ReceiptTarget>,
                    // Outcomes come in the order of the messages, so that they need no name.
                    cookie: 0,
                };
                front.core.send(session, message, Some(receipt), received);
            }
            Stored::Yes
        });
        stored.unwrap_or_else(Stored::Refused)
    }
}

/// The turns of `count` messages of one transfer that are still to come; otherwise what becomes of the transfer.
fn admit(
    front: &Front,
    rates: &mut Option<Box<SendRates>>,
    protocol: Protocol,
    is_settled: bool,
    count: usize,
) -> Result<Vec<AdmittedSend>, Stored> {
    let mut turns = Vec::new();
    if !front.limits_sends {
        return Ok(turns);
    }
    let rates = rates.get_or_insert_with(|| Box::new(front.core.send_rates(protocol)));
    for _ in 0..count {
        if is_settled && !rates.admits_now() {
            return Err(Stored::Dropped);
        }
        if !is_settled {
            let turn = rates
                .admit()
                .map_err(|throttled| Stored::Refused(Refused::new(throttled.code, format!("{throttled}."))))?;
            turns.extend(Some(turn).filter(|turn| turn.due.is_some()));
        }
    }
    Ok(turns)
}

impl Devices {
    /// A device has sent a message, or a batch.
    pub(super) fn telemetry(&mut self, links: &mut Links, slot: u32, incoming: &Incoming<'_>) {
        let front = Rc::clone(&self.front);
        let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        if device.is_stopping {
            // Without an outcome the client sends it again, to another node.
            return;
        }
        let place = device.target.place();
        let mut fault = None;
        match device.store(&front, protocol(links.carrier()), incoming, &mut fault) {
            Stored::Yes => {
                self.in_flight_bytes += incoming.payload.len();
                if let Some(fault) = fault {
                    self.plan_fault(place, fault);
                }
            }
            // The client has requested no outcome.
            Stored::Dropped => {}
            Stored::Refused(refused) => self.refuse_message(links, slot, incoming, &refused),
        }
        self.topped_up(slot);
    }

    /// A message that is not stored.
    pub(super) fn refuse_message(&mut self, links: &mut Links, slot: u32, incoming: &Incoming<'_>, refused: &Refused) {
        let Some(device) = self.devices.get(slot as usize).and_then(Option::as_ref) else {
            return;
        };
        let core = &self.front.core;
        let identity = device.name.to_string();
        let request = RefusedRequest {
            operation: Operation::Publish,
            identity: &identity,
            protocol: protocol(links.carrier()),
            address: links.address(),
            code: refused.code,
            reason: refused.condition,
            text: &refused.text,
        };
        core.hub().audit().refused_request(&request, core.clock().now());
        if !incoming.settled {
            links.reject_recorded(incoming.link, incoming.delivery_id, refused);
        }
    }

    /// Has the device's credit looked at in this turn.
    fn topped_up(&mut self, slot: u32) {
        if let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut)
            && !std::mem::replace(&mut device.is_thirsty, true)
        {
            self.thirsty.push(slot);
        }
    }

    /// The `count` oldest messages of a device are decided.
    pub(super) fn messages_decided(&mut self, links: &mut Links, place: Place, count: usize, outcome: HubOutcome) {
        let Some(device) = self.at(place) else { return };
        if outcome == HubOutcome::Failed {
            // The end of its links withholds the outcomes; the client sends again.
            return self.end_session(links, place.slot, CloseReason::Unavailable);
        }
        let mut left = count;
        for sent in &mut device.sent {
            let committed = sent.uncommitted.min(left);
            sent.uncommitted -= committed;
            left -= committed;
            if left == 0 {
                break;
            }
        }
        self.accept_decided(links, place.slot);
    }

    /// Accepts the oldest messages of a device, as far as they are committed and their turns have come.
    pub(super) fn accept_decided(&mut self, links: &mut Links, slot: u32) {
        let Some(device) = self.devices.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        let place = device.target.place();
        let (mut run, mut turn): (Option<Run>, Option<Instant>) = (None, None);
        while let Some(sent) = device.sent.front()
            && sent.uncommitted == 0
        {
            if let Some(due) = sent.due()
                && due > Instant::now()
                && !device.is_stopping
            {
                turn = Some(due);
                break;
            }
            let (link, id, is_settled) = (sent.link, sent.delivery_id, sent.is_settled);
            self.in_flight_bytes -= sent.bytes;
            device.sent.pop_front();
            if is_settled {
                continue;
            }
            match &mut run {
                Some(run) if run.link == link && run.last.wrapping_add(1) == id => run.last = id,
                run => {
                    let next = Run {
                        link,
                        first: id,
                        last: id,
                    };
                    if let Some(run) = run.replace(next) {
                        accept(links, &run);
                    }
                }
            }
        }
        if let Some(run) = run {
            accept(links, &run);
        }
        if device.sent.is_empty() {
            // An idle device keeps no buffer.
            device.sent.shrink_to_fit();
        }
        if let Some(due) = turn
            && !std::mem::replace(&mut device.waits_for_turn, true)
        {
            self.tasks.push(Box::pin(async move {
                tokio::time::sleep_until(due).await;
                Done::Turn(place)
            }));
        }
        if device.is_stopping && device.sent.is_empty() {
            self.end_session(links, slot, CloseReason::Stopping);
        } else {
            self.topped_up(slot);
        }
    }

    /// Grants credit again to devices that have used theirs; `cx` is woken when there is capacity for the others.
    pub(super) fn grant_credit(&mut self, links: &mut Links, cx: &mut Context<'_>) {
        let front = Rc::clone(&self.front);
        let mut thirsty = std::mem::take(&mut self.thirsty);
        thirsty.retain(|slot| {
            let Some(device) = self.devices.get_mut(*slot as usize).and_then(Option::as_mut) else {
                return false;
            };
            let mut takes = |session: &Session| {
                !device.is_stopping && device.sent.len() < MAX_UNDECIDED && { front.core.has_capacity(session, cx) }
            };
            let waits = match (device.link(LinkKind::Telemetry), device.session()) {
                (Some(link), Some(session)) if takes(session) => {
                    links.engine().top_up(link, limits::RECEIVER_CREDIT);
                    false
                }
                // It is looked at again when a message of it is decided.
                (Some(_), Some(_)) => device.sent.len() < MAX_UNDECIDED && !device.is_stopping,
                _ => false,
            };
            device.is_thirsty = waits;
            waits
        });
        self.thirsty = thirsty;
    }
}

fn accept(links: &mut Links, run: &Run) {
    links.engine().settle(run.link, run.first, run.last, &Outcome::Accepted);
}
