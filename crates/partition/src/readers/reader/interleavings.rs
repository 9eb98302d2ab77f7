//! The hand-over between disk and cache: one reader under every interleaving with the writer.
//!
//! The writer's steps are those of a replica: an entry is applied and cached, older ones are evicted when a run begins,
//! readers are woken at its end, and only then the log shows the run. Any number of these steps may happen between two
//! polls, and inside a disk read: before its end is sampled, before it reads, and before it returns. The reader is polled
//! only when it was woken, so that a lost wake-up fails the test.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use bytes::Bytes;
use holdfast_model::{ByteSize, PartitionId};
use holdfast_tasks::BlockingPool;
use holdfast_tasks::sync::Mutex;

use super::tests::{at, batch, numbers};
use super::*;
use crate::config::PartitionConfig;
use crate::state::State;
use crate::state::store::Recovered;
use crate::state::value_index::IndexedChanges;

const RECORDS: u64 = 2;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Evicts, and applies the first entry of a run; one step, as it is one lock.
    StartRun,
    /// Applies another entry of the run.
    Apply,
    /// Applies an entry that is skipped.
    Skip,
    /// Wakes readers.
    EndRun,
    /// The log shows the applied entries.
    Publish,
    /// Retention removes all but the last entry.
    Trim,
}

/// One interleaving: at each point, whether the writer makes a step.
#[derive(Default)]
struct Choices {
    taken: Vec<bool>,
    next: usize,
}

impl Choices {
    fn choose(&mut self) -> bool {
        if self.next == self.taken.len() {
            self.taken.push(false);
        }
        self.next += 1;
        self.taken[self.next - 1]
    }

    /// The next interleaving in the order of a depth-first search; `false` after the last.
    fn advance(&mut self) -> bool {
        self.next = 0;
        while self.taken.pop_if(|taken| *taken).is_some() {}
        match self.taken.last_mut() {
            Some(last) => {
                *last = true;
                true
            }
            None => false,
        }
    }
}

struct Writer {
    steps: VecDeque<Step>,
    choices: Choices,
    entries: Vec<(u64, Bytes)>,
    next_index: u64,
    batch: u64,
    /// The log shows entries below this index.
    published: u64,
}

/// A partition whose writer makes its steps inside the reader's calls.
struct Stage {
    shared: Arc<Shared>,
    writer: Mutex<Writer>,
}

impl Stage {
    fn new(read_ahead: u64, choices: Choices) -> Arc<Self> {
        let config = PartitionConfig {
            // Room for one entry.
            tail_cache: ByteSize(150),
            read_ahead: ByteSize(read_ahead),
            index_spacing: ByteSize(1),
            index_spacing_entries: 2,
            ..PartitionConfig::default()
        };
        let recovered = Recovered {
            state: State::new(config.spacing()),
            position: Some(at(1)),
            membership: Bytes::new(),
            device_state_epoch: 0,
            value_indexes: None,
        };
        let shared = Shared::new(PartitionId(0), config, BlockingPool::Inline, None, recovered);
        let writer = Writer {
            steps: VecDeque::new(),
            choices,
            entries: Vec::new(),
            next_index: 2,
            batch: 0,
            published: 2,
        };
        Arc::new(Self {
            shared,
            writer: Mutex::new(writer),
        })
    }

    fn step(&self, step: Step) {
        match step {
            Step::StartRun => {
                self.apply(true, false);
            }
            Step::Apply => self.apply(false, false),
            Step::Skip => self.apply(false, true),
            Step::EndRun => self.shared.wake_readers(&mut Vec::new()),
            Step::Publish => {
                let mut writer = self.writer.lock();
                writer.published = writer.next_index;
            }
            Step::Trim => {
                let point = {
                    let inner = self.shared.lock();
                    let last = inner.state.next().0.saturating_sub(1);
                    inner.state.floor_sequence(SequenceNumber(last))
                };
                self.shared.trim(point);
                self.writer
                    .lock()
                    .entries
                    .retain(|(index, _)| *index >= point.log_index);
            }
        }
    }

    fn apply(&self, evict: bool, repeat: bool) {
        let mut inner = self.shared.lock();
        if evict {
            inner.cache.evict();
        }
        let mut writer = self.writer.lock();
        if !repeat {
            writer.batch += 1;
        }
        let first = inner.state.next().0;
        let bytes = batch(writer.batch, first..first + RECORDS, 1);
        let index = writer.next_index;
        writer.next_index += 1;
        writer.entries.push((index, bytes.clone()));
        inner.apply(at(index), &bytes, &IndexedChanges::default()).unwrap();
    }

    /// A point at which the writer may make steps.
    fn point(&self) {
        loop {
            let step = {
                let mut writer = self.writer.lock();
                if writer.steps.is_empty() || !writer.choices.choose() {
                    return;
                }
                writer.steps.pop_front()
            };
            let Some(step) = step else { return };
            self.step(step);
        }
    }
}

impl LogSource for Stage {
    fn end(&self) -> u64 {
        self.point();
        self.writer.lock().published
    }

    fn read(&self, from: u64, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, StorageError> {
        self.point();
        let mut bytes = 0;
        let read = {
            let writer = self.writer.lock();
            let shown = |index: u64| index >= from && index < writer.published;
            let entries = writer.entries.iter().filter(|(index, _)| shown(*index));
            entries
                .take_while(|(_, entry)| {
                    let first = bytes == 0;
                    bytes += entry.len();
                    first || bytes <= max_bytes
                })
                .cloned()
                .collect()
        };
        self.point();
        Ok(read)
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One interleaving: the reader gets every event once and in order, but for those that retention has removed.
fn run(before: &[Step], during: &[Step], read_ahead: u64, choices: Choices) -> Choices {
    let stage = Stage::new(read_ahead, choices);
    before.iter().for_each(|step| stage.step(*step));
    stage.writer.lock().steps.extend(during);
    let mut reader = Reader::start(stage.shared.clone(), stage.clone(), StartPosition::Oldest).unwrap();
    let applied = |step: &&Step| matches!(step, Step::StartRun | Step::Apply);
    let end = RECORDS * before.iter().chain(during).filter(applied).count() as u64;
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(flag.clone());
    let mut cx = Context::from_waker(&waker);
    let mut expected = 0;
    while expected < end {
        stage.point();
        if !flag.0.load(Ordering::Relaxed) {
            let step = stage.writer.lock().steps.pop_front();
            let step = step.unwrap_or_else(|| panic!("the reader sleeps at {expected} of {end}"));
            stage.step(step);
            continue;
        }
        match reader.poll_chunk(&mut cx) {
            Poll::Ready(chunk) => {
                let mut chunk = chunk.unwrap_or_else(|error| panic!("at {expected}: {error}"));
                let first = chunk.next_sequence().0;
                let begin = stage.shared.lock().state.begin().sequence.0;
                assert!(
                    first == expected || expected < first && first == begin,
                    "got {first} instead of {expected}; the log begins at {begin}"
                );
                expected = numbers(&mut chunk).last().unwrap() + 1;
            }
            Poll::Pending => flag.0.store(false, Ordering::Relaxed),
        }
    }
    drop(reader);
    let mut writer = stage.writer.lock();
    std::mem::take(&mut writer.choices)
}

/// All interleavings; gives their number.
fn explore(before: &[Step], during: &[Step], read_ahead: u64) -> usize {
    let (mut choices, mut count) = (Choices::default(), 0);
    loop {
        choices = run(before, during, read_ahead, choices);
        count += 1;
        if !choices.advance() {
            return count;
        }
    }
}

use Step::{Apply, EndRun, Publish, Skip, StartRun, Trim};

#[test]
fn a_reader_behind_the_cache_gets_everything_in_order_under_every_interleaving() {
    // Two entries on disk, of which the cache has the second.
    let before = [StartRun, EndRun, Publish, StartRun, EndRun, Publish];
    let during = [StartRun, Apply, EndRun, Publish, StartRun, EndRun, Publish];
    for read_ahead in [1, 4096] {
        let count = explore(&before, &during, read_ahead);
        assert!(count > 1_000, "{count} interleavings");
    }
}

#[test]
fn skipped_entries_between_disk_and_cache_change_nothing_under_any_interleaving() {
    let before = [StartRun, Skip, EndRun, Publish];
    let during = [StartRun, Skip, EndRun, Publish, StartRun, EndRun];
    for read_ahead in [1, 4096] {
        let count = explore(&before, &during, read_ahead);
        assert!(count > 500, "{count} interleavings");
    }
}

#[test]
fn a_reader_that_retention_overtakes_jumps_to_the_begin_alone_under_every_interleaving() {
    let before = [StartRun, Apply, EndRun, Publish];
    let during = [StartRun, Apply, EndRun, Publish, Trim, StartRun, EndRun];
    for read_ahead in [1, 4096] {
        let count = explore(&before, &during, read_ahead);
        assert!(count > 500, "{count} interleavings");
    }
}

#[test]
fn a_reader_at_the_end_is_never_left_asleep() {
    let during = [StartRun, EndRun, Publish, StartRun, Apply, EndRun, Publish, StartRun];
    let woken = [&during[..], &[EndRun]].concat();
    let count = explore(&[], &woken, 4096);
    assert!(count > 200, "{count} interleavings");
}
