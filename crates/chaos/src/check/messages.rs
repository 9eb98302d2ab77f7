//! The guarantee about cloud-to-device messages: an acknowledged message is queued once and leaves the queue only when its
//! device has taken it; messages arrive in order.

use std::collections::{BTreeMap, BTreeSet};

use super::Findings;
use crate::history::Micros;
use crate::history::down::{ListedQueue, ReceivedMessage, SendOutcome, SentMessage, WayDown};

/// Checks what back ends sent and listed against what devices received.
#[must_use]
pub fn check(down: &WayDown) -> Findings {
    let mut findings = Findings::about("messages to devices are received, in order, or are there");
    let devices: BTreeSet<&str> = down.sent.iter().map(|sent| &*sent.device).collect();
    let sent: BTreeMap<u64, &SentMessage> = down.sent.iter().map(|sent| (sent.number, sent)).collect();
    for received in &down.received {
        let ReceivedMessage { device, number, at, .. } = received;
        match sent.get(number) {
            Some(sent) if sent.device != *device => {
                findings.violation(Some(*at), || {
                    format!("{device} received {number}, sent to {}", sent.device)
                });
            }
            Some(sent) if sent.outcome == SendOutcome::Refused => {
                findings.violation(Some(*at), || format!("{device} received {number}, which was refused"));
            }
            Some(_) => {}
            None => findings.violation(Some(*at), || {
                format!("{device} received {number}, which was never sent")
            }),
        }
    }
    for device in devices {
        let of_device = |name: &str| name == device;
        let sent: Vec<&SentMessage> = down.sent.iter().filter(|one| of_device(&one.device)).collect();
        let received: Vec<&ReceivedMessage> = down.received.iter().filter(|one| of_device(&one.device)).collect();
        let listed: Vec<&ListedQueue> = down.listed.iter().filter(|one| of_device(&one.device)).collect();
        findings.checked += sent.len() as u64;
        places(device, &sent, &mut findings);
        kept(device, &sent, &received, &listed, &mut findings);
        in_order(device, &sent, &received, &mut findings);
        over(device, &sent, &received, &listed, &mut findings);
    }
    findings
}

fn acknowledged<'a>(sent: &[&'a SentMessage]) -> impl Iterator<Item = (&'a SentMessage, Micros, u64)> {
    let sent: Vec<&SentMessage> = sent.to_vec();
    sent.into_iter().filter_map(|one| match one.outcome {
        SendOutcome::Queued { answered, sequence } => Some((one, answered, sequence)),
        SendOutcome::Refused | SendOutcome::Unknown => None,
    })
}

/// Places in the queue grow with every message and are never used again.
fn places(device: &str, sent: &[&SentMessage], findings: &mut Findings) {
    let mut last: Option<(u64, u64)> = None;
    for (one, answered, sequence) in acknowledged(sent) {
        if let Some((before, place)) = last.filter(|(_, place)| *place >= sequence) {
            let number = one.number;
            findings.violation(Some(answered), || {
                format!("{device}: message {number} has place {sequence}, after {before} with {place}")
            });
        }
        last = Some((one.number, sequence));
    }
}

/// An acknowledged message is received, or still there at the end; a message is in the queue once.
fn kept(
    device: &str,
    sent: &[&SentMessage],
    received: &[&ReceivedMessage],
    listed: &[&ListedQueue],
    findings: &mut Findings,
) {
    for list in listed {
        let mut seen = BTreeSet::new();
        for number in list.queued.iter().chain(&list.dead) {
            if !seen.insert(number) {
                findings.violation(Some(list.answered), || {
                    format!("{device}: message {number} is there twice")
                });
            }
        }
    }
    let have: BTreeSet<u64> = received.iter().map(|one| one.number).collect();
    for (one, answered, _) in acknowledged(sent) {
        if have.contains(&one.number) {
            continue;
        }
        let number = one.number;
        match listed.last().filter(|list| list.asked > answered) {
            None => findings.violation(Some(answered), || {
                format!("{device}: message {number} was not received, and the queue could not be listed afterwards")
            }),
            Some(list) if list.queued.contains(&number) || list.dead.contains(&number) => {}
            Some(_) => findings.violation(Some(answered), || format!("{device}: message {number} is lost")),
        }
    }
}

/// The first time that the device has a message is in the order in which they were queued. A message whose answer is
/// unknown may be queued later, so its own place is open.
fn in_order(device: &str, sent: &[&SentMessage], received: &[&ReceivedMessage], findings: &mut Findings) {
    let places: BTreeMap<u64, usize> = sent
        .iter()
        .enumerate()
        .map(|(place, one)| (one.number, place))
        .collect();
    let mut seen = BTreeSet::new();
    let mut latest: Option<(usize, u64)> = None;
    for one in received {
        let Some(place) = places.get(&one.number).copied() else {
            continue;
        };
        if !seen.insert(one.number) {
            continue;
        }
        let is_certain = matches!(sent[place].outcome, SendOutcome::Queued { .. });
        if let Some((_, before)) = latest.filter(|(last, _)| is_certain && *last > place) {
            findings.violation(Some(one.at), || {
                format!("{device}: message {} was first received after {before}", one.number)
            });
        }
        latest = latest.max(Some((place, one.number)));
    }
}

/// A message that a list does not show any more, although it was queued, is over: no later connection receives it.
fn over(
    device: &str,
    sent: &[&SentMessage],
    received: &[&ReceivedMessage],
    listed: &[&ListedQueue],
    findings: &mut Findings,
) {
    let queued: BTreeMap<u64, Micros> = acknowledged(sent)
        .map(|(one, answered, _)| (one.number, answered))
        .collect();
    for one in received {
        let Some(since) = queued.get(&one.number) else { continue };
        // A connection that began before the answer may have the message in its buffers.
        let gone = listed
            .iter()
            .find(|list| list.asked > *since && list.answered < one.connecting && !list.queued.contains(&one.number));
        if let Some(list) = gone {
            findings.violation(Some(one.at), || {
                format!(
                    "{device}: message {} was received over a connection begun at {}, and was over at {}",
                    one.number, one.connecting, list.answered
                )
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(number: u64, outcome: SendOutcome) -> SentMessage {
        SentMessage {
            device: "d".into(),
            number,
            asked: number * 10,
            outcome,
        }
    }

    fn queued(number: u64, sequence: u64) -> SentMessage {
        let answered = number * 10 + 5;
        sent(number, SendOutcome::Queued { answered, sequence })
    }

    fn received(number: u64, connecting: Micros, at: Micros) -> ReceivedMessage {
        ReceivedMessage {
            device: "d".into(),
            number,
            connecting,
            at,
        }
    }

    fn listed(asked: Micros, queued: &[u64], dead: &[u64]) -> ListedQueue {
        ListedQueue {
            device: "d".into(),
            asked,
            answered: asked + 5,
            queued: queued.to_vec(),
            dead: dead.to_vec(),
        }
    }

    /// Four messages: the second's answer is unknown, the third was refused.
    fn history(received: Vec<ReceivedMessage>, listed: Vec<ListedQueue>) -> WayDown {
        WayDown {
            sent: vec![
                queued(1, 1),
                sent(2, SendOutcome::Unknown),
                sent(3, SendOutcome::Refused),
                queued(4, 2),
                queued(5, 4),
            ],
            received,
            listed,
            ..WayDown::default()
        }
    }

    #[test]
    fn what_is_kept_is_clean() {
        let again = vec![
            received(1, 0, 20),
            received(4, 0, 60),
            received(1, 70, 71),
            received(2, 70, 72),
        ];
        let findings = check(&history(again, vec![listed(50, &[1], &[]), listed(100, &[], &[5])]));
        assert_eq!((findings.checked, findings.violations), (5, 0), "{findings:?}");
        let waits = history(vec![received(1, 0, 20)], vec![listed(100, &[4, 5], &[])]);
        assert!(check(&waits).is_clean());
    }

    #[test]
    fn every_broken_promise_is_found() {
        let all = [1, 4, 5].map(|number| received(number, 0, 60 + number));
        let with = |more: ReceivedMessage| [&all[..], &[more]].concat();
        let end = || vec![listed(100, &[], &[])];
        for (received, listed, expected) in [
            (vec![all[0].clone(), all[1].clone()], end(), "message 5 is lost"),
            (
                vec![all[0].clone(), all[1].clone()],
                vec![listed(50, &[], &[])],
                "could not be listed",
            ),
            (all.to_vec(), vec![listed(100, &[1, 1], &[])], "is there twice"),
            (
                vec![all[0].clone(), all[2].clone(), all[1].clone()],
                end(),
                "4 was first received after 5",
            ),
            (with(received(1, 110, 120)), end(), "1 was received over a connection"),
            (with(received(3, 0, 70)), end(), "3, which was refused"),
            (with(received(9, 0, 70)), end(), "9, which was never sent"),
            (
                with(ReceivedMessage {
                    device: "e".into(),
                    ..received(1, 0, 70)
                }),
                end(),
                "e received 1, sent to d",
            ),
        ] {
            let findings = check(&history(received, listed));
            assert_eq!(findings.violations, 1, "{expected}: {findings:?}");
            assert!(findings.examples[0].text.contains(expected), "{expected}: {findings:?}");
        }
        let twice = WayDown {
            sent: vec![queued(1, 1), queued(2, 1)],
            received: vec![received(1, 0, 20), received(2, 0, 30)],
            ..WayDown::default()
        };
        assert_eq!(check(&twice).violations, 1);
    }
}
