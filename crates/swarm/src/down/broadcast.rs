//! One patch of desired properties for each device of a connected fleet, and the time until it has it.
//!
//! A patch carries the microsecond at which it was requested, so that the devices' thread alone knows how long it took.
//! Some devices may be deaf: they subscribe and never read, as one whose network is stuck; what the hub holds for
//! them shows in the growth of its memory.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::caller::{Addressee, Caller, Request};
use super::device::{DESIRED, Role};
use super::fleet::Receivers;
use super::report::DownReport;
use super::tally::{Pace, Tally};
use super::{Mark, Plan, Shape, local_runtime, service, shares, start_callers};
use crate::report::{ProcessReport, VERSION};
use crate::target::Target;

/// How long after the last answer devices may wait for their patch.
const NOTIFICATION_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is checked whether all have it.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Options of a broadcast.
#[derive(Debug, Clone, Copy)]
pub struct Broadcast {
    /// How many devices, from the first one on, never read.
    pub deaf: u32,
    /// How many patches each device gets.
    pub rounds: u32,
    /// Bytes of text in each patch.
    pub padding: usize,
}

/// What only a broadcast reports.
#[derive(Debug, Clone, Serialize)]
pub struct BroadcastReport {
    /// Devices that never read.
    pub deaf: u32,
    /// Patches of each device.
    pub rounds: u32,
    /// Patches that have reached their devices.
    pub notified: u64,
    /// Patches of devices that read that were answered and have not come.
    pub missing: u64,
    /// Growth of the server's anonymous memory while the devices connected, bytes a device.
    pub connected_bytes_per_device: Option<f64>,
    /// Growth from then until the last patch, bytes a device.
    pub broadcast_bytes_per_device: Option<f64>,
}

/// When a patch was requested and when it has come, on one clock.
#[derive(Debug)]
pub(super) struct Stopwatch {
    begun: Instant,
    notified: AtomicU64,
}

impl Stopwatch {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            notified: AtomicU64::new(0),
        }
    }

    /// The microsecond of now: the number of a patch.
    pub(super) fn number(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Counts the patch of this number, and says how long it took.
    pub(super) fn arrived(&self, number: u64) -> Duration {
        self.notified.fetch_add(1, Ordering::Relaxed);
        Duration::from_micros(self.number().saturating_sub(number))
    }

    fn notified(&self) -> u64 {
        self.notified.load(Ordering::Relaxed)
    }
}

/// Runs a broadcast; calls `begun` when the devices are connected.
///
/// # Errors
/// As [`super::run`].
pub(super) fn run(plan: Plan, begun: impl FnOnce()) -> Result<DownReport> {
    let broadcast = plan.broadcast;
    ensure!(broadcast.deaf <= plan.devices, "more deaf devices than devices");
    ensure!(broadcast.rounds > 0, "a broadcast has at least one round");
    let target: Arc<Target> = Arc::new(plan.target);
    let stopwatch = Arc::new(Stopwatch::new());
    let roles = (0..plan.devices).map(|index| match index < broadcast.deaf {
        true => Role::Deaf,
        false => Role::Measure(Arc::clone(&stopwatch)),
    });
    let before = Mark::take(&plan.pids)?;
    let receivers = Receivers::start(&target, plan.options, plan.first, roles.collect(), DESIRED)?;
    let names = (plan.first..plan.first + plan.devices).map(|number| Addressee {
        name: target.names.name(number),
        notices: None,
    });
    let callers = plan.callers.min(plan.devices);
    let shares = shares(names.collect(), callers as usize);
    let tally = Rc::new(Tally::new());
    begun();
    let (start, end, missing) = local_runtime()?.block_on(async {
        let service = Rc::new(service(&plan.hub)?);
        let callers = shares.into_iter().enumerate().map(|(index, addressees)| Caller {
            service: Rc::clone(&service),
            tally: Rc::clone(&tally),
            request: Request::Broadcast {
                stopwatch: Arc::clone(&stopwatch),
                rounds: broadcast.rounds,
                padding: "x".repeat(broadcast.padding),
            },
            answer_after: Duration::ZERO,
            index,
            addressees,
            pace: Pace::new(plan.rate, index as u32, callers),
        });
        tally.begin();
        let start = Mark::take(&plan.pids)?;
        let tasks = start_callers(callers.collect()).await?;
        futures_util::future::join_all(tasks).await;
        let reading = u64::from(plan.devices - broadcast.deaf) * u64::from(broadcast.rounds);
        let refused: u64 = tally.reasons().values().sum();
        let all = async {
            while stopwatch.notified() + refused < reading {
                sleep(CHECK_INTERVAL).await;
            }
        };
        let missing = match timeout(NOTIFICATION_TIMEOUT, all).await {
            Ok(()) => 0,
            Err(_) => reading.saturating_sub(stopwatch.notified() + refused),
        };
        anyhow::Ok((start, Mark::take(&plan.pids)?, missing))
    })?;
    let received = receivers.stop()?;
    let seconds = end.at.duration_since(start.at).as_secs_f64();
    let growth = |from: &Mark, to: &Mark| {
        let usage = from.server.zip(to.server).map(|(from, to)| to.since(&from));
        usage.map(|usage| usage.anonymous_growth_kib as f64 * 1024.0 / f64::from(plan.devices))
    };
    let usage = start.server.zip(end.server).map(|(from, to)| to.since(&from));
    Ok(DownReport {
        version: VERSION,
        target: plan.description,
        shape: Shape::TwinBroadcast,
        devices: plan.devices,
        callers,
        seconds,
        done: tally.done(),
        rate: tally.done() as f64 / seconds,
        latency_us: (&*tally.answered.borrow()).into(),
        notified_from_request_us: Some((&received.notified).into()),
        notified_from_answer_us: None,
        broadcast: Some(BroadcastReport {
            deaf: broadcast.deaf,
            rounds: broadcast.rounds,
            notified: stopwatch.notified(),
            missing,
            connected_bytes_per_device: growth(&before, &start),
            broadcast_bytes_per_device: growth(&start, &end),
        }),
        refused: tally.reasons(),
        failures: received.failures,
        generator: ProcessReport::new(end.own.since(&start.own), tally.done()),
        server: usage.map(|usage| ProcessReport::new(usage, tally.done())),
    })
}
