//! Cloud-to-device messages: back ends that send them through any node, and the promises about their queues.
//!
//! A message is a number. A device takes messages like other deliveries, and accepts most of them, some time after it has received
//! them.
//! Promises, whatever breaks:
//! - an accepted message reaches its device, or is a dead letter in the end; it was queued once;
//! - a message that was refused reaches no device;
//! - messages of one back end to one device, each sent after the answer for the one before it, are received first in that
//!   order;
//! - once all faults have ended, every queue becomes empty.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use holdfast_device_hub::{CloudMessage, CloudQueueError, Enqueued};
use holdfast_simulation::{Client, QUEUED, identity};
use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::shared::{Access, Shared};

/// Numbers of one back end.
const NUMBERS: u64 = 1_000_000;

/// A message that a back end has sent.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    device: String,
    /// `None`: the node to which the back end turned has ended.
    answer: Option<Result<Enqueued, CloudQueueError>>,
}

/// A message as a device received it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReceivedMessage {
    pub(crate) number: u64,
    /// Its number in the queue.
    pub(crate) sequence: u64,
}

/// Sends messages through any node until the end; then waits until the queues are empty.
pub(crate) async fn send_at_random(
    shared: Rc<Shared>,
    devices: &'static [&'static str],
    back_end: u64,
    mut rng: SmallRng,
) {
    let mut number = QUEUED + back_end * NUMBERS;
    while !shared.ending.get() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(10..200))).await;
        let device = devices[rng.random_range(0..devices.len())];
        let Some(access) = shared.any(&mut rng) else { continue };
        number += 1;
        let answer = send(&access, device, number).await;
        shared.note(format!(
            "{number} into the queue of {device} via {}: {answer:?}",
            access.node
        ));
        let sent = Queued {
            device: device.to_owned(),
            answer,
        };
        shared.history.borrow_mut().queued.insert(number, sent);
    }
    for device in devices {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let Some(access) = shared.any(&mut rng) else { continue };
            let Some(dead) = left(&access, device).await else {
                continue;
            };
            let dead = dead.into_iter().map(|number| ((*device).to_owned(), number));
            shared.history.borrow_mut().dead_letters.extend(dead);
            break;
        }
    }
}

async fn send(access: &Access, device: &str, number: u64) -> Option<Result<Enqueued, CloudQueueError>> {
    let id = identity(device);
    // Devices of this test are never deleted.
    let generation = access.registry.identity(&id).ok().flatten()?.generation.clone();
    let message = CloudMessage {
        message_id: Some(number.to_string()),
        ..CloudMessage::default()
    };
    let sent = access.hub.send_cloud_message(&id, &generation, &message);
    access.call(sent).await
}

/// The dead letters of a device, once its queue is empty.
async fn left(access: &Access, device: &str) -> Option<Vec<u64>> {
    let id = identity(device);
    let generation = access.registry.identity(&id).ok().flatten()?.generation.clone();
    let listed = access.call(access.hub.list_cloud_messages(&id, &generation)).await;
    let listed = listed?.ok()?;
    let number = |message: &CloudMessage| message.message_id.as_ref().unwrap().parse().unwrap();
    let is_empty = listed.iter().all(|one| one.dead.is_some());
    is_empty.then(|| listed.iter().map(|one| number(&one.message)).collect())
}

/// The messages that a connection has received.
pub(crate) fn received(client: &Client) -> Vec<ReceivedMessage> {
    let messages = client.received_messages().into_iter();
    messages
        .map(|(number, sequence)| ReceivedMessage { number, sequence })
        .collect()
}

/// Checks what was sent against what devices received, in the order in which their sessions began. Returns broken promises.
pub(crate) fn check(
    queued: &BTreeMap<u64, Queued>,
    received: &[(String, Vec<ReceivedMessage>)],
    dead_letters: &BTreeSet<(String, u64)>,
) -> Vec<String> {
    let mut broken = Vec::new();
    let mut sequences: BTreeMap<u64, u64> = BTreeMap::new();
    let mut first: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for (device, messages) in received {
        for message in messages {
            let ReceivedMessage { number, sequence } = *message;
            let Some(sent) = queued.get(&number).filter(|sent| sent.device == *device) else {
                broken.push(format!("{device}: message {number} was never sent to it"));
                continue;
            };
            match sequences.insert(number, sequence) {
                Some(other) if other != sequence => {
                    broken.push(format!("{device}: message {number} was queued twice"));
                }
                Some(_) => continue,
                None => {}
            }
            // The first time that a device has it.
            let is_certain = matches!(sent.answer, Some(Ok(_)));
            let back_end = number / NUMBERS;
            let latest = first.entry((device, back_end)).or_default();
            if is_certain && *latest > number {
                broken.push(format!("{device}: message {number} was received after {latest}"));
            }
            *latest = number.max(*latest);
        }
    }
    for (number, sent) in queued {
        let is_received = sequences.contains_key(number);
        match sent.answer {
            Some(Ok(_)) if !is_received && !dead_letters.contains(&(sent.device.clone(), *number)) => {
                broken.push(format!("message {number} was accepted and lost"));
            }
            Some(Ok(Enqueued { sequence, .. })) if sequences.get(number).is_some_and(|other| *other != sequence) => {
                broken.push(format!(
                    "message {number} has another sequence number than its sender knows"
                ));
            }
            Some(Err(error)) if is_received && error != CloudQueueError::Unknown => {
                broken.push(format!("message {number} was received, and refused with {error:?}"));
            }
            _ => {}
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use holdfast_model::UnixMillis;

    use super::*;

    #[test]
    fn every_broken_promise_is_found() {
        let sent = |answer| Queued {
            device: "d".to_owned(),
            answer: Some(answer),
        };
        let accepted = |sequence| {
            sent(Ok(Enqueued {
                sequence,
                expires: UnixMillis(9),
            }))
        };
        let queued = BTreeMap::from([
            (1, accepted(1)),
            (2, accepted(2)),
            (3, accepted(3)),
            (4, sent(Err(CloudQueueError::NoOwner))),
            (5, sent(Err(CloudQueueError::Unknown))),
        ]);
        let session = |messages: &[(u64, u64)]| {
            let messages = messages.iter();
            let messages = messages.map(|(number, sequence)| ReceivedMessage {
                number: *number,
                sequence: *sequence,
            });
            ("d".to_owned(), messages.collect())
        };
        let dead = BTreeSet::from([("d".to_owned(), 3)]);
        let kept = [session(&[(1, 1), (2, 2)]), session(&[(1, 1), (5, 4)])];
        assert!(check(&queued, &kept, &dead).is_empty());
        for (sessions, expected) in [
            ([session(&[(1, 1)]), session(&[])], "message 2 was accepted and lost"),
            (
                [session(&[(2, 2), (1, 1)]), session(&[])],
                "message 1 was received after 2",
            ),
            (
                [session(&[(1, 1), (2, 2)]), session(&[(1, 7)])],
                "message 1 was queued twice",
            ),
            ([session(&[(1, 1), (2, 3)]), session(&[])], "another sequence number"),
            (
                [session(&[(1, 1), (2, 2)]), session(&[(4, 9)])],
                "message 4 was received, and refused",
            ),
            (
                [session(&[(1, 1), (2, 2)]), session(&[(9, 9)])],
                "message 9 was never sent to it",
            ),
        ] {
            let found = check(&queued, &sessions, &dead);
            assert!(
                found.iter().any(|text| text.contains(expected)),
                "{expected}: {found:?}"
            );
        }
    }
}
