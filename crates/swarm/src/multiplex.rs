//! Gateways: N AMQP connections of M devices each, which use everything that a device has at once, and the back ends that call them.
//!
//! Why: a gateway's devices share a connection, its windows and one task of the hub, so one device's load can delay another's. This load shows
//! whether each gets its share, and whether anything fails in a long run.
//! Invariants: devices and back ends have one clock, so times from one to the other are measured; every end of a connection and every
//! refusal is counted as an error; nothing is repeated.
//! Not here: telemetry alone ([`crate::fleet`]).

mod back_end;
mod gateway;
mod report;
mod traffic;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::{Builder, LocalOptions};

use self::back_end::{BackEnd, Kind};
use self::gateway::Gateway;
pub use self::report::{Feature, MultiplexReport, Shares};
use self::traffic::Traffic;
use crate::hub::Hub;
use crate::process::Sample;
use crate::report::{ProcessReport, VERSION};
use crate::target::{Target, Transport};

/// Connections that are being opened at once.
const CONNECTS_AT_ONCE: usize = 8;
/// The lifetime of the back ends' token.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long requests and messages in flight may take at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// A run.
pub struct Plan {
    /// The hub.
    pub hub: Hub,
    /// How devices reach it.
    pub target: Target,
    /// The hub, as the report names it.
    pub description: String,
    /// The number of the first device.
    pub first: u32,
    /// Connections.
    pub connections: u32,
    /// Devices of each.
    pub devices_a_connection: u32,
    /// Unsettled messages that each device keeps in flight.
    pub window: usize,
    /// Messages a second of all devices together; `None`: as many as the window allows.
    pub rate: Option<f64>,
    /// Reports of properties a second of all devices together.
    pub reports: f64,
    /// Back ends' connections; each has one request in flight, of the three kinds in turn.
    pub callers: u32,
    /// Requests a second of all callers together.
    pub calls: f64,
    /// Payload of each message, bytes.
    pub payload_bytes: usize,
    /// The measured time.
    pub duration: Duration,
    /// The server's processes, to measure their resource usage.
    pub pids: Vec<u32>,
}

/// Runs the load; calls `begun` when all devices are connected.
///
/// # Errors
/// When the hub cannot be reached, or refuses a device.
pub fn run(plan: Plan, begun: impl FnOnce()) -> Result<MultiplexReport> {
    ensure!(plan.connections > 0 && plan.devices_a_connection > 0, "no devices");
    ensure!(
        plan.rate.is_none_or(|rate| rate > 0.0) && plan.reports > 0.0 && plan.calls > 0.0,
        "a rate is more than 0"
    );
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .context("cannot start a runtime")?;
    runtime.block_on(run_here(plan, begun))
}

async fn run_here(plan: Plan, begun: impl FnOnce()) -> Result<MultiplexReport> {
    let devices = plan.connections * plan.devices_a_connection;
    let traffic = Rc::new(Traffic::new(devices as usize));
    let target = Arc::new(plan.target);
    let pace = Pace {
        telemetry: plan.rate.map(|rate| Duration::from_secs_f64(f64::from(devices) / rate)),
        reports: Duration::from_secs_f64(f64::from(devices) / plan.reports),
        window: plan.window,
        payload_bytes: plan.payload_bytes,
    };
    let gateways: Vec<Gateway> = stream::iter(0..plan.connections)
        .map(|index| {
            let from = index * plan.devices_a_connection;
            let numbers = plan.first + from..plan.first + from + plan.devices_a_connection;
            Gateway::open(&target, numbers, from as usize, pace, traffic.clone())
        })
        .buffer_unordered(CONNECTS_AT_ONCE)
        .try_collect()
        .await
        .context("connecting a gateway")?;
    let nodes = plan.hub.https_nodes()?;
    let (host, tls) = (plan.hub.0.host_name.clone(), plan.hub.tls(Transport::Tls13)?);
    let token = plan.hub.owner_token(TOKEN_LIFETIME)?;
    let mut back_ends = Vec::new();
    for index in 0..plan.callers {
        let back_end = BackEnd {
            nodes: nodes.clone(),
            host: host.clone(),
            tls: tls.clone(),
            token: token.clone(),
            index,
            every: Duration::from_secs_f64(f64::from(plan.callers) / plan.calls),
            names: target.names.clone(),
            first: plan.first,
            devices,
            traffic: traffic.clone(),
        };
        let client = back_end.connect().await.context("connecting a back end")?;
        back_ends.push((back_end, client));
    }
    begun();
    let before = Mark::take(&plan.pids)?;
    let over = Rc::new(Cell::new(false));
    let mut tasks = Vec::new();
    for gateway in gateways {
        tasks.push(holdfast_tasks::spawn_local(
            "gateway",
            Box::pin(gateway.run(over.clone())),
        ));
    }
    traffic.callers.set(back_ends.len());
    for (back_end, client) in back_ends {
        let (traffic, over) = (traffic.clone(), over.clone());
        tasks.push(holdfast_tasks::spawn_local(
            "back-end",
            Box::pin(async move {
                let first = Kind::of(back_end.index);
                back_end.run(client, first, over).await;
                traffic.callers.set(traffic.callers.get() - 1);
            }),
        ));
    }
    tokio::time::sleep(plan.duration).await;
    let after = Mark::take(&plan.pids)?;
    over.set(true);
    let drained = futures_util::future::join_all(tasks);
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        traffic.error(format!("not everything was answered within {} s", DRAIN.as_secs()));
    }
    let seconds = after.at.duration_since(before.at).as_secs_f64();
    let messages = traffic.acknowledged_in_all();
    let usage = before.server.zip(after.server).map(|(from, to)| to.since(&from));
    Ok(MultiplexReport {
        version: VERSION,
        target: plan.description,
        connections: plan.connections,
        devices_a_connection: plan.devices_a_connection,
        seconds,
        telemetry: traffic.telemetry.report(seconds),
        reported: traffic.reported.report(seconds),
        desired: traffic.desired.report(seconds),
        methods: traffic.methods.report(seconds),
        messages: traffic.messages.report(seconds),
        desired_sent: traffic.desired_sent.get(),
        messages_sent: traffic.messages_sent.get(),
        shares: traffic.shares(),
        errors: traffic.errors(),
        generator: ProcessReport::new(after.own.since(&before.own), messages),
        server: usage.map(|usage| ProcessReport::new(usage, messages)),
    })
}

/// How the devices of a gateway work.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Between two messages of a device; `None`: as the window allows.
    telemetry: Option<Duration>,
    /// Between two reports of a device.
    reports: Duration,
    window: usize,
    payload_bytes: usize,
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
