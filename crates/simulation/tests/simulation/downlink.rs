//! Deliveries to devices: back ends that send them through any node, and the promises about them.
//!
//! The protocol of this test: a delivery is a number. A device that takes deliveries grants credit, and settles each some
//! time after it has received it, or never.
//! Promises, whatever breaks:
//! - a session gets each delivery at most once, in the order in which its owner has queued them, and never more than it
//!   has granted;
//! - nothing reaches a session after a newer one has begun, or after the hub has closed it;
//! - a delivery that must not be repeated reaches one session at most;
//! - one that is reported as not queued or not delivered has reached none, and one that is reported as settled was settled
//!   so by the device;
//! - once all faults have ended, every device gets and settles a delivery from any node.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use holdfast_chaos::history::Micros;
use holdfast_device_hub::{
    Delivery, DeliveryError, DeliveryKind, DeliveryOutcome, OnSessionChange, PendingDelivery, Settlement,
};
use holdfast_model::{Incarnation, NodeId};
use holdfast_simulation::{Client, QUEUED, identity, partition_of};
use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::queues::{self, ReceivedMessage};
use crate::shared::{Access, Place, Shared};

/// Numbers of one back end.
const NUMBERS: u64 = 1_000_000;

/// The most deliveries that a device takes at a time.
const WINDOW: u32 = 8;

/// A back end's knowledge of a delivery.
type Answer = Result<DeliveryOutcome, DeliveryError>;

/// A delivery that a back end has sent.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    device: String,
    on_session_change: OnSessionChange,
    /// The owner that queued it at once: in the order of the numbers.
    owner: Option<Place>,
    /// `None`: the node to which the back end turned has ended.
    answer: Option<Answer>,
}

/// The deliveries that a session received.
#[derive(Debug, Clone, Default)]
pub(crate) struct Received {
    pub(crate) device: String,
    pub(crate) up: Micros,
    /// Numbers and times.
    pub(crate) deliveries: Vec<(u64, Micros)>,
    pub(crate) after_close: Vec<u64>,
    pub(crate) settled: Vec<(u64, Settlement)>,
    /// From the device's queue.
    pub(crate) messages: Vec<ReceivedMessage>,
}

/// Sends deliveries through any node until the end; then makes sure that `steady` devices are reached.
pub(crate) async fn send_at_random(
    shared: Rc<Shared>,
    devices: Vec<&'static str>,
    steady: &'static [&'static str],
    back_end: u64,
    mut rng: SmallRng,
) {
    let mut number = back_end * NUMBERS;
    while !shared.ending.get() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(5..200))).await;
        let device = devices[rng.random_range(0..devices.len())];
        let on_session_change = match rng.random_bool(0.5) {
            true => OnSessionChange::Redeliver,
            false => OnSessionChange::Return,
        };
        let timeout = Duration::from_millis(rng.random_range(100..4_000));
        let owner = shared.owner_of(partition_of(device)).filter(|_| rng.random_bool(0.5));
        let Some(access) = owner.clone().or_else(|| shared.any(&mut rng)) else {
            continue;
        };
        number += 1;
        let sent = Sent {
            device: device.to_owned(),
            on_session_change,
            owner: owner.map(|owner| owner.place()),
            answer: None,
        };
        shared.history.borrow_mut().sent.insert(number, sent);
        let delivery = delivery(number, on_session_change);
        let pending = match shared.history.borrow().sent[&number].owner {
            Some(_) => Sending::Queued(access.hub.deliver_here(&identity(device), delivery)),
            None => Sending::Routed(delivery),
        };
        shared.spawn(
            "delivery",
            send(shared.clone(), access, device, number, pending, timeout),
        );
    }
    for device in steady {
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let Some(access) = shared.any(&mut rng) else { continue };
            number += 1;
            let sent = Sent {
                device: (*device).to_owned(),
                on_session_change: OnSessionChange::Return,
                owner: None,
                answer: None,
            };
            shared.history.borrow_mut().sent.insert(number, sent);
            let sending = Sending::Routed(delivery(number, OnSessionChange::Return));
            send(shared.clone(), access, device, number, sending, Duration::from_secs(2)).await;
            let answer = shared.history.borrow().sent[&number].answer;
            if answer == Some(Ok(DeliveryOutcome::Settled(Settlement::Accepted))) {
                break;
            }
        }
    }
}

fn delivery(number: u64, on_session_change: OnSessionChange) -> Delivery {
    Delivery {
        kind: DeliveryKind::CloudToDevice,
        on_session_change,
        head: "".into(),
        body: number.to_string().into(),
        trace: None,
    }
}

enum Sending {
    /// The owner has decided about it.
    Queued(Result<PendingDelivery, DeliveryError>),
    Routed(Delivery),
}

async fn send(
    shared: Rc<Shared>,
    access: Access,
    device: &'static str,
    number: u64,
    sending: Sending,
    timeout: Duration,
) {
    let answer = access.call(async {
        match sending {
            Sending::Queued(Err(error)) => Err(error),
            Sending::Queued(Ok(pending)) => {
                let outcome = tokio::time::timeout(timeout, pending.outcome()).await;
                outcome.map_err(|_| DeliveryError::Unsettled)
            }
            Sending::Routed(delivery) => access.hub.deliver(&identity(device), delivery, timeout).await,
        }
    });
    let answer = answer.await;
    shared.note(format!("{number} for {device} via {}: {answer:?}", access.node));
    let mut history = shared.history.borrow_mut();
    if let Some(sent) = history.sent.get_mut(&number) {
        sent.answer = answer;
    }
}

/// How a device's connection takes deliveries.
#[derive(Debug, Default)]
pub(crate) struct Receiving {
    /// Its grant: deliveries and bytes.
    granted: (u64, u64),
    /// How many it has seen.
    seen: usize,
    /// Received and not settled.
    held: Vec<u64>,
    settled: Vec<(u64, Settlement)>,
}

impl Receiving {
    /// One step of an open connection: checks the arrived deliveries, settles some of them, and grants credit. `calm`: it takes
    /// and accepts everything.
    pub(crate) fn step(&mut self, client: &Client, name: &str, shared: &Shared, rng: &mut SmallRng, calm: bool) {
        let received = client.received();
        for (number, _) in &received[self.seen..] {
            shared.note(format!("{name}: {number} is delivered"));
            self.held.push(*number);
        }
        self.seen = received.len();
        // The last delivery may exceed the bytes.
        let before_last = client.received_bytes(self.seen.saturating_sub(1));
        let too_many = self.seen as u64 > self.granted.0 || (self.seen > 0 && before_last >= self.granted.1);
        if too_many {
            shared.violation(format!(
                "{name}: {} deliveries of {} bytes, {:?} granted",
                self.seen,
                client.received_bytes(self.seen),
                self.granted
            ));
        }
        let settles = |rng: &mut SmallRng| calm || rng.random_bool(0.2);
        for number in std::mem::take(&mut self.held) {
            if !settles(rng) {
                self.held.push(number);
                continue;
            }
            let settlement = match rng.random_range(0..10) {
                // A message that is rejected ends; one that is given back comes again.
                0 if !calm && number >= QUEUED => Settlement::Released,
                _ if number >= QUEUED => Settlement::Accepted,
                0 if !calm => Settlement::Rejected,
                1 if !calm => Settlement::Released,
                _ => Settlement::Accepted,
            };
            client.settle_delivery(number, settlement);
            if number < QUEUED {
                self.settled.push((number, settlement));
            }
        }
        if calm || rng.random_bool(0.05) {
            let open = self.granted.0 - self.seen as u64 + self.held.len() as u64;
            let messages = u64::from(WINDOW).saturating_sub(open);
            let bytes = if calm { 1_000 } else { rng.random_range(1..100) };
            // A window without bytes takes nothing, however many deliveries it has left.
            let is_out_of_bytes = calm && client.received_bytes(self.seen) >= self.granted.1;
            if messages > 0 || is_out_of_bytes {
                client.take_messages();
                let messages = if calm { messages } else { rng.random_range(1..=messages) };
                client.grant_deliveries(u32::try_from(messages).unwrap(), bytes);
                self.granted.0 += messages;
                self.granted.1 += u64::from(bytes);
            }
        }
    }

    /// The record of a connection that is over.
    pub(crate) fn record(&self, client: &Client, device: &str, shared: &Shared) -> Received {
        let deliveries = client.received().into_iter();
        let deliveries = deliveries.filter(|(number, _)| *number < QUEUED);
        Received {
            device: device.to_owned(),
            up: shared.at(client.up),
            deliveries: deliveries.map(|(number, at)| (number, shared.at(at))).collect(),
            after_close: client.delivered_after_close(),
            messages: queues::received(client),
            settled: self.settled.clone(),
        }
    }
}

/// Checks what was sent against what sessions got, which are in the order in which they began. Returns broken promises.
pub(crate) fn check(sent: &BTreeMap<u64, Sent>, received: &[Received]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut sessions_with: BTreeMap<u64, u64> = BTreeMap::new();
    let mut settled: BTreeMap<u64, Vec<Settlement>> = BTreeMap::new();
    let mut latest: BTreeMap<&str, &Received> = BTreeMap::new();
    for session in received {
        let device = session.device.as_str();
        if let Some(older) = latest.insert(device, session) {
            let late = older.deliveries.iter().filter(|(_, at)| *at > session.up);
            broken.extend(late.map(|(number, _)| format!("{device}: {number} reached a superseded session")));
        }
        let after_close = session.after_close.iter();
        broken.extend(after_close.map(|number| format!("{device}: {number} reached a closed session")));
        // Each back end counts its own.
        let mut last_of: BTreeMap<(Place, u64), u64> = BTreeMap::new();
        let mut seen = Vec::new();
        for (number, _) in &session.deliveries {
            *sessions_with.entry(*number).or_default() += 1;
            if seen.contains(number) {
                broken.push(format!("{device}: {number} was delivered twice to one session"));
            }
            seen.push(*number);
            let Some(one) = sent.get(number).filter(|one| one.device == device) else {
                broken.push(format!("{device}: {number} was never sent to it"));
                continue;
            };
            let before = one
                .owner
                .and_then(|owner| last_of.insert((owner, number / NUMBERS), *number));
            if before.is_some_and(|before| before > *number) {
                broken.push(format!("{device}: {number} was delivered out of order"));
            }
        }
        for (number, settlement) in &session.settled {
            settled.entry(*number).or_default().push(*settlement);
        }
    }
    for (number, one) in sent {
        let sessions = sessions_with.get(number).copied().unwrap_or_default();
        if one.on_session_change == OnSessionChange::Return && sessions > 1 {
            broken.push(format!(
                "{number} must not be repeated, and reached {sessions} sessions"
            ));
        }
        match one.answer {
            Some(
                Ok(DeliveryOutcome::NotDelivered)
                | Err(
                    DeliveryError::NoOwner
                    | DeliveryError::NotConnected
                    | DeliveryError::Busy
                    | DeliveryError::QueueFull { .. },
                ),
            ) if sessions > 0 => {
                broken.push(format!("{number} was delivered, and reported as {:?}", one.answer));
            }
            Some(Ok(DeliveryOutcome::Settled(settlement)))
                if !settled.get(number).is_some_and(|all| all.contains(&settlement)) =>
            {
                broken.push(format!(
                    "{number} was reported as {settlement:?}, and no device has settled it so"
                ));
            }
            _ => {}
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(on_session_change: OnSessionChange, answer: Answer) -> Sent {
        Sent {
            device: "d".to_owned(),
            on_session_change,
            owner: Some((NodeId(1), Incarnation(1))),
            answer: Some(answer),
        }
    }

    fn session(up: Micros, deliveries: &[(u64, Micros)]) -> Received {
        Received {
            device: "d".to_owned(),
            up,
            deliveries: deliveries.to_vec(),
            ..Received::default()
        }
    }

    #[test]
    fn every_broken_promise_is_found() {
        let unknown = || sent(OnSessionChange::Redeliver, Ok(DeliveryOutcome::Unknown));
        let all = BTreeMap::from([
            (1, unknown()),
            (2, unknown()),
            (3, sent(OnSessionChange::Return, Err(DeliveryError::Unsettled))),
            (4, sent(OnSessionChange::Return, Ok(DeliveryOutcome::NotDelivered))),
            (5, sent(OnSessionChange::Return, Err(DeliveryError::NoOwner))),
            (
                6,
                sent(
                    OnSessionChange::Return,
                    Ok(DeliveryOutcome::Settled(Settlement::Rejected)),
                ),
            ),
        ]);
        let mut kept = session(10, &[(1, 11), (3, 12)]);
        let settling = |number, settlement| Received {
            settled: vec![(number, settlement)],
            ..session(20, &[(1, 21), (2, 22), (number, 23)])
        };
        assert!(check(&all, &[kept.clone(), settling(6, Settlement::Rejected)]).is_empty());
        kept.after_close = vec![3];
        let settled = settling(6, Settlement::Rejected);
        let broken: [(&[Received], &str); 8] = [
            (&[kept, settled.clone()], "3 reached a closed session"),
            (
                &[session(10, &[(1, 21)]), settled.clone()],
                "1 reached a superseded session",
            ),
            (
                &[session(10, &[(1, 11), (1, 12)]), settled.clone()],
                "1 was delivered twice to one session",
            ),
            (
                &[session(10, &[(2, 11), (1, 12)]), settled.clone()],
                "1 was delivered out of order",
            ),
            (&[session(10, &[(9, 11)]), settled.clone()], "9 was never sent to it"),
            (
                &[session(10, &[(3, 11)]), session(20, &[(3, 21)]), settled.clone()],
                "3 must not be repeated",
            ),
            (
                &[session(10, &[(4, 11), (5, 12)]), settled],
                "5 was delivered, and reported as",
            ),
            (&[settling(6, Settlement::Accepted)], "6 was reported as Rejected"),
        ];
        for (sessions, expected) in broken {
            let found = check(&all, sessions);
            assert!(
                found.iter().any(|text| text.contains(expected)),
                "{expected}: {found:?}"
            );
        }
    }
}
