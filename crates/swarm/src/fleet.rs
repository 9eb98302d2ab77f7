//! A fleet: threads with one single-threaded runtime each, which open connections at a fixed rate and drive them.
//!
//! The caller's thread moves the fleet through its phases (connect, run, stop, end) and reads counters; threads share
//! nothing else. The API blocks, which suits tests and command lines.
//! Invariants: connections open no faster than the plan's rate; a device that cannot connect is reported.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::acknowledgements::Acknowledgements;
use crate::amqp;
use crate::batch::{Batch, Shape};
use crate::connect::{self, ConnectAttempt, ConnectionOptions, Stream};
use crate::https;
use crate::latency::Latency;
use crate::ledger::{Ledger, Span};
use crate::process::file_limit;
use crate::target::{Credentials, Target};
use crate::{idle, publisher};

/// Connections of one thread that are between TCP connect and CONNACK.
const HANDSHAKES_AT_ONCE: usize = 64;
/// Attempts before a device gives up; transient refusals are normal while a fleet connects.
const CONNECT_ATTEMPTS: u32 = 3;
/// Files that the process needs besides connections.
const SPARE_FILES: u64 = 64;
/// Different failure reasons that are kept.
const MAX_REASONS: usize = 100;
/// One read of a connection, shared by all connections of a thread.
const READ_BYTES: usize = 64 * 1024;
/// Interval at which the caller's thread polls the counters while it waits.
const POLL: Duration = Duration::from_millis(5);
/// Tasks polled between two polls of the sockets: one poll serves many connections.
const TASKS_A_ROUND: u32 = 1024;

/// The plan of a fleet.
pub struct Plan {
    /// The server and the device identities.
    pub target: Target,
    /// The number of the first device.
    pub first: u32,
    /// How many devices; each has a connection of its own, unless [`Protocol::Amqp`] says otherwise.
    pub connections: u32,
    /// How many threads drive them.
    pub threads: usize,
    /// New connections a second, all threads together.
    pub connect_rate: f64,
    /// Options of all MQTT connections.
    pub options: ConnectionOptions,
    /// The protocol of all devices.
    pub protocol: Protocol,
    /// The work of the devices once they are connected.
    pub work: Work,
}

/// The protocol of a fleet's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 3.1.1.
    Mqtt,
    /// AMQP 1.0.
    Amqp {
        /// Devices that share a connection, from 1.
        devices_a_connection: u32,
    },
    /// HTTPS with kept connections; a device has one message in flight.
    Https,
}

impl Protocol {
    fn devices_a_connection(self) -> u32 {
        match self {
            Self::Amqp { devices_a_connection } => devices_a_connection,
            Self::Mqtt | Self::Https => 1,
        }
    }
}

/// The work of the devices.
#[derive(Debug, Clone)]
pub enum Work {
    /// Only keep the connection open.
    Idle {
        /// Reconnect when a connection is lost.
        survive_disconnect: bool,
    },
    /// Send messages, each of which is acknowledged.
    Publish(Publish),
}

/// How the devices publish.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The message.
    pub shape: Shape,
    /// Unacknowledged messages that a device keeps in flight.
    pub window: usize,
    /// How many messages of the window must be acknowledged before new ones are sent, 1 to `window`: 1 keeps the window
    /// full, `window` sends whole windows.
    pub refill: usize,
    /// How many messages each device sends; `None` = until stopped.
    pub messages: Option<u64>,
    /// Reconnect when a connection is lost, and send the unacknowledged messages again.
    pub survive_disconnect: bool,
    /// The mean time from one write of new messages to the next, over MQTT, three to five quarters of it each time, so that
    /// devices do not send in step; zero: at once.
    pub pace: Duration,
    /// Where the time of each acknowledgement is recorded, over MQTT.
    pub acknowledgements: Option<Arc<Acknowledgements>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Connecting,
    Running,
    Ended,
}

/// Counters of the whole fleet.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections that are up.
    pub up: AtomicU64,
    /// Messages handed to sockets, resends included.
    pub sent: AtomicU64,
    /// Acknowledgements.
    pub acknowledged: AtomicU64,
    /// Acknowledgements that did not come in the order of sending.
    pub out_of_order: AtomicU64,
    /// Acknowledgements of nothing outstanding.
    pub unknown: AtomicU64,
    /// Connections lost after CONNACK.
    pub disconnects: AtomicU64,
    /// Failed reconnects.
    pub refusals: AtomicU64,
    /// Those of a device whose attempt before had failed, too.
    pub refusals_again: AtomicU64,
    /// Devices that gave up.
    pub failed: AtomicU64,
    /// Devices whose messages are all sent and acknowledged.
    pub finished: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
    stopping: AtomicBool,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// The reasons why connections failed or were lost, with counts.
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

/// The result of a fleet.
pub struct Outcome {
    /// The sent and acknowledged messages.
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
    /// When the plan needs more files than the process may open, or is inconsistent.
    pub fn start(plan: Plan) -> Result<Self> {
        ensure!(
            plan.connections > 0 && plan.threads > 0 && plan.connect_rate > 0.0,
            "a fleet of nothing"
        );
        let devices_a_connection = plan.protocol.devices_a_connection();
        ensure!(devices_a_connection > 0, "a connection has at least one device");
        ensure!(
            plan.protocol != Protocol::Https || !matches!(plan.work, Work::Idle { .. }),
            "a device that sends nothing over HTTPS has no connection"
        );
        ensure!(
            plan.protocol == Protocol::Mqtt || matches!(plan.target.credentials, Credentials::Hub(_)),
            "devices over AMQP and HTTPS need a hub"
        );
        if let Work::Publish(publish) = &plan.work {
            ensure!(
                plan.protocol == Protocol::Mqtt || (publish.pace.is_zero() && publish.acknowledgements.is_none()),
                "a pace and the times of acknowledgements are for MQTT"
            );
        }
        let connections = plan.connections.div_ceil(devices_a_connection);
        let files = u64::from(connections) + SPARE_FILES;
        let limit = file_limit();
        ensure!(
            files <= limit,
            "{} connections need {files} open files and this process may have {limit}: use several processes, \
             each with its own --first",
            connections
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
    /// When one gives up, or it takes longer than `timeout`.
    pub fn wait_up(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
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
                timeout.as_secs(),
                self.counters.failures()
            );
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Starts the work of the devices.
    pub fn begin(&self) {
        self.phase.send_replace(Phase::Running);
    }

    /// Waits at most `timeout` until every device has finished or given up; returns whether they have.
    #[must_use]
    pub fn wait_finished(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
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

/// The shared state of one thread's connections.
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
            Work::Publish(publish) if plan.protocol == Protocol::Mqtt => {
                Some(Batch::new(&publish.shape, &plan.target.names, publish.window)?)
            }
            _ => None,
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

    pub(crate) fn connection_options(&self) -> ConnectionOptions {
        self.plan.options
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

    /// Waits until the fleet's work is started.
    pub(crate) async fn running(&self) {
        // The sender lives as long as the fleet, which outlives its threads.
        let _ = self.phase.clone().wait_for(|phase| *phase >= Phase::Running).await;
    }

    /// Opens a connection when its turn comes.
    async fn in_turn<T>(&self, open: impl Future<Output = Result<T>>) -> Result<T> {
        let slot = self.next_slot.get().max(Instant::now() - Duration::from_millis(5));
        self.next_slot.set(slot + self.slot_gap);
        tokio::time::sleep_until(slot.into()).await;
        let _permit = self.handshakes.acquire().await?;
        open.await
    }

    /// Connects `device` over MQTT.
    pub(crate) async fn open_mqtt(&self, device: u32, attempt: ConnectAttempt) -> Result<Stream> {
        connect::open(&self.plan.target, self.plan.options, device, attempt).await
    }

    /// Connects over AMQP and puts the tokens of the `count` devices from `first` on.
    pub(crate) async fn open_amqp(
        &self,
        first: u32,
        count: u32,
        attempt: ConnectAttempt,
    ) -> Result<(amqp::Connection, Vec<amqp::Credential>)> {
        let target = &self.plan.target;
        let Credentials::Hub(hub) = &target.credentials else {
            bail!("devices over AMQP need a hub");
        };
        let stream = connect::open_stream(target, first, attempt).await?;
        let mut connection = amqp::Connection::open(stream, &target.names.name(first), hub.host()).await?;
        let credentials: Vec<_> = (first..first + count)
            .map(|number| hub.credential(target.names.name(number)))
            .collect();
        amqp::Devices::authenticate(&mut connection, &credentials).await?;
        Ok((connection, credentials))
    }

    /// Connects `device` over HTTPS.
    pub(crate) async fn open_https(&self, device: u32, attempt: ConnectAttempt) -> Result<https::HttpsDevice> {
        https::HttpsDevice::open(&self.plan.target, device, attempt).await
    }

    /// Keeps `devices`, which share a connection, connected, and has them work: `open` connects and names the server, `drive` works until all is
    /// done or the connection is lost.
    pub(crate) async fn sustain<C>(
        &self,
        devices: u32,
        survive_disconnect: bool,
        open: impl AsyncFn(ConnectAttempt) -> Result<(C, String)>,
        mut drive: impl AsyncFnMut(C) -> Result<()>,
    ) {
        let devices = u64::from(devices);
        // When the last connection was lost, or could not be opened for the first time.
        let mut lost_us = None;
        let mut has_failed = false;
        loop {
            let opened = match lost_us {
                Some(lost_us) => self.reconnect(lost_us, &open).await,
                None => self.connect(&open).await,
            };
            match opened {
                Ok((connection, server)) => {
                    has_failed = false;
                    Counters::add(&self.counters.up, devices);
                    let ended = drive(connection).await;
                    self.counters.up.fetch_sub(devices, Ordering::Relaxed);
                    match ended {
                        Ok(()) => {
                            Counters::add(&self.counters.finished, devices);
                            return;
                        }
                        Err(error) => {
                            lost_us = Some(self.now_us());
                            Counters::add(&self.counters.disconnects, devices);
                            self.note_lost(error, &server);
                        }
                    }
                }
                Err(error) => {
                    if lost_us.is_some() && std::mem::replace(&mut has_failed, true) {
                        Counters::add(&self.counters.refusals_again, 1);
                    }
                    self.counters.note(&error);
                }
            }
            if !survive_disconnect {
                Counters::add(&self.counters.failed, devices);
                return;
            }
            lost_us = lost_us.or_else(|| Some(self.now_us()));
            self.backoff().await;
        }
    }

    /// Connects again, what was lost at `lost_us`.
    async fn reconnect<C>(
        &self,
        lost_us: u64,
        open: &impl AsyncFn(ConnectAttempt) -> Result<(C, String)>,
    ) -> Result<(C, String)> {
        let opened = self.in_turn(open(ConnectAttempt::Reconnect)).await;
        match &opened {
            Ok(_) => {
                let away_us = self.now_us().saturating_sub(lost_us);
                self.away.borrow_mut().add(u32::try_from(away_us).unwrap_or(u32::MAX));
            }
            Err(_) => Counters::add(&self.counters.refusals, 1),
        }
        opened
    }

    /// Connects for the first time, with a few attempts.
    async fn connect<C>(&self, open: &impl AsyncFn(ConnectAttempt) -> Result<(C, String)>) -> Result<(C, String)> {
        let mut attempt = 1;
        loop {
            match self.in_turn(open(ConnectAttempt::Initial)).await {
                Ok(opened) => return Ok(opened),
                Err(error) if attempt >= CONNECT_ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    /// Records why the connection to `server` was lost; the server is named where there are several.
    pub(crate) fn note_lost(&self, reason: anyhow::Error, server: &str) {
        if self.plan.target.nodes.is_empty() {
            self.counters.note(&reason);
        } else {
            self.counters.note(&reason.context(server.to_owned()));
        }
    }

    /// Waits before a device reconnects; the time is random, so that devices do not reconnect all at once.
    pub(crate) async fn backoff(&self) {
        tokio::time::sleep(Duration::from_millis(rand::random_range(20..200))).await;
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
        let end = plan.first + plan.connections;
        let each = plan.protocol.devices_a_connection();
        let mut tasks: Vec<JoinHandle<()>> = (plan.first..end)
            .step_by(each as usize)
            .skip(index)
            .step_by(plan.threads)
            .map(|first| start_connection(&worker, first..end.min(first + each)))
            .collect();
        for task in &mut tasks {
            tokio::select! {
                biased;
                _ = phase.wait_for(|phase| *phase == Phase::Ended) => break,
                _ = task => {}
            }
        }
        // Aborted devices record their connection when they are dropped.
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

fn start_connection(worker: &Rc<Worker>, devices: Range<u32>) -> JoinHandle<()> {
    let shared = worker.clone();
    let (first, protocol) = (devices.start, worker.plan.protocol);
    match (&worker.plan.work, protocol) {
        (Work::Idle { survive_disconnect }, Protocol::Amqp { .. }) => {
            let work = amqp::idle(shared, devices, *survive_disconnect);
            holdfast_tasks::spawn_local("idle-device", Box::pin(work))
        }
        (Work::Idle { survive_disconnect }, _) => {
            let work = idle::run(shared, first, *survive_disconnect);
            holdfast_tasks::spawn_local("idle-device", Box::pin(work))
        }
        (Work::Publish(publish), Protocol::Mqtt) => {
            let work = publisher::run(shared, first, publish.clone());
            holdfast_tasks::spawn_local("publishing-device", Box::pin(work))
        }
        (Work::Publish(publish), Protocol::Amqp { .. }) => {
            let work = amqp::publish(shared, devices, publish.clone());
            holdfast_tasks::spawn_local("publishing-device", Box::pin(work))
        }
        (Work::Publish(publish), Protocol::Https) => {
            let work = https::publish(shared, first, publish.clone());
            holdfast_tasks::spawn_local("publishing-device", Box::pin(work))
        }
    }
}
