//! Readers over a log in memory: start positions, the hand-over from disk to cache, retention, wake-ups, damage.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use bytes::Bytes;
use holdfast_consensus::LogPosition;
use holdfast_model::{
    AuthMethod, AuthScope, AuthType, ByteSize, DeviceId, GenerationId, IdentityId, Incarnation, NodeId, PartitionId,
    TelemetryMessage, Term,
};
use holdfast_tasks::BlockingPool;
use holdfast_tasks::sync::Mutex;
use proptest::prelude::*;

use super::*;
use crate::config::PartitionConfig;
use crate::log::record::{BatchHeader, BatchWriter, Origin, StreamId};
use crate::state::State;
use crate::state::store::Recovered;
use crate::state::value_index::IndexedChanges;

const FIRST_INDEX: u64 = 2;

pub(super) fn at(index: u64) -> LogPosition {
    LogPosition {
        term: Term(1),
        node: NodeId(1),
        index,
    }
}

#[derive(Default)]
struct MemoryLog {
    entries: Mutex<Vec<(u64, Bytes)>>,
    reads: AtomicUsize,
}

impl LogSource for MemoryLog {
    fn end(&self) -> u64 {
        u64::MAX
    }

    fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, StorageError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let mut bytes = 0;
        let entries = self.entries.lock();
        let wanted = entries.iter().filter(|(index, _)| *index >= from);
        Ok(wanted
            .take_while(|(_, entry)| {
                let take = bytes < max_bytes;
                bytes += entry.len();
                take
            })
            .cloned()
            .collect())
    }
}

/// A partition without Raft: an appended entry is committed and applied at once.
struct Rig {
    shared: Arc<Shared>,
    log: Arc<MemoryLog>,
    next_index: u64,
    batch: u64,
}

impl Rig {
    fn new(cache_bytes: u64) -> Self {
        let config = PartitionConfig {
            tail_cache: ByteSize(cache_bytes),
            read_ahead: ByteSize::kib(4),
            index_spacing: ByteSize::kib(1),
            ..PartitionConfig::default()
        };
        let state = State::new(config.spacing());
        let shared = Shared::new(
            PartitionId(0),
            config,
            BlockingPool::Threads,
            None,
            Recovered {
                state,
                position: Some(at(FIRST_INDEX - 1)),
                membership: Bytes::new(),
                device_state_epoch: 0,
                value_indexes: None,
            },
        );
        Self {
            shared,
            log: Arc::default(),
            next_index: FIRST_INDEX,
            batch: 0,
        }
    }

    /// Appends a batch whose records carry their own expected number as payload.
    fn append(&mut self, records: u64, time: u64) {
        self.batch += 1;
        let first = self.shared.lock().state.next().0;
        let bytes = batch(self.batch, first..first + records, time);
        self.append_raw(bytes);
    }

    /// A batch that was sent before: apply skips it.
    fn append_repeat(&mut self) {
        let bytes = batch(self.batch, 0..3, 0);
        self.append_raw(bytes);
    }

    fn append_raw(&mut self, bytes: Bytes) {
        self.log.entries.lock().push((self.next_index, bytes.clone()));
        self.shared
            .lock()
            .apply(at(self.next_index), &bytes, &IndexedChanges::default())
            .unwrap();
        self.next_index += 1;
        self.shared.lock().cache.evict();
        self.shared.wake_readers(&mut Vec::new());
    }

    /// An entry of consensus itself: it has an index, and readers never see it.
    fn append_meta(&mut self) {
        self.shared.lock().apply_meta(at(self.next_index), None);
        self.next_index += 1;
    }

    fn start(&self, from: StartPosition) -> Result<Reader, StartError> {
        Reader::start(self.shared.clone(), self.log.clone(), from)
    }

    fn trim_to(&self, sequence: u64) {
        let point = self.shared.lock().state.floor_sequence(SequenceNumber(sequence));
        self.shared.trim(point);
        self.log.entries.lock().retain(|(index, _)| *index >= point.log_index);
    }
}

pub(super) fn batch(number: u64, payloads: std::ops::Range<u64>, time: u64) -> Bytes {
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
    for payload in payloads {
        let payload = payload.to_be_bytes();
        let message = TelemetryMessage {
            payload: &payload,
            ..TelemetryMessage::default()
        };
        writer.push(&origin, &message, UnixMillis(time)).unwrap();
    }
    let stream = StreamId {
        gateway_node: NodeId(1),
        incarnation: Incarnation(1),
        core: 0,
    };
    writer.close(BatchHeader {
        stream,
        batch_number: number,
        enqueued: UnixMillis(time),
    })
}

/// The numbers of a chunk; each event must be the one that was written under its number.
pub(super) fn numbers(chunk: &mut Chunk) -> Vec<u64> {
    let peeked = chunk.events().count();
    let mut numbers = Vec::new();
    while let Some(event) = chunk.next_event() {
        let event = event.unwrap();
        assert_eq!(event.record.payload, event.sequence.0.to_be_bytes());
        numbers.push(event.sequence.0);
    }
    assert_eq!(numbers.len(), peeked);
    numbers
}

/// Everything up to the end.
async fn drain(reader: &mut Reader) -> Vec<u64> {
    let mut all = Vec::new();
    loop {
        let end = reader.shared.lock().state.next();
        if reader.position() >= end {
            return all;
        }
        all.extend(numbers(&mut reader.next().await.unwrap()));
    }
}

fn poll(reader: &mut Reader) -> Poll<Result<Chunk, ReadError>> {
    reader.poll_chunk(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn a_cold_reader_crosses_from_disk_to_cache_without_a_gap() {
    let mut rig = Rig::new(2000);
    for batch in 0..200 {
        rig.append(batch % 7, batch);
        if batch % 9 == 0 {
            rig.append_repeat();
        }
        if batch % 11 == 0 {
            rig.append_meta();
        }
    }
    let end = rig.shared.lock().state.next().0;
    let mut reader = rig.start(StartPosition::Oldest).unwrap();
    assert_eq!(drain(&mut reader).await, (0..end).collect::<Vec<_>>());
    assert!(rig.log.reads.load(Ordering::Relaxed) > 3, "the reads are bounded");
    rig.append(3, 300);
    let mut chunk = reader.next().await.unwrap();
    assert_eq!(chunk.enqueued(), UnixMillis(300));
    assert_eq!(numbers(&mut chunk), [end, end + 1, end + 2]);
}

#[tokio::test]
async fn a_reader_at_the_end_never_touches_the_disk() {
    let mut rig = Rig::new(100_000);
    let mut reader = rig.start(StartPosition::Oldest).unwrap();
    for _ in 0..50 {
        rig.append(2, 1);
    }
    assert_eq!(drain(&mut reader).await.len(), 100);
    assert_eq!(rig.log.reads.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn entries_that_are_in_the_log_but_not_applied_are_not_served() {
    let mut rig = Rig::new(0);
    rig.append(2, 1);
    rig.log.entries.lock().push((rig.next_index, batch(2, 2..4, 1)));
    let mut reader = rig.start(StartPosition::Oldest).unwrap();
    assert_eq!(drain(&mut reader).await, [0, 1]);
    assert!(poll(&mut reader).is_pending());
    assert!(reader.loading.is_none(), "it waits for apply, not for the disk");
}

#[tokio::test]
async fn a_reader_waits_while_retention_has_left_no_event() {
    let mut rig = Rig::new(0);
    let mut reader = rig.start(StartPosition::Oldest).unwrap();
    // An entry without records at a point of the index.
    let begin = loop {
        rig.append(20, 1);
        let next = rig.shared.lock().state.next();
        rig.append(0, 1);
        if rig.shared.lock().state.floor_sequence(next).sequence == next {
            break next.0;
        }
    };
    rig.trim_to(begin);
    assert_eq!(rig.shared.lock().state.begin().sequence.0, begin);
    while poll(&mut reader).is_pending() && reader.position().0 < begin {
        tokio::task::yield_now().await;
    }
    assert!(poll(&mut reader).is_pending());
    rig.append(3, 1);
    assert_eq!(drain(&mut reader).await, [begin, begin + 1, begin + 2]);
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_waiting_reader_is_woken_once_per_run_and_keeps_one_waker() {
    let mut rig = Rig::new(10_000);
    let mut reader = rig.start(StartPosition::Latest).unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    for _ in 0..10 {
        assert!(reader.poll_chunk(&mut cx).is_pending());
    }
    rig.append(1, 1);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    rig.append(1, 1);
    assert_eq!(
        woken.0.load(Ordering::Relaxed),
        1,
        "a reader that was woken and has not polled again is not woken again"
    );
    assert_eq!(drain(&mut reader).await, [0, 1]);
    assert!(reader.poll_chunk(&mut cx).is_pending());
    rig.shared.stop();
    assert_eq!(woken.0.load(Ordering::Relaxed), 2);
    assert!(matches!(
        reader.poll_chunk(&mut cx),
        Poll::Ready(Err(ReadError::Stopped))
    ));
    assert_eq!(rig.start(StartPosition::Oldest).err(), Some(StartError::Stopped));
}

#[tokio::test]
async fn each_start_position_begins_where_the_specification_says() {
    let sequence = |number| StartPosition::AtSequence(SequenceNumber(number));
    let after = |number| StartPosition::AfterSequence(SequenceNumber(number));
    let newer = |time| StartPosition::EnqueuedAfter(UnixMillis(time));
    // 100 batches of 3 events; batch n has time 10 n.
    for cache_bytes in [0, 2000, 1_000_000] {
        let mut rig = Rig::new(cache_bytes);
        for batch in 0..100 {
            rig.append(3, batch * 10);
            if batch % 13 == 0 {
                rig.append_repeat();
            }
        }
        let table = [
            (StartPosition::Oldest, 0),
            (StartPosition::Latest, 300),
            (sequence(0), 0),
            (sequence(1), 1),
            (sequence(150), 150),
            (sequence(299), 299),
            (sequence(300), 300),
            (after(0), 1),
            (after(2), 3),
            (after(298), 299),
            (after(299), 300),
            (newer(0), 3),
            (newer(9), 3),
            (newer(495), 150),
            (newer(980), 297),
            (newer(989), 297),
            (newer(990), 300),
        ];
        for (position, first) in table {
            let mut reader = rig.start(position).unwrap();
            let seen = drain(&mut reader).await;
            assert_eq!(
                seen,
                (first..300).collect::<Vec<_>>(),
                "{position:?} with a cache of {cache_bytes}"
            );
        }
        for position in [sequence(301), after(300), after(u64::MAX)] {
            let Err(StartError::BeyondEnd { last, .. }) = rig.start(position) else {
                panic!("{position:?} is beyond the end");
            };
            assert_eq!(last, Some(SequenceNumber(299)));
        }
    }
}

#[tokio::test]
async fn the_refusal_of_a_position_beyond_the_end_reads_as_event_hubs_says_it() {
    let mut rig = Rig::new(0);
    let refused = |rig: &Rig| {
        rig.start(StartPosition::AfterSequence(SequenceNumber(7)))
            .err()
            .unwrap()
            .to_string()
    };
    assert_eq!(
        refused(&rig),
        "The supplied offset '7' is invalid. The last offset in the system is '-1'"
    );
    rig.append(3, 1);
    assert_eq!(
        refused(&rig),
        "The supplied offset '7' is invalid. The last offset in the system is '2'"
    );
}

#[tokio::test]
async fn a_start_time_in_the_future_leaves_out_what_comes_before_it() {
    let mut rig = Rig::new(10_000);
    rig.append(1, 100);
    let mut reader = rig.start(StartPosition::EnqueuedAfter(UnixMillis(500))).unwrap();
    rig.append(1, 500);
    rig.append(2, 501);
    assert_eq!(numbers(&mut reader.next().await.unwrap()), [2, 3]);
}

#[tokio::test]
async fn a_reader_that_retention_overtakes_continues_at_the_oldest_event() {
    let mut rig = Rig::new(0);
    for _ in 0..300 {
        rig.append(3, 1);
    }
    let mut reader = rig.start(StartPosition::Oldest).unwrap();
    assert_eq!(numbers(&mut reader.next().await.unwrap()), [0, 1, 2]);
    rig.trim_to(600);
    let begin = rig.shared.lock().state.begin().sequence.0;
    assert!(begin > 500);
    let rest = drain(&mut reader).await;
    // The entries in memory are served, and then it jumps, once.
    let jumps: Vec<_> = rest.windows(2).filter(|pair| pair[1] != pair[0] + 1).collect();
    assert_eq!(jumps.len(), 1);
    assert_eq!(jumps[0][1], begin);
    assert_eq!(*rest.last().unwrap(), 899);
    let mut late = rig.start(StartPosition::AtSequence(SequenceNumber(5))).unwrap();
    assert_eq!(late.next().await.unwrap().next_sequence().0, begin);
}

#[tokio::test]
async fn a_hole_in_the_log_is_an_error_and_never_a_renumbering() {
    let mut rig = Rig::new(0);
    for _ in 0..100 {
        rig.append(3, 1);
    }
    rig.log.entries.lock().remove(40);
    let mut reader = rig.start(StartPosition::Oldest).unwrap();
    let error = loop {
        match reader.next().await {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ReadError::Miscounted { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_entry_is_an_error() {
    let mut rig = Rig::new(0);
    rig.append(3, 1);
    rig.append(3, 1);
    rig.log.entries.lock()[1].1 = Bytes::from_static(b"\xff");
    let mut reader = rig.start(StartPosition::Oldest).unwrap();
    assert!(matches!(
        reader.next().await,
        Err(ReadError::Entry { log_index: 3, .. })
    ));
}

#[tokio::test]
async fn reader_slots_are_bounded_and_freed() {
    let rig = Rig::new(0);
    let mut readers: Vec<_> = (0..MAX_READERS)
        .map(|_| rig.start(StartPosition::Latest).unwrap())
        .collect();
    assert_eq!(rig.start(StartPosition::Latest).err(), Some(StartError::TooManyReaders));
    readers.pop();
    assert!(rig.start(StartPosition::Latest).is_ok());
}

#[test]
fn no_wake_up_is_lost_between_two_threads() {
    const BATCHES: u64 = 3000;
    for cache_bytes in [0, 3000, 1_000_000] {
        let mut rig = Rig::new(cache_bytes);
        let mut readers: Vec<_> = (0..2).map(|_| rig.start(StartPosition::Oldest).unwrap()).collect();
        let threads: Vec<_> = readers
            .drain(..)
            .map(|mut reader| {
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(async {
                        let mut expected = 0;
                        while expected < 2 * BATCHES {
                            for number in numbers(&mut reader.next().await.unwrap()) {
                                assert_eq!(number, expected);
                                expected += 1;
                            }
                        }
                    });
                })
            })
            .collect();
        for _ in 0..BATCHES {
            rig.append(2, 1);
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

/// Events while three readers read.
#[derive(Debug, Clone)]
enum Step {
    Append { records: u64 },
    Repeat,
    Meta,
    Read { reader: usize, chunks: usize },
    Reopen { reader: usize, back: u64 },
    Trim { keep: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..20_u64).prop_map(|records| Step::Append { records }),
        1 => Just(Step::Repeat),
        1 => Just(Step::Meta),
        4 => (0..3_usize, 1..20_usize).prop_map(|(reader, chunks)| Step::Read { reader, chunks }),
        1 => (0..3_usize, 0..200_u64).prop_map(|(reader, back)| Step::Reopen { reader, back }),
        1 => (0..400_u64).prop_map(|keep| Step::Trim { keep }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn readers_see_every_event_in_order_whatever_happens_around_them(
        steps in proptest::collection::vec(step(), 1..150),
        cache_bytes in prop_oneof![Just(0_u64), Just(1500), Just(100_000)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut rig = Rig::new(cache_bytes);
            let mut readers: Vec<_> = (0..3).map(|_| (rig.start(StartPosition::Oldest).unwrap(), 0)).collect();
            // All begins of the log so far: a read ahead continues at the begin of its own time.
            let mut begins = std::collections::BTreeSet::new();
            for step in steps {
                match step {
                    Step::Append { records } => rig.append(records, 1),
                    Step::Repeat => rig.append_repeat(),
                    Step::Meta => rig.append_meta(),
                    Step::Trim { keep } => {
                        let next = rig.shared.lock().state.next().0;
                        rig.trim_to(next.saturating_sub(keep));
                        begins.insert(rig.shared.lock().state.begin().sequence.0);
                    }
                    Step::Reopen { reader, back } => {
                        let (next, begin) = {
                            let inner = rig.shared.lock();
                            (inner.state.next().0, inner.state.begin().sequence.0)
                        };
                        let at = next.saturating_sub(back);
                        let from = StartPosition::AtSequence(SequenceNumber(at));
                        readers[reader] = (rig.start(from).unwrap(), at.max(begin));
                    }
                    Step::Read { reader, chunks } => {
                        let (reader, expected) = &mut readers[reader];
                        for _ in 0..chunks {
                            let (next, begin) = {
                                let inner = rig.shared.lock();
                                (inner.state.next().0, inner.state.begin().sequence.0)
                            };
                            // Retention can remove every event: an entry without records may begin the log.
                            if (*expected).max(begin) >= next {
                                break;
                            }
                            let mut chunk = reader.next().await.unwrap();
                            let first = chunk.next_sequence().0;
                            assert!(
                                first == *expected || (first > *expected && begins.contains(&first)),
                                "got {first} instead of {expected}, and the log began at {begins:?}"
                            );
                            *expected = numbers(&mut chunk).last().unwrap() + 1;
                        }
                    }
                }
            }
        });
    }
}
