//! The queue against a model that keeps every message with its whole history.

use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules {
    ttl_ms: 3_600_000,
    max_deliveries: 3,
};

fn message(id: &str, feedback: Option<FeedbackRequest>, expiry: Option<u64>) -> NewMessage {
    NewMessage {
        bytes: 10,
        expiry: expiry.map(UnixMillis),
        feedback,
        message_id: id.into(),
    }
}

fn sequences(queue: &Queue) -> Vec<u64> {
    queue.queued.iter().map(|message| message.sequence).collect()
}

fn statuses(consequences: &Consequences) -> Vec<(&str, &str)> {
    let records = consequences.feedback.iter();
    records
        .map(|record| (&*record.message_id, record.status.as_str()))
        .collect()
}

#[test]
fn a_full_queue_says_how_deep_it_is_and_how_old() {
    let mut queue = Queue::default();
    for number in 0..MAX_CLOUD_QUEUE as u64 {
        let (sequence, expires) = queue
            .enqueue(message("", None, None), RULES, UnixMillis(100 + number))
            .unwrap();
        assert_eq!((sequence, expires), (number + 1, UnixMillis(3_600_100 + number)));
    }
    let full = Full {
        depth: MAX_CLOUD_QUEUE,
        oldest: UnixMillis(100),
    };
    assert_eq!(queue.enqueue(message("", None, None), RULES, UnixMillis(9)), Err(full));
    let mut consequences = Consequences::default();
    queue.delivery_ended(1, Ended::Completed, RULES, UnixMillis(200), &mut consequences);
    let sequence = queue
        .enqueue(message("", None, None), RULES, UnixMillis(300))
        .unwrap()
        .0;
    assert_eq!(sequence, 51, "numbers are not used again");
}

#[test]
fn an_expiry_is_the_senders_within_two_days() {
    let mut queue = Queue::default();
    let now = UnixMillis(1000);
    let mut expires = |expiry| queue.enqueue(message("", None, expiry), RULES, now).unwrap().1.0;
    assert_eq!(expires(None), 3_601_000);
    assert_eq!(expires(Some(2000)), 2000);
    assert_eq!(expires(Some(u64::MAX)), 1000 + 2 * 24 * 3_600_000);
}

#[test]
fn each_end_of_a_message_has_its_consequences() {
    let mut queue = Queue::default();
    for id in ["done", "no", "often", "late", "held"] {
        let expiry = matches!(id, "late" | "held").then_some(500);
        queue
            .enqueue(message(id, Some(FeedbackRequest::Full), expiry), RULES, UnixMillis(0))
            .unwrap();
    }
    let mut consequences = Consequences::default();
    let now = UnixMillis(10);
    queue.delivery_ended(1, Ended::Completed, RULES, now, &mut consequences);
    queue.delivery_ended(1, Ended::Rejected, RULES, now, &mut consequences);
    queue.delivery_ended(2, Ended::Rejected, RULES, now, &mut consequences);
    queue.delivery_ended(3, Ended::NotDelivered, RULES, now, &mut consequences);
    for _ in 0..3 {
        assert_eq!(sequences(&queue), [3, 4, 5], "it stays in its place");
        queue.delivery_ended(3, Ended::Abandoned, RULES, now, &mut consequences);
    }
    assert_eq!(queue.next_expiry(|_| false), Some(UnixMillis(500)));
    queue.expire(UnixMillis(499), |_| false, &mut consequences);
    queue.expire(UnixMillis(500), |sequence| sequence == 5, &mut consequences);
    assert_eq!(sequences(&queue), [5], "the device has it");
    assert_eq!(queue.next_expiry(|sequence| sequence == 5), None);
    assert_eq!(
        statuses(&consequences),
        [
            ("done", "Success"),
            ("no", "Rejected"),
            ("often", "DeliveryCountExceeded"),
            ("late", "Expired")
        ]
    );
    let numbers: Vec<u64> = consequences.feedback.iter().map(|record| record.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    assert_eq!(consequences.removed, [1], "dead letters keep their bodies");
    let mut consequences = Consequences::default();
    assert_eq!(queue.purge(now, &mut consequences), 1);
    assert_eq!(statuses(&consequences), [("held", "Purged")]);
    assert_eq!(consequences.removed, [5]);
    assert_eq!(queue.dead_letters.len(), 3, "a purge leaves them");
}

#[test]
fn dead_letters_go_back_as_new_messages() {
    let mut queue = Queue::default();
    for _ in 0..3 {
        queue
            .enqueue(message("", None, Some(50)), RULES, UnixMillis(0))
            .unwrap();
    }
    let mut consequences = Consequences::default();
    queue.delivery_ended(2, Ended::Rejected, RULES, UnixMillis(1), &mut consequences);
    queue.delivery_ended(3, Ended::Abandoned, RULES, UnixMillis(1), &mut consequences);
    queue.expire(UnixMillis(60), |_| false, &mut consequences);
    assert_eq!(consequences, Consequences::default());
    assert_eq!(queue.requeue(Some(&[3, 77]), RULES, UnixMillis(70)), Ok(1));
    assert_eq!(queue.queued[0].deliveries, 0);
    assert_eq!(queue.queued[0].expires, UnixMillis(3_600_070));
    assert_eq!(queue.requeue(None, RULES, UnixMillis(70)), Ok(2));
    assert_eq!(sequences(&queue), [3, 2, 1], "in the order of their deaths");
    assert!(queue.dead_letters.is_empty());
    queue.delivery_ended(1, Ended::Rejected, RULES, UnixMillis(71), &mut consequences);
    while queue.enqueue(message("", None, None), RULES, UnixMillis(80)).is_ok() {}
    let before = queue.clone();
    assert!(queue.requeue(None, RULES, UnixMillis(90)).is_err());
    assert_eq!(queue, before);
}

#[test]
fn stored_bytes_never_change() {
    let mut queue = Queue::default();
    queue
        .enqueue(
            message("m", Some(FeedbackRequest::Positive), Some(3)),
            RULES,
            UnixMillis(2),
        )
        .unwrap();
    queue
        .enqueue(message("unused", None, Some(3)), RULES, UnixMillis(2))
        .unwrap();
    let mut consequences = Consequences::default();
    queue.delivery_ended(1, Ended::Rejected, RULES, UnixMillis(2), &mut consequences);
    let number = |tag: u8, low: u8| [tag, low, 0, 0, 0, 0, 0, 0, 0];
    let mut expected = vec![0x08, 1];
    expected.extend(number(0x11, 3));
    expected.extend(number(0x19, 1));
    expected.extend([0x22, 29]);
    expected.extend(number(0x09, 2));
    expected.extend([0x10, 10]);
    expected.extend(number(0x19, 2));
    expected.extend(number(0x21, 3));
    expected.extend([0x2a, 47, 0x0a, 34]);
    expected.extend(number(0x09, 1));
    expected.extend([0x10, 10]);
    expected.extend(number(0x19, 2));
    expected.extend(number(0x21, 3));
    expected.extend([0x30, 2, 0x3a, 1, b'm', 0x10, 2]);
    expected.extend(number(0x19, 2));
    assert_eq!(queue.encode(), expected);
    assert_eq!(Queue::decode(Some(&expected)), Ok(queue));
    assert_eq!(Queue::decode(None), Ok(Queue::default()));
    for bytes in [&[0x08, 2][..], &[0xff], &[0x08, 1, 0x2a, 0]] {
        assert_eq!(Queue::decode(Some(bytes)), Err(Unreadable), "{bytes:?}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Enqueue { feedback: u32, ttl: Option<u64> },
    End { which: usize, ended: Ended },
    Lock(usize),
    Wait(u64),
    Purge,
    Requeue(Option<usize>),
}

fn step() -> impl Strategy<Value = Step> {
    let ended = prop_oneof![
        Just(Ended::Completed),
        Just(Ended::Rejected),
        Just(Ended::Abandoned),
        Just(Ended::NotDelivered)
    ];
    prop_oneof![
        8 => (0..5u32, prop::option::of(1..5000u64)).prop_map(|(feedback, ttl)| Step::Enqueue { feedback, ttl }),
        6 => (0..60usize, ended).prop_map(|(which, ended)| Step::End { which, ended }),
        3 => (0..60usize).prop_map(Step::Lock),
        3 => (0..3000u64).prop_map(Step::Wait),
        1 => Just(Step::Purge),
        1 => prop::option::of(0..60usize).prop_map(Step::Requeue),
    ]
}

/// One message, as the model knows it.
#[derive(Debug, Clone)]
struct Known {
    sequence: u64,
    feedback: Option<FeedbackRequest>,
    expires: u64,
    deliveries: u32,
}

#[derive(Default)]
struct Model {
    queued: Vec<Known>,
    dead: Vec<Known>,
    bodies: std::collections::BTreeSet<u64>,
    heard: Vec<(u64, FeedbackStatus)>,
    locked: std::collections::BTreeSet<u64>,
}

impl Model {
    fn ends(&mut self, known: &Known, status: FeedbackStatus) {
        if known.feedback.is_some_and(|request| request.wants(status)) {
            self.heard.push((known.sequence, status));
        }
    }

    fn dies(&mut self, index: usize, status: FeedbackStatus) {
        let known = self.queued.remove(index);
        self.ends(&known, status);
        self.dead.push(known);
        if self.dead.len() > MAX_DEAD_LETTERS {
            let forgotten = self.dead.remove(0);
            self.bodies.remove(&forgotten.sequence);
        }
    }
}

proptest! {
    #[test]
    fn the_queue_does_what_the_model_does(steps in prop::collection::vec(step(), 1..300)) {
        let (mut queue, mut model) = (Queue::default(), Model::default());
        let (mut now, mut sent) = (0, 0);
        let mut bodies = std::collections::BTreeSet::new();
        let mut heard = Vec::new();
        for step in steps {
            let mut consequences = Consequences::default();
            // Every change at the owner begins with this.
            let locked = model.locked.clone();
            queue.expire(UnixMillis(now), |sequence| locked.contains(&sequence), &mut consequences);
            while let Some(index) = model
                .queued
                .iter()
                .position(|known| known.expires <= now && !model.locked.contains(&known.sequence))
            {
                model.dies(index, FeedbackStatus::Expired);
            }
            match step {
                Step::Enqueue { feedback, ttl } => {
                    let feedback = FeedbackRequest::from_number(feedback);
                    let id = (sent + 1).to_string();
                    let new = message(&id, feedback, ttl.map(|ttl| now + ttl));
                    let result = queue.enqueue(new, RULES, UnixMillis(now));
                    prop_assert_eq!(result.is_ok(), model.queued.len() < MAX_CLOUD_QUEUE);
                    if let Ok((sequence, expires)) = result {
                        sent += 1;
                        prop_assert_eq!(sequence, sent);
                        bodies.insert(sequence);
                        model.bodies.insert(sequence);
                        model.queued.push(Known { sequence, feedback, expires: expires.0, deliveries: 0 });
                    }
                }
                Step::Lock(which) => {
                    if let Some(known) = model.queued.get(which) {
                        model.locked.insert(known.sequence);
                    }
                }
                Step::End { which, ended } => {
                    let sequence = model.queued.get(which).map_or(which as u64, |known| known.sequence);
                    model.locked.remove(&sequence);
                    queue.delivery_ended(sequence, ended, RULES, UnixMillis(now), &mut consequences);
                    if let Some(index) = model.queued.iter().position(|known| known.sequence == sequence) {
                        match ended {
                            Ended::NotDelivered => {}
                            Ended::Completed => {
                                let known = model.queued.remove(index);
                                model.ends(&known, FeedbackStatus::Success);
                                model.bodies.remove(&sequence);
                            }
                            Ended::Rejected => model.dies(index, FeedbackStatus::Rejected),
                            Ended::Abandoned => {
                                model.queued[index].deliveries += 1;
                                if model.queued[index].deliveries == RULES.max_deliveries {
                                    model.dies(index, FeedbackStatus::DeliveryCountExceeded);
                                }
                            }
                        }
                    }
                }
                Step::Wait(ms) => now += ms,
                Step::Purge => {
                    prop_assert_eq!(queue.purge(UnixMillis(now), &mut consequences), model.queued.len());
                    for known in std::mem::take(&mut model.queued) {
                        model.ends(&known, FeedbackStatus::Purged);
                        model.bodies.remove(&known.sequence);
                    }
                }
                Step::Requeue(which) => {
                    let which = which.map(|which| model.dead.get(which).map_or(which as u64, |known| known.sequence));
                    let wanted: Vec<Known> = model
                        .dead
                        .iter()
                        .filter(|known| which.is_none_or(|which| which == known.sequence))
                        .cloned()
                        .collect();
                    let which = which.map(|which| [which]);
                    let result = queue.requeue(which.as_ref().map(|which| &which[..]), RULES, UnixMillis(now));
                    if model.queued.len() + wanted.len() > MAX_CLOUD_QUEUE {
                        prop_assert!(result.is_err());
                    } else {
                        prop_assert_eq!(result, Ok(wanted.len()));
                        for mut known in wanted {
                            model.dead.retain(|dead| dead.sequence != known.sequence);
                            known.deliveries = 0;
                            if known.expires <= now {
                                known.expires = now + RULES.ttl_ms;
                            }
                            model.queued.push(known);
                        }
                    }
                }
            }
            for sequence in &consequences.removed {
                prop_assert!(bodies.remove(sequence), "a body is removed once");
            }
            for record in &consequences.feedback {
                prop_assert_eq!(record.number, heard.len() as u64 + 1);
                heard.push((record.message_id.parse::<u64>().unwrap(), record.status));
            }
            prop_assert_eq!(&bodies, &model.bodies);
            prop_assert_eq!(&heard, &model.heard);
            let ours: Vec<(u64, u64, u32)> =
                queue.queued.iter().map(|one| (one.sequence, one.expires.0, one.deliveries)).collect();
            let theirs: Vec<(u64, u64, u32)> =
                model.queued.iter().map(|one| (one.sequence, one.expires, one.deliveries)).collect();
            prop_assert_eq!(ours, theirs);
            let dead: Vec<u64> = queue.dead_letters.iter().map(|dead| dead.message.sequence).collect();
            prop_assert_eq!(dead, model.dead.iter().map(|dead| dead.sequence).collect::<Vec<_>>());
            queue = Queue::decode(Some(&queue.encode())).unwrap();
        }
    }
}
