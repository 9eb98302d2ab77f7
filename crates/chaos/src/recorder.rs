//! Where all clients write down what they saw, under one clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use holdfast_swarm::ledger::Span;
use serde::Serialize;

use crate::check::readers::Readers;
use crate::history::{Connection, Micros, Operation, Refusal, RightsChange};

/// Acknowledgements of one device that come closer together than this count as one moment.
const MOMENT: Micros = 5_000;
/// Different oddities that are kept.
const MAX_ODDITIES: usize = 100;
/// Different reasons of failed connections that are kept.
const MAX_REASONS: usize = 100;

/// Everything that clients saw.
#[derive(Debug, Default, Serialize)]
pub struct History {
    /// Calls about identities.
    pub operations: Vec<Operation>,
    /// Connections of devices, written down when they end.
    pub connections: Vec<Connection>,
    /// Devices that were refused as not authorized.
    pub refusals: Vec<Refusal>,
    /// Who might connect, when.
    pub rights: Vec<RightsChange>,
    /// What each device sent and got acknowledged.
    pub spans: BTreeMap<u32, Vec<Span>>,
    /// When each device got acknowledgements.
    pub acknowledged: HashMap<u32, Vec<Micros>>,
    /// The partition of each device, as readers found it.
    pub partition_of: HashMap<u32, u32>,
    /// What no correct hub does, with when.
    pub oddities: Vec<(Micros, String)>,
    /// How many oddities there were.
    pub oddity_count: u64,
    /// Why connections and calls failed, with how often: allowed under faults.
    pub failures: BTreeMap<String, u64>,
}

/// The shared notebook.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    history: Mutex<History>,
    readers: Mutex<Readers>,
    acknowledged: AtomicU64,
    answered: AtomicU64,
    read: AtomicU64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            history: Mutex::default(),
            readers: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            read: AtomicU64::new(0),
        }
    }
}

impl Recorder {
    /// Now.
    #[must_use]
    pub fn now(&self) -> Micros {
        // Half a million years.
        self.started.elapsed().as_micros() as Micros
    }

    /// The history, to add to.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The readers' checker, to feed.
    pub fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A device got a message acknowledged, at `at`.
    pub fn acknowledgement(&self, device: u32, at: Micros) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let mut history = self.history();
        let moments = history.acknowledged.entry(device).or_default();
        if moments.last().is_none_or(|last| at >= last + MOMENT) {
            moments.push(at);
        }
    }

    /// A call about an identity has ended.
    pub fn operation(&self, operation: Operation) {
        if operation.answer.is_some() {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        self.history().operations.push(operation);
    }

    /// A reader read an event.
    pub fn event_read(&self) {
        self.read.fetch_add(1, Ordering::Relaxed);
    }

    /// Something that no correct hub does.
    pub fn oddity(&self, text: String) {
        let now = self.now();
        let mut history = self.history();
        history.oddity_count += 1;
        if history.oddities.len() < MAX_ODDITIES {
            history.oddities.push((now, text));
        }
    }

    /// Something that faults excuse.
    pub fn failure(&self, mut reason: String) {
        // What differs from time to time would make every reason another.
        if let Some(at) = reason.find("TrackingId") {
            reason.truncate(at);
        }
        let mut history = self.history();
        if history.failures.len() < MAX_REASONS || history.failures.contains_key(&reason) {
            *history.failures.entry(reason).or_default() += 1;
        }
    }

    /// Acknowledged messages, answered calls, and read events so far.
    #[must_use]
    pub fn progress(&self) -> (u64, u64, u64) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (get(&self.acknowledged), get(&self.answered), get(&self.read))
    }
}
