//! A fleet: threads with one single-threaded runtime each, which open connections at a measured pace and drive them.
//!
//! The caller's thread walks the fleet through its phases (connect, run, stop, end) and reads counters; nothing else is
//! shared between threads. Blocking API: what a test or a command line wants.
//! Invariants: connections open no faster than asked; a failure to connect is reported, never silently fewer devices.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::batch::{Batch, Shape};
use crate::connect::{self, Habits, Stream, Visit};
use crate::latency::Latency;
use crate::ledger::{Ledger, Span};
use crate::process::file_limit;
use crate::target::Target;
use crate::{idle, publisher};

/// Connections of one thread that are between TCP connect and CONNACK.
const HANDSHAKES_AT_ONCE: usize = 64;
/// How often a connection is tried before the fleet gives up; transient refusals are normal in a ramp.
const CONNECT_ATTEMPTS: u32 = 3;
/// Files that the process needs besides connections.
const SPARE_FILES: u64 = 64;
/// Different reasons that are kept.
const MAX_REASONS: usize = 100;
/// One read of a connection, shared by all connections of a thread.
const READ_BYTES: usize = 64 * 1024;
/// How often the caller's thread looks at the counters while it waits.
const POLL: Duration = Duration::from_millis(5);
/// Tasks polled between two looks at the sockets: a whole round, so that one look serves many connections.
const TASKS_A_ROUND: u32 = 1024;

/// What a fleet does.
pub struct Plan {
    /// Where to and who.
    pub target: Target,
    /// The number of the first device.
    pub first: u32,
    /// How many devices.
    pub connections: u32,
    /// How many threads drive them.
    pub threads: usize,
    /// New connections a second, all threads together.
    pub connect_rate: f64,
    /// What all connections have in common.
    pub habits: Habits,
    /// What they do once they are up.
    pub work: Work,
}

/// What the devices do.
#[derive(Debug, Clone)]
pub enum Work {
    /// Nothing but keeping the connection.
    Idle {
        /// Connect again when a connection is lost.
        survive_disconnect: bool,
    },
    /// Publish at QoS 1.
    Publish(Publish),
}

/// How the devices publish.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The message.
    pub shape: Shape,
    /// Unacknowledged messages that a device keeps in flight.
    pub window: usize,
    /// How many of the window must be acknowledged before new messages go out, 1 to `window`: 1 keeps the window full,
    /// `window` sends whole windows.
    pub refill: usize,
    /// How many messages each device sends; `None` = until stopped.
    pub messages: Option<u64>,
    /// Connect again when a connection is lost, and send what is unacknowledged again.
    pub survive_disconnect: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Connecting,
    Running,
    Ended,
}

/// What is going on, added up over all threads.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted by the server and not lost.
    pub up: AtomicU64,
    /// Messages handed to sockets, resends included.
    pub sent: AtomicU64,
    /// Acknowledgements.
    pub acknowledged: AtomicU64,
    /// Acknowledgements that did not come in the order of sending.
    pub out_of_order: AtomicU64,
    /// Acknowledgements of nothing outstanding.
    pub unknown: AtomicU64,
    /// Connections lost after they were up.
    pub disconnects: AtomicU64,
    /// Attempts to connect again that failed.
    pub refusals: AtomicU64,
    /// Devices that have given up.
    pub failed: AtomicU64,
    /// Devices that have sent all that they had to, and seen it acknowledged.
    pub finished: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
    stopping: AtomicBool,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// The reasons why connections failed or were lost, with how often.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<String, u64> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn note(&self, reason: &anyhow::Error) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = format!("{reason:#}");
        if failures.len() < MAX_REASONS || failures.contains_key(&reason) {
            *failures.entry(reason).or_default() += 1;
        }
    }
}

/// A running fleet.
pub struct Fleet {
    counters: Arc<Counters>,
    phase: watch::Sender<Phase>,
    threads: Vec<thread::JoinHandle<Result<Share>>>,
    connections: u64,
    ledger: Ledger,
}

/// What a fleet leaves behind.
pub struct Outcome {
    /// What was sent and acknowledged.
    pub ledger: Ledger,
    /// Times from a message's write to its acknowledgement; of idle devices, from a ping to its answer.
    pub latency: Latency,
    /// Times from the loss of a connection until the device was connected again.
    pub away: Latency,
    /// The final counts.
    pub counters: Arc<Counters>,
}

/// One thread's part of the outcome.
#[derive(Default)]
struct Share {
    spans: BTreeMap<u32, Vec<Span>>,
    latency: Latency,
    away: Latency,
}

impl Fleet {
    /// Starts the threads, which begin to connect at once.
    ///
    /// # Errors
    /// When the plan needs more files than the process may open, or makes no sense.
    pub fn start(plan: Plan) -> Result<Self> {
        ensure!(
            plan.connections > 0 && plan.threads > 0 && plan.connect_rate > 0.0,
            "a fleet of nothing"
        );
        let files = u64::from(plan.connections) + SPARE_FILES;
        let limit = file_limit();
        ensure!(
            files <= limit,
            "{} connections need {files} open files and this process may have {limit}: use several processes, \
             each with its own --first",
            plan.connections
        );
        let ledger = match &plan.work {
            Work::Idle { .. } => Ledger::new(0, plan.target.names.prefix(), 0),
            Work::Publish(publish) => Ledger::new(
                publish.shape.run,
                plan.target.names.prefix(),
                publish.shape.payload_bytes,
            ),
        };
        let counters = Arc::new(Counters::default());
        let (phase, _) = watch::channel(Phase::Connecting);
        let connections = u64::from(plan.connections);
        let plan = Arc::new(plan);
        let mut threads = Vec::new();
        for index in 0..plan.threads {
            let (plan, counters, phase) = (plan.clone(), counters.clone(), phase.subscribe());
            let builder = thread::Builder::new().name(format!("fleet-{index}"));
            threads.push(builder.spawn(move || run_thread(&plan, index, counters, phase))?);
        }
        Ok(Self {
            counters,
            phase,
            threads,
            connections,
            ledger,
        })
    }

    /// The counts so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Waits until every device is connected.
    ///
    /// # Errors
    /// When one gives up, or it takes longer than `patience`.
    pub fn wait_up(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while self.counters.up.load(Ordering::Relaxed) < self.connections {
            let failed = self.counters.failed.load(Ordering::Relaxed);
            if failed > 0 {
                bail!("{failed} devices could not connect: {:?}", self.counters.failures());
            }
            ensure!(
                self.threads.iter().all(|thread| !thread.is_finished()) && Instant::now() < deadline,
                "{} of {} devices are connected after {} s: {:?}",
                self.counters.up.load(Ordering::Relaxed),
                self.connections,
                patience.as_secs(),
                self.counters.failures()
            );
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Lets the devices do their work.
    pub fn begin(&self) {
        self.phase.send_replace(Phase::Running);
    }

    /// Waits until every device has sent all that it had to, or given up, for at most `patience`; says whether so.
    #[must_use]
    pub fn wait_finished(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let done = || {
            let counters = &self.counters;
            counters.finished.load(Ordering::Relaxed) + counters.failed.load(Ordering::Relaxed) >= self.connections
        };
        while !done() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        done()
    }

    /// Stops new messages, waits up to `drain` for outstanding acknowledgements, then closes all connections.
    ///
    /// # Errors
    /// When a thread has panicked or failed.
    pub fn end(mut self, drain: Duration) -> Result<Outcome> {
        self.counters.stopping.store(true, Ordering::Relaxed);
        let _ = self.wait_finished(drain);
        self.phase.send_replace(Phase::Ended);
        let (mut latency, mut away) = (Latency::default(), Latency::default());
        for thread in self.threads.drain(..) {
            let share = thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread of the fleet panicked"))??;
            self.ledger.devices.extend(share.spans);
            latency.merge(&share.latency);
            away.merge(&share.away);
        }
        Ok(Outcome {
            ledger: self.ledger,
            latency,
            away,
            counters: self.counters,
        })
    }
}

/// What the connections of one thread share.
pub(crate) struct Worker {
    plan: Arc<Plan>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) input: RefCell<Box<[u8]>>,
    pub(crate) batch: RefCell<Option<Batch>>,
    pub(crate) latency: RefCell<Latency>,
    away: RefCell<Latency>,
    spans: RefCell<BTreeMap<u32, Vec<Span>>>,
    started: Instant,
    started_unix_us: u64,
    handshakes: Semaphore,
    next_slot: Cell<Instant>,
    slot_gap: Duration,
}

impl Worker {
    fn new(plan: &Arc<Plan>, counters: Arc<Counters>, phase: watch::Receiver<Phase>) -> Result<Self> {
        let batch = match &plan.work {
            Work::Idle { .. } => None,
            Work::Publish(publish) => Some(Batch::new(&publish.shape, &plan.target.names, publish.window)?),
        };
        let started = Instant::now();
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock is before 1970")?;
        Ok(Self {
            plan: plan.clone(),
            counters,
            phase,
            input: RefCell::new(vec![0; READ_BYTES].into()),
            batch: RefCell::new(batch),
            latency: RefCell::default(),
            away: RefCell::default(),
            spans: RefCell::default(),
            started,
            started_unix_us: u64::try_from(since_1970.as_micros())?,
            handshakes: Semaphore::new(HANDSHAKES_AT_ONCE),
            next_slot: Cell::new(started),
            slot_gap: Duration::from_secs_f64(plan.threads as f64 / plan.connect_rate),
        })
    }

    pub(crate) fn habits(&self) -> Habits {
        self.plan.habits
    }

    /// Microseconds since the thread started.
    pub(crate) fn now_us(&self) -> u64 {
        // Half a million years.
        self.started.elapsed().as_micros() as u64
    }

    pub(crate) fn unix_us(&self, now_us: u64) -> u64 {
        self.started_unix_us + now_us
    }

    /// Whether devices may still send new messages.
    pub(crate) fn is_sending(&self) -> bool {
        !self.counters.stopping.load(Ordering::Relaxed)
    }

    pub(crate) fn record(&self, device: u32, span: Span) {
        self.spans.borrow_mut().entry(device).or_default().push(span);
    }

    /// Waits until the fleet as a whole is let go.
    pub(crate) async fn running(&self) {
        // The sender lives as long as the fleet, which outlives its threads.
        let _ = self.phase.clone().wait_for(|phase| *phase >= Phase::Running).await;
    }

    /// Connects `device` when its turn comes.
    async fn open(&self, device: u32, visit: Visit) -> Result<Stream> {
        let slot = self.next_slot.get().max(Instant::now() - Duration::from_millis(5));
        self.next_slot.set(slot + self.slot_gap);
        tokio::time::sleep_until(slot.into()).await;
        let _permit = self.handshakes.acquire().await?;
        connect::open(&self.plan.target, self.plan.habits, device, visit).await
    }

    /// Connects `device`, whose connection was lost at `lost_us`.
    pub(crate) async fn open_again(&self, device: u32, lost_us: u64) -> Result<Stream> {
        let opened = self.open(device, Visit::Again).await;
        match &opened {
            Ok(_) => {
                let away_us = self.now_us().saturating_sub(lost_us);
                self.away.borrow_mut().add(u32::try_from(away_us).unwrap_or(u32::MAX));
            }
            Err(_) => Counters::add(&self.counters.refusals, 1),
        }
        opened
    }

    /// Notes why the connection `server` was lost; the server's name helps where there are several.
    pub(crate) fn note_lost(&self, reason: anyhow::Error, server: &str) {
        if self.plan.target.nodes.is_empty() {
            self.counters.note(&reason);
        } else {
            self.counters.note(&reason.context(server.to_owned()));
        }
    }

    /// Before a device tries again: not all at once.
    pub(crate) async fn pause(&self) {
        tokio::time::sleep(Duration::from_millis(rand::random_range(20..200))).await;
    }

    /// Connects `device` for the first time, with a few attempts.
    pub(crate) async fn open_first(&self, device: u32) -> Result<Stream> {
        let mut attempt = 1;
        loop {
            match self.open(device, Visit::First).await {
                Ok(stream) => return Ok(stream),
                Err(error) if attempt >= CONNECT_ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }
}

fn run_thread(
    plan: &Arc<Plan>,
    index: usize,
    counters: Arc<Counters>,
    mut phase: watch::Receiver<Phase>,
) -> Result<Share> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .event_interval(TASKS_A_ROUND)
        .build_local(LocalOptions::default())
        .context("cannot start a runtime")?;
    let worker = Rc::new(Worker::new(plan, counters, phase.clone())?);
    runtime.block_on(async {
        let devices = plan.first..plan.first + plan.connections;
        let mut tasks: Vec<JoinHandle<()>> = devices
            .skip(index)
            .step_by(plan.threads)
            .map(|device| start_device(&worker, device))
            .collect();
        for task in &mut tasks {
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase == Phase::Ended) => break,
                _ = task => {}
            }
        }
        // Aborted devices write down what they know when they are dropped.
        for task in &tasks {
            task.abort();
        }
        for task in tasks {
            if !task.is_finished() {
                let _ = task.await;
            }
        }
    });
    drop(runtime);
    Ok(Share {
        spans: worker.spans.take(),
        latency: worker.latency.take(),
        away: worker.away.take(),
    })
}

fn start_device(worker: &Rc<Worker>, device: u32) -> JoinHandle<()> {
    let shared = worker.clone();
    match &worker.plan.work {
        Work::Idle { survive_disconnect } => {
            let survive = *survive_disconnect;
            holdfast_tasks::spawn_local("idle-device", Box::pin(idle::run(shared, device, survive)))
        }
        Work::Publish(publish) => {
            let publish = publish.clone();
            holdfast_tasks::spawn_local("publishing-device", Box::pin(publisher::run(shared, device, publish)))
        }
    }
}
