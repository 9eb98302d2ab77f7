//! Apply against a simple model, replay, restart from stored parts, and the index when it overflows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, DeviceId, GenerationId, IdentityId, Incarnation, SequenceNumber, TelemetryMessage,
    UnixMillis,
};
use proptest::prelude::*;

use super::*;
use crate::log::record::{BatchHeader, BatchWriter, Effect, Leadership, Origin, StreamId};
use holdfast_model::{NodeId, Term};

const SPACING: Spacing = Spacing { bytes: 600, entries: 5 };

/// All entries of the tests are appended in one leadership.
fn at(index: u64) -> LogPosition {
    LogPosition {
        term: Term(OWNER.term.0),
        node: NodeId(OWNER.node.0),
        index,
    }
}

const OWNER: Leadership = Leadership {
    term: Term(3),
    node: NodeId(1),
};

fn stream(gateway_node: NodeId, incarnation: Incarnation, core: u32) -> StreamId {
    StreamId {
        gateway_node,
        incarnation,
        core,
    }
}

fn entry(stream: StreamId, batch_number: u64, records: u32, proposed: u64) -> Bytes {
    let identity = IdentityId::device(DeviceId::parse("d").unwrap());
    let generation = GenerationId("1".into());
    let auth = AuthMethod {
        scope: AuthScope::Device,
        kind: AuthType::Sas,
    };
    let origin = Origin {
        identity: &identity,
        generation: &generation,
        auth,
        model_id: None,
    };
    let mut writer = BatchWriter::new();
    for _ in 0..records {
        writer
            .push(&origin, &TelemetryMessage::default(), UnixMillis(proposed))
            .unwrap();
    }
    writer.close(BatchHeader {
        stream,
        batch_number,
        enqueued: UnixMillis(proposed),
    })
}

fn presence(owner: Leadership, gateway: NodeId, absent: bool, proposed: u64) -> Bytes {
    let effect = if absent {
        Effect::GatewayAbsent { gateway }
    } else {
        Effect::GatewayPresent { gateway }
    };
    let mut writer = BatchWriter::new();
    writer.push_effect(owner, &effect).unwrap();
    writer.close(BatchHeader::of_owner(UnixMillis(proposed)))
}

/// Events of a partition in a test.
#[derive(Debug, Clone)]
enum Event {
    /// The next batch of a stream, or one that is `ahead` of it (a gap), or one that was counted before (a repeat).
    Batch {
        gateway: NodeId,
        core: u32,
        ahead: i64,
        records: u32,
        time: u64,
    },
    /// The gateway restarts.
    Restart {
        gateway: NodeId,
    },
    Garbage {
        bytes: Vec<u8>,
    },
    /// The owner records the presence of a gateway, in the leadership that appends the entry or in another one.
    Presence {
        gateway: NodeId,
        absent: bool,
        term: Term,
        time: u64,
    },
    /// A blank or membership entry: the state sees none of it.
    Meta,
}

fn event() -> impl Strategy<Value = Event> {
    let ahead = prop_oneof![8 => Just(0_i64), 1 => 1..3_i64, 1 => -3..0_i64];
    let batch = (0..2_u64, 0..2_u32, ahead, 0..5_u32, 0..1000_u64).prop_map(|(gateway, core, ahead, records, time)| {
        Event::Batch {
            gateway: NodeId(gateway),
            core,
            ahead,
            records,
            time,
        }
    });
    prop_oneof![
        20 => batch,
        1 => (0..2_u64).prop_map(|gateway| Event::Restart { gateway: NodeId(gateway) }),
        // The first field's tag with nothing behind it, so that it is no entry of another version.
        1 => proptest::collection::vec(0x80_u8..=0xff, 1..9).prop_map(|bytes| Event::Garbage { bytes }),
        1 => Just(Event::Meta),
        2 => (0..4_u64, any::<bool>(), 2..4_u64, 0..1000_u64)
            .prop_map(|(gateway, absent, term, time)| Event::Presence { gateway: NodeId(gateway), absent, term: Term(term), time }),
    ]
}

/// The obvious implementation: remember everything.
#[derive(Debug, Default)]
struct Model {
    incarnations: BTreeMap<NodeId, u64>,
    counted: BTreeMap<StreamId, u64>,
    /// Log index, first number, records, time, bytes of each counted entry.
    entries: Vec<(u64, u64, u32, u64, u64)>,
    skipped: BTreeSet<u64>,
    absent: BTreeSet<NodeId>,
    next: u64,
    last_time: u64,
}

impl Model {
    fn apply(&mut self, log_index: u64, event: &Event) -> Option<(Bytes, Option<u64>)> {
        match event {
            Event::Meta => None,
            Event::Restart { gateway } => {
                *self.incarnations.entry(*gateway).or_default() += 1;
                None
            }
            Event::Garbage { bytes } => {
                self.skipped.insert(log_index);
                Some((Bytes::from(bytes.clone()), None))
            }
            Event::Presence {
                gateway,
                absent,
                term,
                time,
            } => {
                let computed = Leadership { term: *term, ..OWNER };
                let bytes = presence(computed, *gateway, *absent, *time);
                if computed != OWNER {
                    self.skipped.insert(log_index);
                    return Some((bytes, None));
                }
                if *absent {
                    self.absent.insert(*gateway);
                } else {
                    self.absent.remove(gateway);
                }
                self.last_time = self.last_time.max(*time);
                self.entries
                    .push((log_index, self.next, 0, self.last_time, bytes.len() as u64));
                Some((bytes, Some(self.next)))
            }
            Event::Batch {
                gateway,
                core,
                ahead,
                records,
                time,
            } => {
                let stream = stream(
                    *gateway,
                    Incarnation(self.incarnations.get(gateway).copied().unwrap_or_default()),
                    *core,
                );
                let last = self.counted.get(&stream).copied().unwrap_or_default();
                let number = (last + 1).saturating_add_signed(*ahead);
                let bytes = entry(stream, number, *records, *time);
                if number != last + 1 {
                    self.skipped.insert(log_index);
                    return Some((bytes, None));
                }
                self.counted.insert(stream, number);
                self.last_time = self.last_time.max(*time);
                let first = self.next;
                self.entries
                    .push((log_index, first, *records, self.last_time, bytes.len() as u64));
                self.next += u64::from(*records);
                Some((bytes, Some(first)))
            }
        }
    }
}

/// Applies the events; returns the log, the state and the model.
fn run(events: &[Event]) -> (Vec<(u64, Bytes)>, State, Model) {
    let (mut state, mut model, mut log) = (State::new(SPACING), Model::default(), Vec::new());
    for (position, event) in events.iter().enumerate() {
        let log_index = position as u64 + 1;
        let Some((bytes, expected)) = model.apply(log_index, event) else {
            continue;
        };
        let applied = state.apply(&at(log_index), &bytes).unwrap();
        match (applied, expected) {
            (
                Applied::Counted {
                    first,
                    records,
                    enqueued,
                    ..
                },
                Some(number),
            ) => {
                assert_eq!(first, SequenceNumber(number));
                assert_eq!(first.0 + u64::from(records), model.next);
                assert_eq!(enqueued, UnixMillis(model.last_time));
            }
            (Applied::Skipped(_), None) => {}
            other => panic!("entry {log_index} became {other:?}"),
        }
        log.push((log_index, bytes));
    }
    (log, state, model)
}

/// Stores as the machine does and loads again.
fn reload(state: &mut State, last_index: u64) -> State {
    let head = Head {
        term: Term(3),
        node: NodeId(1),
        index: last_index,
        membership: Bytes::from_static(b"m"),
        device_state_epoch: 4,
    };
    let bytes = state.encode_head(&head);
    let changes = state.take_changes(0);
    let points: VecDeque<_> = changes
        .points
        .iter()
        .map(|point| IndexPoint::decode(&point.encode()).unwrap())
        .collect();
    let (loaded_head, loaded) = State::restore(&bytes, points, changes.skipped.into_iter().collect(), SPACING).unwrap();
    assert_eq!(loaded_head, head);
    loaded
}

proptest! {
    #[test]
    fn apply_does_what_the_model_does(events in proptest::collection::vec(event(), 0..120)) {
        let (_, state, model) = run(&events);
        prop_assert_eq!(state.next(), SequenceNumber(model.next));
        prop_assert_eq!(state.last_enqueued(), UnixMillis(model.last_time));
        prop_assert_eq!(&state.skipped, &model.skipped);
        let absent: BTreeSet<NodeId> = state.absent_gateways().iter().map(u64::from).map(NodeId).collect();
        prop_assert_eq!(&absent, &model.absent);
        prop_assert_eq!(state.retained_bytes(), model.entries.iter().map(|entry| entry.4).sum::<u64>());
        for (stream, last) in &model.counted {
            if model.incarnations.get(&stream.gateway_node).copied().unwrap_or_default() == stream.incarnation.get() {
                prop_assert_eq!(state.streams().last_batch(stream), *last);
            }
        }
    }

    #[test]
    fn points_of_the_index_are_entries_before_the_requested_position(
        events in proptest::collection::vec(event(), 1..200),
        sequence in 0..400_u64,
        time in 0..1000_u64,
    ) {
        let (_, state, model) = run(&events);
        for point in &state.index.points {
            let found = model.entries.iter().find(|entry| entry.0 == point.log_index).unwrap();
            prop_assert_eq!((point.sequence.0, point.enqueued.0), (found.1, found.3));
            prop_assert_eq!(state.point_at(point.log_index), Some(*point));
        }
        let point = state.floor_sequence(SequenceNumber(sequence));
        let wanted = model.entries.iter().find(|entry| entry.1 + u64::from(entry.2) > sequence);
        prop_assert!(wanted.is_none_or(|entry| point.log_index <= entry.0));
        let point = state.floor_time(UnixMillis(time));
        let wanted = model.entries.iter().find(|entry| entry.3 > time);
        prop_assert!(wanted.is_none_or(|entry| point.log_index <= entry.0));
    }

    #[test]
    fn replay_gives_the_same_state(events in proptest::collection::vec(event(), 0..120)) {
        let (log, state, _) = run(&events);
        let mut again = State::new(SPACING);
        for (log_index, bytes) in &log {
            again.apply(&at(*log_index), bytes).unwrap();
        }
        prop_assert_eq!(again, state);
    }

    #[test]
    fn a_stored_state_plus_the_rest_of_the_log_is_the_whole(
        events in proptest::collection::vec(event(), 1..120),
        cut in any::<prop::sample::Index>(),
    ) {
        let (log, state, _) = run(&events);
        let cut = cut.index(log.len() + 1);
        let mut again = State::new(SPACING);
        for (log_index, bytes) in &log[..cut] {
            again.apply(&at(*log_index), bytes).unwrap();
        }
        let last = log[..cut].last().map_or(0, |entry| entry.0);
        let mut again = reload(&mut again, last);
        for (log_index, bytes) in &log[cut..] {
            again.apply(&at(*log_index), bytes).unwrap();
        }
        prop_assert_eq!(again, state);
    }

    #[test]
    fn retention_keeps_what_is_young_and_small_enough(
        events in proptest::collection::vec(event(), 1..200),
        oldest in 0..1000_u64,
        max_bytes in 0..20_000_u64,
    ) {
        let (_, mut state, model) = run(&events);
        let before = state.clone();
        if let Some(point) = state.retention_point(UnixMillis(oldest), max_bytes) {
            let gone: Vec<_> = model.entries.iter().filter(|entry| entry.0 < point.log_index).collect();
            let kept: u64 = model.entries.iter().filter(|entry| entry.0 >= point.log_index).map(|entry| entry.4).sum();
            let total: u64 = model.entries.iter().map(|entry| entry.4).sum();
            let removed_for_size = total > max_bytes;
            prop_assert!(removed_for_size || gone.iter().all(|entry| entry.3 < oldest));
            state.trim(point);
            prop_assert_eq!(state.begin().sequence, point.sequence);
            prop_assert_eq!(state.retained_bytes(), kept);
            prop_assert!(state.skipped.iter().all(|skipped| *skipped >= point.log_index));
            prop_assert!(kept <= max_bytes || state.index.len() == 1);
            let last = before.index.points.back().unwrap().log_index + 1000;
            prop_assert_eq!(&reload(&mut state, last), &state);
        } else if !state.index.is_empty() {
            prop_assert!(state.index.points[0].log_index >= state.begin().log_index);
        }
        prop_assert_eq!(state.next(), before.next());
    }

    #[test]
    fn no_stored_bytes_make_restoring_panic(head in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = State::restore(&head, VecDeque::new(), BTreeSet::new(), SPACING);
    }
}

#[test]
fn each_reason_for_skipping_an_entry_is_reported() {
    let mut state = State::new(SPACING);
    let counted = |first, enqueued| Applied::Counted {
        first: SequenceNumber(first),
        records: 2,
        enqueued: UnixMillis(enqueued),
        device_states: 0,
    };
    let mut apply = |log_index, bytes: Bytes| state.apply(&at(log_index), &bytes).unwrap();
    assert_eq!(
        apply(1, entry(stream(NodeId(1), Incarnation(5), 0), 1, 2, 100)),
        counted(0, 100)
    );
    assert_eq!(
        apply(2, entry(stream(NodeId(1), Incarnation(5), 0), 1, 2, 100)),
        Applied::Skipped(SkipReason::Repeat)
    );
    assert_eq!(
        apply(3, entry(stream(NodeId(1), Incarnation(5), 0), 3, 2, 100)),
        Applied::Skipped(SkipReason::Gap { expected: 2 })
    );
    assert_eq!(
        apply(4, entry(stream(NodeId(1), Incarnation(5), 0), 2, 2, 50)),
        counted(2, 100)
    );
    assert_eq!(
        apply(5, entry(stream(NodeId(1), Incarnation(6), 0), 2, 2, 50)),
        Applied::Skipped(SkipReason::Gap { expected: 1 })
    );
    assert_eq!(
        apply(6, entry(stream(NodeId(1), Incarnation(6), 0), 1, 2, 150)),
        counted(4, 150)
    );
    assert_eq!(
        apply(7, entry(stream(NodeId(1), Incarnation(5), 0), 3, 2, 150)),
        Applied::Skipped(SkipReason::Stale { current: 6 })
    );
    assert_eq!(
        apply(8, Bytes::from_static(&[0xff; 4])),
        Applied::Skipped(SkipReason::Damaged)
    );
    assert_eq!(state.streams().len(), 1, "an older incarnation is replaced");
    assert_eq!(state.streams().newest_incarnation(NodeId(1)), Some(Incarnation(6)));
    assert_eq!(state.streams().newest_incarnation(NodeId(2)), None);
}

#[test]
fn an_entry_of_a_later_version_stops_and_changes_nothing() {
    let mut state = State::new(SPACING);
    let mut bytes = entry(stream(NodeId(1), Incarnation(1), 0), 1, 1, 1).to_vec();
    bytes[1] = 3;
    assert_eq!(
        state.apply(&at(7), &bytes),
        Err(UnknownVersion {
            log_index: 7,
            version: 3
        })
    );
    assert_eq!(state, State::new(SPACING));
}

#[test]
fn the_stream_that_was_silent_longest_is_forgotten_first() {
    let mut streams = Streams::default();
    for node in 0..=MAX_STREAMS as u64 {
        streams.advance(&stream(NodeId(node), Incarnation(1), 0), 1, node + 1);
    }
    assert_eq!(streams.len(), MAX_STREAMS);
    assert_eq!(
        streams.check(&stream(NodeId(0), Incarnation(1), 0), 2),
        Admission::Gap { expected: 1 }
    );
    assert_eq!(streams.check(&stream(NodeId(1), Incarnation(1), 0), 2), Admission::Next);
}

#[test]
fn an_index_that_overflows_is_thinned_and_still_finds_every_entry() {
    let spacing = Spacing {
        bytes: 100,
        entries: 1000,
    };
    let mut index = Index::with_capacity(spacing, 64);
    for log_index in 1..=10_000_u64 {
        index.offer(IndexPoint {
            log_index,
            sequence: SequenceNumber(log_index * 3),
            enqueued: UnixMillis(log_index / 7),
            log_bytes: log_index * 50,
        });
        assert!(index.len() <= 64);
    }
    assert!(index.doublings >= 6 && index.len() >= 32, "{} points", index.len());
    assert_eq!(index.points[0].log_index, 1, "the oldest point stays");
    let kept: BTreeSet<u64> = index.points.iter().map(|point| point.log_index).collect();
    assert!(index.dropped.iter().all(|dropped| !kept.contains(dropped)));
    index.trim(9_000);
    let doublings = index.doublings;
    index.trim(9_001);
    assert!(index.doublings < doublings, "a short log is indexed finely again");
}

#[test]
fn effects_of_another_leadership_are_skipped_and_leave_their_stream_where_it_was() {
    let mut state = State::new(SPACING);
    let computed = Leadership {
        node: NodeId(2),
        ..OWNER
    };
    let mut writer = BatchWriter::new();
    let gateway = NodeId(9);
    writer
        .push_effect(computed, &Effect::GatewayAbsent { gateway })
        .unwrap();
    let header = BatchHeader {
        stream: stream(NodeId(1), Incarnation(1), 0),
        batch_number: 1,
        enqueued: UnixMillis(5),
    };
    let bytes = writer.close(header);
    let skipped = Applied::Skipped(SkipReason::OtherLeadership { computed });
    assert_eq!(
        state.apply(&at(1), &bytes),
        Ok(skipped),
        "another node in the same term"
    );
    assert_eq!(state.streams().last_batch(&stream(NodeId(1), Incarnation(1), 0)), 0);
    assert_eq!(state.absent_gateways().iter().count(), 0);
    writer.push_effect(OWNER, &Effect::GatewayAbsent { gateway }).unwrap();
    let bytes = writer.close(header);
    assert!(matches!(state.apply(&at(2), &bytes), Ok(Applied::Counted { .. })));
    assert_eq!(state.absent_gateways().presence(gateway), GatewayPresence::Absent);
    let repeat = Ok(Applied::Skipped(SkipReason::Repeat));
    assert_eq!(state.apply(&at(3), &bytes), repeat, "a stream counts its effects once");
}

#[test]
fn effects_raise_the_version_of_the_stored_state_and_override_records_of_version_1() {
    let mut state = State::new(SPACING);
    // A record of version 1: gateway 9 is absent.
    let first = entry(stream(NodeId(9 | 1 << 63), Incarnation(1), 0), 1, 0, 1);
    state.apply(&at(1), &first).unwrap();
    let gateway = NodeId(9);
    assert_eq!(
        reload(&mut state, 1).absent_gateways().presence(gateway),
        GatewayPresence::Absent
    );
    assert_eq!(state.encode_head(&Head::default())[..2], [8, 1]);
    state.apply(&at(2), &presence(OWNER, NodeId(9), false, 1)).unwrap();
    assert_eq!(state.encode_head(&Head::default())[..2], [8, 2]);
    let loaded = reload(&mut state, 2);
    assert_eq!(loaded.absent_gateways().presence(gateway), GatewayPresence::Present);
    assert_eq!(loaded, state);
}
