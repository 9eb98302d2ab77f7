//! What it costs a server to let a device in: connections that open, are accepted and close, in a closed loop.
//!
//! Why: a hub's devices come back all at once after every outage, and the cost of one connect decides how long that takes. The
//! same clients measure a hub and a bare TLS server ([`crate::accept_tls`]), so that the difference is the hub's.
//! Invariants: no session is resumed; a client has one connection at a time, and opens the next when the server has closed the
//! last; certificates and tokens are made before the measured time; a refusal is counted by its reason and is no connect.
//! Not here: fleets that stay connected ([`crate::fleet`]).

mod credential;
mod half_open;
mod storm;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tokio::runtime::{Builder, LocalOptions};

pub use self::credential::{Credential, DEVICES_CA, Registration};
pub use self::storm::{StormReport, storm};
use crate::connect::{ConnectionOptions, Door, close, open_as};
use crate::latency::Latency;
use crate::process::{Sample, Usage};
use crate::report::{LatencyReport, VERSION};
use crate::target::{Login, Tls};

/// Before a refused client tries again.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// Different reasons that are kept.
const MAX_REASONS: usize = 100;

/// A device with the credentials that it shows.
#[derive(Clone)]
pub struct Device {
    /// Its CONNECT.
    pub login: Login,
    /// How it speaks TLS, its certificate included; `None`: not at all.
    pub tls: Option<Tls>,
}

/// A run.
pub struct Plan {
    /// The server, as the report names it.
    pub description: String,
    /// The credentials, as the report names them.
    pub credential: Credential,
    /// The transport, as the report names it.
    pub transport: String,
    /// CAs that the hub has.
    pub authorities: u32,
    /// The server's address.
    pub address: SocketAddr,
    /// Local addresses, in turn; empty: the system's choice.
    pub sources: Vec<IpAddr>,
    /// The devices, dealt to the clients in turn.
    pub devices: Vec<Device>,
    /// Clients; each has one connection at a time.
    pub concurrency: usize,
    /// Threads that drive them.
    pub threads: usize,
    /// Options of all connections.
    pub options: ConnectionOptions,
    /// The time before measuring begins.
    pub warmup: Duration,
    /// The measured time.
    pub duration: Duration,
    /// The server's processes.
    pub pids: Vec<u32>,
}

/// CPU time over the measured time.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// Totals.
    #[serde(flatten)]
    pub usage: Usage,
    /// CPU time for each connect, microseconds.
    pub cpu_us_per_connect: f64,
}

impl Cost {
    pub(crate) fn new(usage: Usage, connects: u64) -> Self {
        let cpu_us_per_connect = usage.cpu_us as f64 / connects.max(1) as f64;
        Self {
            usage,
            cpu_us_per_connect,
        }
    }
}

/// The result of a run.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectsReport {
    /// The generator's version.
    pub version: &'static str,
    /// The server.
    pub target: String,
    /// `plain`, `tls13` or `tls12`.
    pub transport: String,
    /// The credentials.
    pub credential: Credential,
    /// CAs that the hub has.
    pub authorities: u32,
    /// Clients.
    pub concurrency: usize,
    /// The measured time.
    pub seconds: f64,
    /// Connections that were accepted in the measured time.
    pub connects: u64,
    /// Connections a second.
    pub rate: f64,
    /// From the begin of the TCP connection to CONNACK.
    pub latency_us: LatencyReport,
    /// Connections that were not accepted, by reason, warm-up included.
    pub refused: BTreeMap<String, u64>,
    /// This process.
    pub generator: Cost,
    /// The server, when its processes were given.
    pub server: Option<Cost>,
}

impl fmt::Display for ConnectsReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "target          {} ({}, {}), {} clients",
            self.target, self.transport, self.credential, self.concurrency
        )?;
        let (connects, seconds, rate) = (self.connects, self.seconds, self.rate);
        writeln!(f, "connected       {connects} in {seconds:.2} s: {rate:.0} a second")?;
        writeln!(f, "accepted by     {}", self.latency_us)?;
        let line = |f: &mut fmt::Formatter<'_>, name, cost: &Cost| {
            let (cpu, cores) = (cost.cpu_us_per_connect, cost.usage.cores);
            writeln!(f, "{name:<15} {cpu:.1} µs CPU a connect, {cores:.2} cores")
        };
        line(f, "generator", &self.generator)?;
        self.server.iter().try_for_each(|server| line(f, "server", server))?;
        show_reasons(f, "refused", &self.refused)
    }
}

pub(crate) fn show_reasons(f: &mut fmt::Formatter<'_>, name: &str, reasons: &BTreeMap<String, u64>) -> fmt::Result {
    let mut lines = reasons.iter();
    lines.try_for_each(|(reason, count)| writeln!(f, "{name:<15} {count} × {reason}"))
}

/// Counts that all threads share.
#[derive(Default)]
struct Tally {
    connects: AtomicU64,
    is_measuring: AtomicBool,
    is_over: AtomicBool,
    refused: Reasons,
}

/// Reasons with their counts, of a bounded number.
#[derive(Default)]
pub(crate) struct Reasons(Mutex<BTreeMap<String, u64>>);

impl Reasons {
    pub(crate) fn add(&self, error: &anyhow::Error) {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = format!("{error:#}");
        if reasons.len() < MAX_REASONS || reasons.contains_key(&reason) {
            *reasons.entry(reason).or_default() += 1;
        }
    }

    pub(crate) fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

struct Mark {
    at: Instant,
    connects: u64,
    own: Sample,
    server: Option<Sample>,
}

impl Mark {
    fn take(tally: &Tally, pids: &[u32]) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            connects: tally.connects.load(Ordering::Relaxed),
            own: Sample::own()?,
            server: (!pids.is_empty()).then(|| Sample::take(pids)).transpose()?,
        })
    }
}

/// Opens and closes connections for the time of the plan.
///
/// # Errors
/// When the plan is inconsistent or no runtime can be started; refusals are part of the report.
pub fn run(plan: Plan) -> Result<ConnectsReport> {
    ensure!(
        plan.concurrency > 0 && plan.threads > 0 && plan.devices.len() >= plan.concurrency,
        "a client needs a device of its own: {} clients, {} devices",
        plan.concurrency,
        plan.devices.len()
    );
    let (plan, tally) = (Arc::new(plan), Arc::new(Tally::default()));
    let mut threads = Vec::new();
    for index in 0..plan.threads {
        let (plan, tally) = (Arc::clone(&plan), Arc::clone(&tally));
        let builder = thread::Builder::new().name(format!("connects-{index}"));
        threads.push(builder.spawn(move || run_thread(&plan, &tally, index))?);
    }
    thread::sleep(plan.warmup);
    tally.is_measuring.store(true, Ordering::Relaxed);
    let start = Mark::take(&tally, &plan.pids);
    thread::sleep(plan.duration);
    let end = Mark::take(&tally, &plan.pids);
    tally.is_over.store(true, Ordering::Relaxed);
    let mut latency = Latency::default();
    for thread in threads {
        let share = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        latency.merge(&share);
    }
    let (start, end) = (start?, end?);
    let (connects, seconds) = (
        end.connects - start.connects,
        end.at.duration_since(start.at).as_secs_f64(),
    );
    let server = start.server.zip(end.server);
    Ok(ConnectsReport {
        version: VERSION,
        target: plan.description.clone(),
        transport: plan.transport.clone(),
        credential: plan.credential,
        authorities: plan.authorities,
        concurrency: plan.concurrency,
        seconds,
        connects,
        rate: connects as f64 / seconds,
        latency_us: (&latency).into(),
        refused: tally.refused.take(),
        generator: Cost::new(end.own.since(&start.own), connects),
        server: server.map(|(from, to)| Cost::new(to.since(&from), connects)),
    })
}

fn run_thread(plan: &Arc<Plan>, tally: &Arc<Tally>, index: usize) -> Result<Latency> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .context("cannot start a runtime")?;
    let latency = std::rc::Rc::new(std::cell::RefCell::new(Latency::default()));
    runtime.block_on(async {
        let clients = (0..plan.concurrency).skip(index).step_by(plan.threads);
        let tasks: Vec<_> = clients
            .map(|client| {
                let (plan, tally, latency) = (Arc::clone(plan), Arc::clone(tally), latency.clone());
                let work = async move { run_client(&plan, &tally, &latency, client).await };
                holdfast_tasks::spawn_local("client", Box::pin(work))
            })
            .collect();
        futures_util::future::join_all(tasks).await;
    });
    Ok(latency.take())
}

/// The devices of a client one after the other, again and again.
async fn run_client(plan: &Plan, tally: &Tally, latency: &std::cell::RefCell<Latency>, client: usize) {
    let addresses = [plan.address];
    let own = plan.devices.iter().skip(client).step_by(plan.concurrency);
    for device in own.cycle() {
        if tally.is_over.load(Ordering::Relaxed) {
            return;
        }
        let door = Door {
            addresses: &addresses,
            source: source(&plan.sources, client),
            names_server: false,
        };
        let started = Instant::now();
        match open_as(door, device.tls.as_ref(), &device.login, plan.options).await {
            Ok(stream) => {
                if tally.is_measuring.load(Ordering::Relaxed) {
                    let took = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
                    latency.borrow_mut().add(took);
                }
                close(stream).await;
                // Counted when it is closed: the end of a connection is part of what it costs.
                tally.connects.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                tally.refused.add(&error);
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

fn source(sources: &[IpAddr], number: usize) -> Option<IpAddr> {
    (!sources.is_empty()).then(|| sources[number % sources.len()])
}
