//! Devices that register with the provisioning service of a hub, by keys derived from those of enrollment groups.
//!
//! Why: a fleet boots at once, and how long it takes to onboard it, and whether each device is at one hub afterwards, is what the service
//! is there for.
//! Invariants: a device is counted when it has been answered `assigned`; it repeats its registration until then, so that a lost answer or a
//! node that stops costs time and no device; the keys of the groups are derived from the service's own, so that a later run knows them.
//! Not here: certificates, TPMs, other protocols than HTTPS.

mod device;
mod groups;
mod ledger;
mod report;
mod verify;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use tokio::runtime::Builder;

use self::device::Client;
pub use self::groups::{Fleet, Naming};
pub use self::ledger::{Assigned, Ledger};
pub use self::report::{Connecting, ProvisionReport};
pub use self::verify::{AssignmentVerdict, verify};
use crate::connects::{Cost, Reasons};
use crate::latency::Latency;
use crate::process::Sample;
use crate::report::VERSION;
use crate::target::Tls;

/// How long a device repeats its registration.
const MAX_TRYING: Duration = Duration::from_secs(300);

/// A run.
pub struct Plan {
    /// The service, as the report names it.
    pub description: String,
    /// The devices and their groups.
    pub fleet: Fleet,
    /// The first device, and how many.
    pub devices: (u32, u32),
    /// The addresses of the nodes; a client begins at one and takes the next one when it fails.
    pub addresses: Vec<SocketAddr>,
    /// Local addresses, in turn; empty: the system's choice.
    pub sources: Vec<IpAddr>,
    /// How clients speak TLS.
    pub tls: Tls,
    /// Whether each device has a connection of its own.
    pub connecting: Connecting,
    /// Clients; each registers one device at a time.
    pub concurrency: usize,
    /// Threads that drive them.
    pub threads: usize,
    /// Where assigned devices are recorded.
    pub ledger: Option<Ledger>,
    /// The server's processes.
    pub pids: Vec<u32>,
}

/// What all threads share.
#[derive(Default)]
struct Tally {
    next: AtomicU32,
    polls: AtomicU64,
    lost: AtomicU64,
    is_failed: AtomicBool,
    failures: Reasons,
}

/// What a thread has seen.
#[derive(Default)]
struct Share {
    latency: Latency,
    /// By hub.
    assigned: BTreeMap<String, u64>,
}

/// Registers the devices of the plan.
///
/// # Errors
/// When the plan is inconsistent, a device is refused for good, or the ledger cannot be written.
pub fn run(plan: Plan) -> Result<ProvisionReport> {
    ensure!(
        plan.concurrency > 0 && plan.threads > 0 && !plan.addresses.is_empty(),
        "a run needs clients, threads and an address"
    );
    let tally = Arc::new(Tally::default());
    let plan = Arc::new(plan);
    let sample = || (!plan.pids.is_empty()).then(|| Sample::take(&plan.pids)).transpose();
    let (own, server, started) = (Sample::own()?, sample()?, Instant::now());
    let mut threads = Vec::new();
    for index in 0..plan.threads {
        let (plan, tally) = (Arc::clone(&plan), Arc::clone(&tally));
        let builder = thread::Builder::new().name(format!("provision-{index}"));
        threads.push(builder.spawn(move || run_thread(&plan, &tally, index))?);
    }
    let mut whole = Share::default();
    for thread in threads {
        let share = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        whole.latency.merge(&share.latency);
        for (hub, count) in share.assigned {
            *whole.assigned.entry(hub).or_default() += count;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    if let Some(ledger) = &plan.ledger {
        ledger.flush()?;
    }
    let registered: u64 = whole.assigned.values().sum();
    let own = Cost::new(Sample::own()?.since(&own), registered);
    // A run that restarts the server measures the devices, not the server.
    let server = server.zip(sample().ok().flatten());
    Ok(ProvisionReport {
        version: VERSION,
        target: plan.description.clone(),
        connecting: plan.connecting,
        groups: plan.fleet.groups,
        concurrency: plan.concurrency,
        devices: plan.devices.1,
        seconds,
        registered,
        lost: tally.lost.load(Ordering::Relaxed),
        rate: registered as f64 / seconds,
        latency_us: (&whole.latency).into(),
        polls: tally.polls.load(Ordering::Relaxed),
        hubs: whole.assigned,
        failures: tally.failures.take(),
        generator: own,
        server: server.map(|(from, to)| Cost::new(to.since(&from), registered)),
    })
}

fn run_thread(plan: &Arc<Plan>, tally: &Arc<Tally>, index: usize) -> Result<Share> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let share = RefCell::new(Share::default());
    let clients = (0..plan.concurrency).skip(index).step_by(plan.threads);
    let clients = clients.map(async |client| {
        let ended = run_client(plan, tally, &share, client).await;
        ended.inspect_err(|_| tally.is_failed.store(true, Ordering::Relaxed))
    });
    let outcomes = runtime.block_on(join_all(clients));
    outcomes.into_iter().collect::<Result<()>>()?;
    Ok(share.take())
}

/// Registers devices until none is left.
async fn run_client(plan: &Plan, tally: &Tally, share: &RefCell<Share>, number: usize) -> Result<()> {
    let mut client = Client::new(plan, tally, number);
    let (first, count) = plan.devices;
    loop {
        let at = tally.next.fetch_add(1, Ordering::Relaxed);
        if at >= count || tally.is_failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        let device = plan.fleet.device(first + at);
        let started = Instant::now();
        let registering = tokio::time::timeout(MAX_TRYING, client.register(&device)).await;
        let Ok(assigned) = registering else {
            tally.lost.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let assigned = assigned?;
        let took = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX);
        let mut share = share.borrow_mut();
        share.latency.add(took);
        match share.assigned.get_mut(&assigned.hub) {
            Some(count) => *count += 1,
            None => drop(share.assigned.insert(assigned.hub.clone(), 1)),
        }
        if let Some(ledger) = &plan.ledger {
            ledger.record(&assigned)?;
        }
    }
}
