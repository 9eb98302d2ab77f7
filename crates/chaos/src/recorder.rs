//! Records the observations of all clients, under one clock.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use holdfast_swarm::ledger::Span;
use serde::Serialize;

use crate::check::readers::Readers;
use crate::history::down::WayDown;
use crate::history::queries::Queries;
use crate::history::{Connection, Micros, Operation, Refusal, RightsChange};

/// Acknowledgements of one device that are closer together than this are recorded as one.
const MOMENT: Micros = 5_000;
/// Different anomalies that are kept.
const MAX_ANOMALIES: usize = 100;
/// Different reasons of failed connections that are kept.
const MAX_REASONS: usize = 100;

/// All observations of clients.
#[derive(Debug, Default, Serialize)]
pub struct History {
    /// Calls about identities.
    pub operations: Vec<Operation>,
    /// Connections of devices, recorded when they end.
    pub connections: Vec<Connection>,
    /// Devices that were refused as not authorized.
    pub refusals: Vec<Refusal>,
    /// Changes of devices' rights to connect.
    pub rights: Vec<RightsChange>,
    /// The sent and acknowledged messages of each device.
    pub spans: BTreeMap<u32, Vec<Span>>,
    /// When each device got acknowledgements.
    pub acknowledged: HashMap<u32, Vec<Micros>>,
    /// The partition of each device, as readers found it.
    pub partition_of: HashMap<u32, u32>,
    /// Twins, messages to devices and methods.
    pub down: WayDown,
    /// Queries.
    pub queries: Queries,
    /// Behaviour that no correct hub shows, with its time.
    pub anomalies: Vec<(Micros, String)>,
    /// How many anomalies there were.
    pub anomaly_count: u64,
    /// The reasons why connections and calls failed, with counts: allowed under faults.
    pub failures: BTreeMap<String, u64>,
}

/// The shared recorder.
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

    /// Records behaviour that no correct hub shows.
    pub fn anomaly(&self, text: String) {
        let now = self.now();
        let mut history = self.history();
        history.anomaly_count += 1;
        if history.anomalies.len() < MAX_ANOMALIES {
            history.anomalies.push((now, text));
        }
    }

    /// Records a failure that faults excuse.
    pub fn failure(&self, mut reason: String) {
        // Parts that differ each time would make every reason a different one.
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
