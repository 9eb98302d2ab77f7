//! Load on the way down: back ends that write twins or invoke methods, and the devices that receive.
//!
//! Why: the times that users notice end at the device or come back from it, so writer and device are one process with one
//! clock.
//! Invariants: devices run on a thread of their own and callers on another, so that neither waits for the other's work; a
//! caller has one request in flight; a refusal is counted and never part of a figure.
//! Not here: messages to devices, and load from devices to the hub ([`crate::fleet`]).

mod broadcast;
mod caller;
mod device;
mod fleet;
mod packet;
mod report;
mod tally;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use self::broadcast::{Broadcast, BroadcastReport};
use self::caller::{Addressee, Caller, NOTICES, Request, Service};
use self::device::{DESIRED, Device, METHODS, Role, TWIN_ANSWERS};
use self::fleet::Receivers;
pub use self::report::DownReport;
use self::tally::{Pace, Tally};
use crate::connect::ConnectionOptions;
use crate::hub::Hub;
use crate::process::Sample;
use crate::report::{ProcessReport, VERSION};
use crate::target::{Target, Transport};

/// Connections that are being opened at once.
const HANDSHAKES_AT_ONCE: usize = 32;
/// How long requests in flight may take after the measured time.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(35);

/// The load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// Connected devices; each patch of desired properties is awaited at its device.
    TwinLatency,
    /// Patches of desired properties of devices that are not connected.
    TwinWrites,
    /// Devices report properties over MQTT.
    TwinReports,
    /// Methods of devices that answer at once, or after a given time.
    Methods,
    /// One patch of desired properties for each of many connected devices; it ends when all have it.
    TwinBroadcast,
}

/// A run.
pub struct Plan {
    /// The hub.
    pub hub: Hub,
    /// How devices reach it.
    pub target: Target,
    /// The hub, as the report names it.
    pub description: String,
    /// The load.
    pub shape: Shape,
    /// The number of the first device.
    pub first: u32,
    /// How many devices.
    pub devices: u32,
    /// Back ends' connections, one request in flight on each; unused by [`Shape::TwinReports`].
    pub callers: u32,
    /// Options of the devices' connections.
    pub options: ConnectionOptions,
    /// Requests a second of all callers together; `None`: each at once after the other.
    pub rate: Option<f64>,
    /// How long a device takes to answer a method. Latencies are without it.
    pub answer_after: Duration,
    /// The time before measuring begins.
    pub warmup: Duration,
    /// The measured time.
    pub duration: Duration,
    /// The server's processes, to measure their resource usage.
    pub pids: Vec<u32>,
    /// What only [`Shape::TwinBroadcast`] uses; it has neither warm-up nor duration.
    pub broadcast: Broadcast,
}

struct Mark {
    at: Instant,
    own: Sample,
    server: Option<Sample>,
}

impl Mark {
    fn take(pids: &[u32]) -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            own: Sample::own()?,
            server: (!pids.is_empty()).then(|| Sample::take(pids)).transpose()?,
        })
    }
}

/// Runs the load and measures it; calls `begun` when the measured time begins.
///
/// # Errors
/// When the hub cannot be reached, or refuses a device.
pub fn run(plan: Plan, begun: impl FnOnce()) -> Result<DownReport> {
    let callers = if plan.shape == Shape::TwinReports {
        plan.devices
    } else {
        plan.callers
    };
    ensure!(plan.devices > 0 && callers > 0, "no devices, or no callers");
    ensure!(plan.rate.is_none_or(|rate| rate > 0.0), "a rate is more than 0");
    ensure!(
        plan.shape == Shape::Methods || plan.answer_after.is_zero(),
        "only devices of methods take time to answer"
    );
    ensure!(
        plan.shape != Shape::TwinLatency || callers <= plan.devices,
        "a device has one writer, so that its patches are told apart: at most {} callers",
        plan.devices
    );
    if plan.shape == Shape::TwinBroadcast {
        return broadcast::run(plan, begun);
    }
    let target = Arc::new(plan.target);
    let tally = Rc::new(Tally::new());
    let mut addressees: Vec<Addressee> = (plan.first..plan.first + plan.devices)
        .map(|number| Addressee {
            name: target.names.name(number),
            notices: None,
        })
        .collect();
    let receivers = match plan.shape {
        Shape::TwinLatency => {
            let roles = addressees.iter_mut().map(|addressee| {
                let (writer, notices) = mpsc::channel(NOTICES);
                addressee.notices = Some(notices);
                Role::Notify(writer)
            });
            Some(Receivers::start(
                &target,
                plan.options,
                plan.first,
                roles.collect(),
                DESIRED,
            )?)
        }
        Shape::Methods => {
            let roles = (0..plan.devices).map(|_| Role::Answer(plan.answer_after));
            Some(Receivers::start(
                &target,
                plan.options,
                plan.first,
                roles.collect(),
                METHODS,
            )?)
        }
        Shape::TwinWrites | Shape::TwinReports | Shape::TwinBroadcast => None,
    };
    let runtime = local_runtime()?;
    let paces = (0..callers).map(|index| Pace::new(plan.rate, index, callers));
    let (start, end) = runtime.block_on(async {
        let tasks = if plan.shape == Shape::TwinReports {
            start_reporters(&target, plan.options, plan.first, paces.collect(), &tally).await?
        } else {
            let service = Rc::new(service(&plan.hub)?);
            let request = if plan.shape == Shape::Methods {
                Request::Invoke
            } else {
                Request::Patch
            };
            let callers = shares(addressees, callers as usize).into_iter().zip(paces).enumerate();
            let callers = callers.map(|(index, (addressees, pace))| Caller {
                service: service.clone(),
                tally: tally.clone(),
                request: request.clone(),
                answer_after: plan.answer_after,
                index,
                addressees,
                pace,
            });
            start_callers(callers.collect()).await?
        };
        tokio::time::sleep(plan.warmup).await;
        begun();
        measure(&tally, tasks, plan.duration, &plan.pids).await
    })?;
    let failures = receivers.map(Receivers::stop).transpose()?.unwrap_or_default().failures;
    let seconds = end.at.duration_since(start.at).as_secs_f64();
    let notified = |latency: &std::cell::RefCell<crate::latency::Latency>| {
        (plan.shape == Shape::TwinLatency).then(|| (&*latency.borrow()).into())
    };
    let usage = start.server.zip(end.server).map(|(from, to)| to.since(&from));
    Ok(DownReport {
        version: VERSION,
        target: plan.description,
        shape: plan.shape,
        devices: plan.devices,
        callers,
        seconds,
        done: tally.done(),
        rate: tally.done() as f64 / seconds,
        latency_us: (&*tally.answered.borrow()).into(),
        notified_from_request_us: notified(&tally.notified_from_request),
        notified_from_answer_us: notified(&tally.notified_from_answer),
        broadcast: None,
        refused: tally.reasons(),
        failures,
        generator: ProcessReport::new(end.own.since(&start.own), tally.done()),
        server: usage.map(|usage| ProcessReport::new(usage, tally.done())),
    })
}

/// How back ends reach the hub.
fn service(hub: &Hub) -> Result<Service> {
    Ok(Service {
        nodes: hub.https_nodes()?,
        host: hub.0.host_name.clone(),
        tls: hub.tls(Transport::Tls13)?,
        token: hub.owner_token(Duration::from_secs(24 * 3600))?,
    })
}

/// Deals the devices to the callers. Where there are more callers, several have the same device.
fn shares(devices: Vec<Addressee>, callers: usize) -> Vec<Vec<Addressee>> {
    let mut shares: Vec<Vec<Addressee>> = (0..callers).map(|_| Vec::new()).collect();
    let names: Vec<String> = devices.iter().map(|device| device.name.clone()).collect();
    for (index, device) in devices.into_iter().enumerate() {
        shares[index % callers].push(device);
    }
    for (index, share) in shares.iter_mut().enumerate().skip(names.len()) {
        share.push(Addressee {
            name: names[index % names.len()].clone(),
            notices: None,
        });
    }
    shares
}

async fn start_callers(callers: Vec<Caller>) -> Result<Vec<JoinHandle<()>>> {
    let connected: Vec<_> = stream::iter(callers)
        .map(async |caller| caller.connect().await.map(|client| (caller, client)))
        .buffered(HANDSHAKES_AT_ONCE)
        .try_collect()
        .await
        .context("connecting a caller")?;
    let start = |(caller, client): (Caller, _)| holdfast_tasks::spawn_local("caller", Box::pin(caller.run(client)));
    Ok(connected.into_iter().map(start).collect())
}

async fn start_reporters(
    target: &Arc<Target>,
    options: ConnectionOptions,
    first: u32,
    paces: Vec<Pace>,
    tally: &Rc<Tally>,
) -> Result<Vec<JoinHandle<()>>> {
    let devices: Vec<Device> = stream::iter(first..first + paces.len() as u32)
        .map(|number| Device::open(target, options, number, TWIN_ANSWERS))
        .buffered(HANDSHAKES_AT_ONCE)
        .try_collect()
        .await
        .context("connecting a device")?;
    let start = |(device, pace)| {
        let reporter = report_properties(device, pace, tally.clone());
        holdfast_tasks::spawn_local("reporter", Box::pin(reporter))
    };
    Ok(devices.into_iter().zip(paces).map(start).collect())
}

async fn report_properties(mut device: Device, mut pace: Pace, tally: Rc<Tally>) {
    let mut number = u64::from(rand::random::<u32>()) << 16;
    loop {
        pace.wait().await;
        if tally.is_over() {
            return;
        }
        number += 1;
        let requested = Instant::now();
        match device.report(number).await {
            Ok(204) => tally.answered(requested.elapsed()),
            Ok(status) => tally.refused(format!("a report is answered with {status}")),
            Err(error) => return tally.refused(format!("a reporting device: {error:#}")),
        }
    }
}

async fn measure(tally: &Tally, tasks: Vec<JoinHandle<()>>, duration: Duration, pids: &[u32]) -> Result<(Mark, Mark)> {
    let start = Mark::take(pids)?;
    tally.begin();
    tokio::time::sleep(duration).await;
    tally.end();
    let end = Mark::take(pids)?;
    let drained = futures_util::future::join_all(tasks);
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tally.refused(format!("no answer within {} s", DRAIN_TIMEOUT.as_secs()));
    }
    Ok((start, end))
}

fn local_runtime() -> Result<LocalRuntime> {
    let mut builder = Builder::new_current_thread();
    let builder = builder.enable_all();
    builder
        .build_local(LocalOptions::default())
        .context("cannot start a runtime")
}
