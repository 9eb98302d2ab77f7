//! The load: devices that move between nodes and publish, back ends that call, readers that follow. It continues during
//! every fault.
//!
//! One thread with one runtime; the rate is low on purpose, since the nodes share the machine and the variety of
//! situations matters. All observations go to the [`Recorder`].

mod connection;
mod device;
mod down;
mod queries;
mod reader;
mod registry;
mod revoker;
pub mod service;
mod wire;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use holdfast_swarm::ledger::Ledger;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinHandle;

use crate::history::RightsChange;
use crate::recorder::Recorder;
use crate::targets::{Protocol, Targets};
use connection::Session;

/// Bytes of every message.
const PAYLOAD_BYTES: usize = 120;
/// How long the end waits for outstanding acknowledgements.
const DRAIN: Duration = Duration::from_secs(60);
/// Poll interval while waiting for a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The numbers of clients.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// Devices that are never revoked.
    pub devices: u32,
    /// Devices whose rights are revoked and restored repeatedly.
    pub revocable: u32,
    /// Devices whose twins are written, which get messages, and whose methods are called.
    pub commanded: u32,
    /// Back ends that write identities.
    pub writers: u32,
    /// Readers of each partition.
    pub readers: u32,
    /// How many partitions there are.
    pub partitions: u32,
    /// The seed of all random choices.
    pub seed: u64,
}

/// The state that all clients share.
pub(crate) struct Shared {
    targets: Arc<Targets>,
    recorder: Arc<Recorder>,
    run: u64,
    /// Set when no new messages and calls may begin.
    stopping: Arc<AtomicBool>,
    /// Set when readers end as well.
    ended: Arc<AtomicBool>,
    /// Set when no device waits for an acknowledgement.
    drained: Arc<AtomicBool>,
    sessions: RefCell<Vec<Rc<RefCell<Session>>>>,
}

impl Shared {
    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// A running load.
pub struct Load {
    recorder: Arc<Recorder>,
    run: u64,
    prefix: String,
    stopping: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    drained: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Result<()>>>,
}

impl Load {
    /// Creates the devices and starts.
    ///
    /// # Errors
    /// When the devices cannot be created.
    pub fn start(plan: &LoadPlan, targets: &Arc<Targets>, recorder: &Arc<Recorder>) -> Result<Self> {
        let asked = recorder.now();
        let all = plan.devices + plan.revocable + plan.commanded;
        let endpoint = targets.endpoints().first().copied().context("there is no node")?;
        Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(service::create_devices(targets, endpoint, 0..all))?;
        let answered = Some(recorder.now());
        recorder.history().rights.extend((0..all).map(|number| RightsChange {
            device: targets.names().name(number),
            allowed: true,
            asked,
            answered,
        }));
        let run = rand::random();
        let [stopping, ended, drained] = std::array::from_fn(|_| Arc::<AtomicBool>::default());
        let thread = {
            let (plan, targets, recorder) = (plan.clone(), targets.clone(), recorder.clone());
            let (stopping, ended, drained) = (stopping.clone(), ended.clone(), drained.clone());
            thread::Builder::new().name("load".to_owned()).spawn(move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default())?;
                let shared = Rc::new(Shared {
                    targets,
                    recorder,
                    run,
                    stopping,
                    ended,
                    drained,
                    sessions: RefCell::default(),
                });
                runtime.block_on(run_all(&plan, &shared));
                Ok(())
            })?
        };
        Ok(Self {
            recorder: recorder.clone(),
            run,
            prefix: targets.names().prefix().to_owned(),
            stopping,
            ended,
            drained,
            thread: Some(thread),
        })
    }

    /// Stops new messages and calls; readers continue.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Whether, after [`Load::stop`], no device waits for an acknowledgement, or the wait has timed out.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed) || self.thread.as_ref().is_none_or(thread::JoinHandle::is_finished)
    }

    /// Ends the load, and returns the ledger of acknowledgements.
    ///
    /// # Errors
    /// When the load's thread has failed.
    pub fn end(mut self) -> Result<Ledger> {
        self.stop();
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("the load panicked"))??;
        }
        let mut ledger = Ledger::new(self.run, &self.prefix, PAYLOAD_BYTES);
        ledger.devices.clone_from(&self.recorder.history().spans);
        Ok(ledger)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run_all(plan: &LoadPlan, shared: &Rc<Shared>) {
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let mut rng = || StdRng::seed_from_u64(rng.random());
    let mut senders: Vec<JoinHandle<()>> = Vec::new();
    for number in 0..plan.devices + plan.revocable {
        let task = match Protocol::of(number, plan.devices) {
            Protocol::Https => {
                let device = device::run_https(shared.clone(), number, rng());
                holdfast_tasks::spawn_local("device", Box::pin(device))
            }
            protocol => {
                let device = device::run(shared.clone(), number, protocol, rng());
                holdfast_tasks::spawn_local("device", Box::pin(device))
            }
        };
        senders.push(task);
    }
    let mut others: Vec<JoinHandle<()>> = Vec::new();
    let keys = registry::Keys::new(rng());
    for _ in 0..plan.writers {
        let writer = registry::run(shared.clone(), keys.clone(), rng());
        others.push(holdfast_tasks::spawn_local("writer", Box::pin(writer)));
    }
    let (first, middle, end) = (
        plan.devices,
        plan.devices + plan.revocable / 2,
        plan.devices + plan.revocable,
    );
    for devices in [first..middle, middle..end]
        .into_iter()
        .filter(|devices| !devices.is_empty())
    {
        let revoker = revoker::run(shared.clone(), devices, rng());
        others.push(holdfast_tasks::spawn_local("revoker", Box::pin(revoker)));
    }
    let down = down::start(shared, end..end + plan.commanded, &mut rng);
    senders.extend(down.back_ends);
    others.extend(down.devices);
    if plan.writers > 0 {
        let steady = (0..plan.devices).chain(end..end + plan.commanded);
        let steady = steady.map(|number| shared.targets.names().name(number)).collect();
        let asking = queries::run(shared.clone(), steady, rng());
        others.push(holdfast_tasks::spawn_local("asking-back-end", Box::pin(asking)));
    }
    for reader in 0..plan.readers {
        for partition in 0..plan.partitions {
            let follower = reader::run(shared.clone(), reader, partition, rng());
            others.push(holdfast_tasks::spawn_local("reader", Box::pin(follower)));
        }
    }
    while !shared.is_stopping() {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    // Devices end by themselves once all their messages are acknowledged, the back ends of the way down after a last look.
    let deadline = tokio::time::Instant::now() + DRAIN;
    for sender in &mut senders {
        let _ = tokio::time::timeout_at(deadline, sender).await;
    }
    shared.drained.store(true, Ordering::Relaxed);
    while !shared.is_ended() {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    for task in senders.iter().chain(&others) {
        task.abort();
    }
    let now = shared.recorder.now();
    let mut history = shared.recorder.history();
    for session in shared.sessions.borrow().iter() {
        let session = session.borrow();
        let number = session.number;
        if !session.is_sessionless {
            history.connections.push(session.connection(now));
        }
        history.spans.entry(number).or_default().push(session.span());
    }
}
